"""A corpus as people have it: trees of files with the same names, joined, stopped half way, grown and changed."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from nemo_workflow.data.indexed_dataset import find_prefixes, read_pair
from nemo_workflow.preprocess import earlier, encoding, journal, outputs, run, streams
from nemo_workflow.preprocess.documents import BOM
from nemo_workflow.preprocess.earlier import identity_of
from nemo_workflow.preprocess.inputs import line_ranges
from nemo_workflow.preprocess.inspect_dataset import check_pair
from nemo_workflow.utils import console
from nemo_workflow.utils.errors import Failure
from tests.later import later
from tests.preprocess.helpers import figures, pair_bytes, write_jsonl
from tests.preprocess.tokenizer_makers import training_texts

datasets = later("datasets")
TEXTS = [*training_texts(12, seed=3), "", "end"]


@pytest.fixture
def tree(tmp_path) -> dict[Path, list[str]]:
    """Files of two sources and two days, every one called part-0 or part-1, and their texts; in the sorted order."""
    made = {}
    for number, name in enumerate(["web/d1/part-0", "web/d1/part-1", "web/d2/part-0", "wiki/part-0", "top"]):
        path = tmp_path / "tree" / f"{name}.jsonl"
        made[write_jsonl(path, [f"{name} {text}" for text in TEXTS[number:]])] = [f"{name} {t}" for t in TEXTS[number:]]
    return dict(sorted(made.items()))


def made_names(out: Path) -> list[str]:
    return [prefix.relative_to(out / "preprocessed").as_posix() for prefix in find_prefixes(out)]


# --- trees ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tree_gives_a_tree_of_pairs(go, tree, tokenizers_dir, reference, tmp_path):
    code, err = go("--input-dir", tmp_path / "tree")
    assert code == 0, err
    expected = ["top", "web/d1/part-0", "web/d1/part-1", "web/d2/part-0", "wiki/part-0"]
    assert made_names(tmp_path / "out") == [f"{name}_text_document" for name in expected]
    for path, texts in tree.items():
        name = path.relative_to(tmp_path / "tree").with_suffix("").as_posix()
        assert pair_bytes(tmp_path / "out", name) == reference(tokenizers_dir / "byte_bpe", texts)


def test_names_globs_lists_and_standard_input(go, tree, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    names = [str(path) for path in tree]
    (tmp_path / "list.txt").write_text("\n".join([*names[1:3], "~/tree/top.jsonl", ""]))
    assert go("--input", "~/tree/w*/**/part-*.jsonl", out="glob")[0] == 0
    assert made_names(tmp_path / "glob") == [
        f"{name}_text_document" for name in ("web/d1/part-0", "web/d1/part-1", "web/d2/part-0", "wiki/part-0")
    ]
    assert go("--input", f"@{tmp_path}/list.txt", out="list")[0] == 0
    assert len(made_names(tmp_path / "list")) == 3
    stdin = io.TextIOWrapper(io.BytesIO("\0".join(names).encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert go("--input", "-", out="stdin")[0] == 0
    assert len(made_names(tmp_path / "stdin")) == 5
    assert go("--input-dir", tmp_path / "tree/web", "--input-dir", tmp_path / "tree/wiki", out="two")[0] == 0
    assert len(made_names(tmp_path / "two")) == 4


def test_the_same_name_in_two_folders(go, tmp_path):
    for name in ("x", "y"):
        write_jsonl(tmp_path / name / "part-0.jsonl", [name])
    code, err = go("--input", tmp_path / "x/part-0.jsonl", tmp_path / "y/part-0.jsonl", tmp_path / "x/part-0.jsonl")
    assert code == 0, err
    assert made_names(tmp_path / "out") == ["x/part-0_text_document", "y/part-0_text_document"]
    assert "named more than once and read once" in err


def test_links(go, tree, tmp_path):
    (tmp_path / "tree" / "linked").symlink_to(tmp_path / "elsewhere")
    write_jsonl(tmp_path / "elsewhere" / "more.jsonl", ["a"])
    assert go("--input-dir", tmp_path / "tree")[0] == 0
    assert "linked/more_text_document" in made_names(tmp_path / "out")
    (tmp_path / "tree" / "web" / "up").symlink_to("..")
    code, err = go("--input-dir", tmp_path / "tree", out="loop")
    assert code == 2
    assert "web/up: a symlink back to a folder above it, which never ends; remove it" in err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://datasets/a/b", "not on this machine; bring it here first: hf download"),
        ("s3://bucket/x.jsonl", "bring it here first: aws s3 cp --recursive s3://bucket/x.jsonl DIR"),
        ("@nolist", "no such list"),
        ("none-*.jsonl", "no file matches"),
    ],
)
def test_names_that_lead_nowhere(name, message, go):
    code, err = go("--input", name)
    assert code == 2 and message in err


def test_empty_files_are_counted(go, tmp_path):
    write_jsonl(tmp_path / "in" / "a.jsonl", ["a"])
    (tmp_path / "in" / "b.jsonl").touch()
    (tmp_path / "in" / "c.jsonl").write_text("\n\n")
    code, err = go("--input-dir", tmp_path / "in")
    assert code == 0
    assert f"skipped 1 empty file: {tmp_path / 'in' / 'b.jsonl'}" in err
    assert f"WARNING: no pair was written for {tmp_path / 'in' / 'c.jsonl'}: no documents in it" in err
    assert made_names(tmp_path / "out") == ["a_text_document"]


# --- one pair -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_joined_is_what_one_builder_makes_of_all(workers, go, tree, tokenizers_dir, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CHUNK", 2000)
    code, err = go("--input-dir", tmp_path / "tree", "--join", "--workers", workers)
    assert code == 0, err
    assert made_names(tmp_path / "out") == ["tree_text_document"]
    expected = reference(tokenizers_dir / "byte_bpe", [text for texts in tree.values() for text in texts])
    assert pair_bytes(tmp_path / "out", "tree") == expected
    made = figures(tmp_path / "out", "tree")
    assert [Path(each["path"]) for each in made["inputs"]] == list(tree)
    assert [each["documents"] for each in made["inputs"]] == list(map(len, tree.values()))


@pytest.mark.slow
def test_one_pair_a_top_folder(go, tree, tokenizers_dir, reference, tmp_path):
    assert go("--input-dir", tmp_path / "tree", "--join", "folder")[0] == 0
    assert made_names(tmp_path / "out") == [f"{name}_text_document" for name in ("tree", "web", "wiki")]
    texts = [text for path, each in tree.items() if "web" in path.parts for text in each]
    assert pair_bytes(tmp_path / "out", "web") == reference(tokenizers_dir / "byte_bpe", texts)


# --- kinds and fields -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_more_kinds_of_files(go, tmp_path):
    plain = write_jsonl(tmp_path / "in" / "plain.jsonl", TEXTS).read_bytes()
    (tmp_path / "in" / "b.jsonl.bz2").write_bytes(bz2.compress(plain[:999]) + bz2.compress(plain[999:]))
    (tmp_path / "in" / "x.jsonl.xz").write_bytes(lzma.compress(plain))
    table = datasets.Dataset.from_dict({"text": TEXTS, "id": list(range(len(TEXTS)))})
    table.save_to_disk(tmp_path / "in" / "saved")
    with (
        pyarrow.OSFile(str(tmp_path / "in" / "f.arrow"), "wb") as sink,
        pyarrow.ipc.new_file(sink, pyarrow.schema([("text", pyarrow.large_string())])) as writer,
    ):
        for begin in range(0, len(TEXTS), 5):
            part = pyarrow.array(TEXTS[begin : begin + 5], pyarrow.large_string())
            writer.write_batch(pyarrow.record_batch([part], ["text"]))
    code, err = go("--input-dir", tmp_path / "in")
    assert code == 0, err
    names = made_names(tmp_path / "out")
    assert len(names) == 5 and "saved/data-00000-of-00001_text_document" in names
    for name in names:
        assert pair_bytes(tmp_path / "out", name.removesuffix("_text_document")) == pair_bytes(
            tmp_path / "out", "plain"
        )


@pytest.mark.slow
def test_text_files_are_a_document_each(go, tokenizers_dir, reference, tmp_path, monkeypatch):
    monkeypatch.setattr("nemo_workflow.preprocess.worker.LONG_TEXT", 300)
    texts = {"a.txt": "one\nline\n", "b.md": "long " * 300 + "世界", "c.txt": "marked"}
    for name, text in texts.items():
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(BOM * (name == "c.txt") + text.encode())
    (tmp_path / "in" / "d.txt.gz").write_bytes(gzip.compress(b"packed"))
    (tmp_path / "in" / "README.txt").write_text("no document")
    (tmp_path / "in" / "README.md").write_text("no document")
    assert go("--input-dir", tmp_path / "in", "--join")[0] == 0
    expected = reference(tokenizers_dir / "byte_bpe", [*texts.values(), "packed"])
    assert pair_bytes(tmp_path / "out", "in") == expected
    (tmp_path / "in" / "e.txt").write_bytes(b"ok\n" * 200 + b"\xff")
    code, err = go("--input-dir", tmp_path / "in", "--join", out="bad")
    assert code == 2
    assert "e.txt:1: invalid UTF-8 in this file: byte 0xff at position 601" in err


@pytest.mark.slow
def test_nested_keys_and_joined_fields(go, tokenizers_dir, reference, tmp_path):
    records = [{"data": {"text": text, "in": {"n": "x"}}, "title": f"t{number}"} for number, text in enumerate(TEXTS)]
    (tmp_path / "n.jsonl").write_text("\n".join(map(json.dumps, records)))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "p.parquet")
    code, err = go("--input", tmp_path / "n.jsonl", tmp_path / "p.parquet", "--json-keys", "data.text, title")
    assert code == 0, err
    expected = reference(tokenizers_dir / "byte_bpe", TEXTS)
    assert pair_bytes(tmp_path / "out", "n", "data.text") == expected
    assert pair_bytes(tmp_path / "out", "p", "data.text") == expected
    assert read_pair(tmp_path / "out/preprocessed/n_title_document").documents == len(TEXTS)
    fields = ["--join-fields", "title,data.text", "--separator", r"\n--\n"]
    assert go("--input", tmp_path / "n.jsonl", tmp_path / "p.parquet", *fields, out="joined")[0] == 0
    texts = [f"t{number}\n--\n{text}" for number, text in enumerate(TEXTS)]
    for name in ("n", "p"):
        assert pair_bytes(tmp_path / "joined", name) == reference(tokenizers_dir / "byte_bpe", texts)
    code, err = go("--input", tmp_path / "n.jsonl", "--json-keys", "data.none", out="no")
    assert code == 2 and "no 'data.none' among 'data', 'title'" in err
    assert (
        "--join-fields: can't be combined with --json-keys"
        in go("--input", tmp_path / "n.jsonl", *fields, "--json-keys", "a", out="no")[1]
    )


def test_joined_fields_of_a_line_too_long_for_memory(go, tmp_path, monkeypatch):
    line = {"title": "t", "text": "word " * 3000}
    (tmp_path / "n.jsonl").write_text(json.dumps(line) + "\n")
    fields = ["--input", tmp_path / "n.jsonl", "--join-fields", "title", "text"]
    assert go(*fields)[0] == 0
    monkeypatch.setattr("nemo_workflow.preprocess.inputs.GIANT", 5000)
    monkeypatch.setattr("nemo_workflow.preprocess.oversized_line.LONG_STRING", 2000)
    assert go(*fields, out="giant")[0] == 0
    assert pair_bytes(tmp_path / "giant", "n") == pair_bytes(tmp_path / "out", "n")


def test_max_bad_is_of_the_whole_input(go, tmp_path):
    write_jsonl(tmp_path / "in" / "a.jsonl", ["x"] * 100)
    (tmp_path / "in" / "b.jsonl").write_bytes(b'{"text": "a"}\nbad\n')
    flags = ["--input-dir", tmp_path / "in", "--on-error", "skip", "--max-bad"]
    assert go(*flags, 1)[0] == 0
    code, err = go(*flags, 0.5, out="less")
    assert code == 2
    assert f"the 2 input files (1 bad lines in {tmp_path / 'in' / 'b.jsonl'}): 1 of 102 lines are bad" in err


# --- going on -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def encoded(monkeypatch) -> list[str]:
    """The names of the inputs of which something is encoded, as they come."""
    seen: list[str] = []
    take = encoding.Encoding._take

    def noting(self, task, result, pool, worker):
        name = self.sources[task.source].path.name
        seen.extend([name] if name not in seen else [])
        take(self, task, result, pool, worker)

    monkeypatch.setattr(encoding.Encoding, "_take", noting)
    return seen


@pytest.mark.parametrize("join", [[], ["--join"]])
def test_a_done_folder_costs_only_what_is_new(join, go, encoded, tmp_path):
    for name in "bdf":
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", [f"{name} {text}" for text in TEXTS])
    call = ["--input-dir", tmp_path / "in", *join]
    assert go(*call)[0] == 0
    assert encoded == ["b.jsonl", "d.jsonl", "f.jsonl"]
    encoded.clear()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/preprocessed").iterdir()}
    assert go(*call)[0] == 0
    assert encoded == [] and before == {path: path.stat().st_mtime_ns for path in before}
    write_jsonl(tmp_path / "in" / "c.jsonl", ["new", *TEXTS])
    assert go(*call)[0] == 0
    assert encoded == ["c.jsonl"]
    encoded.clear()
    changed = write_jsonl(tmp_path / "in" / "d.jsonl", [f"e {text}" for text in TEXTS])  # as many bytes as before
    assert go(*call)[0] == 0
    assert encoded == ["d.jsonl"]
    os.utime(changed, ns=(1, 1))
    assert go(*call, "--workers", 1)[0] == 0
    assert go(*call, out="fresh")[0] == 0
    for name in ["in"] if join else list("bcdf"):
        assert pair_bytes(tmp_path / "out", name) == pair_bytes(tmp_path / "fresh", name)
        one, other = (figures(tmp_path / out, name) for out in ("out", "fresh"))
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    encoded.clear()
    assert go(*call, "--overwrite")[0] == 0
    assert len(encoded) == 4
    assert not list((tmp_path / "out").glob("preprocessed/.*"))


def test_many_small_files_of_a_joined_pair_are_copied_at_a_time(go, encoded, tmp_path, monkeypatch):
    """And each is looked at once: 10,000 files and one more cost as much as encoding all of them did."""
    for number in range(60):
        write_jsonl(tmp_path / "in" / f"{number:02d}.jsonl", [f"{number} {text}" for text in TEXTS])
    call = ["--input-dir", tmp_path / "in", "--join"]
    assert go(*call)[0] == 0
    encoded.clear()
    write_jsonl(tmp_path / "in" / "30a.jsonl", ["new"])
    copied, looked = [], []
    take = encoding.Encoding._take_kept
    monkeypatch.setattr(encoding.Encoding, "_take_kept", lambda *of: (copied.append(len(of[1].ended)), take(*of)))
    for module in (earlier, outputs):
        monkeypatch.setattr(module, "identity_of", lambda source: (looked.append(source.path), identity_of(source))[1])
    assert go(*call)[0] == 0
    assert encoded == ["30a.jsonl"]
    assert copied == [31, 29]
    assert len(looked) == len(set(looked)) == 61
    assert go(*call, out="fresh")[0] == 0
    assert pair_bytes(tmp_path / "out", "in") == pair_bytes(tmp_path / "fresh", "in")
    one, other = (figures(tmp_path / out, "in") for out in ("out", "fresh"))
    assert {**one, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.parametrize("stop_at", [1, 3, 9])
def test_a_run_stopped_while_it_copies(stop_at, go, tmp_path, monkeypatch):
    """Within an input, whose first documents stood in the pair twice then, or between two."""
    for name, copies in (("a", 1), ("b", 12), ("c", 1), ("d", 1)):
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", [f"{name} {text}" for text in TEXTS * copies])
    monkeypatch.setattr(run, "CHUNK", 1600)
    call = ["--input-dir", tmp_path / "in", "--join"]
    assert go(*call)[0] == 0
    write_jsonl(tmp_path / "in" / "e.jsonl", ["new"])
    monkeypatch.setattr(encoding, "WORTH_KEEPING", 0)
    monkeypatch.setattr(journal, "LINE_SECONDS", 0.0)
    take, taken = encoding.Encoding._take_kept, []

    def stopping(self, task, *more):
        if len(taken) == stop_at:
            raise Failure("stopped here")
        taken.append(task)
        take(self, task, *more)

    with monkeypatch.context() as patched, pytest.raises(Failure, match="stopped here"):
        patched.setattr(encoding.Encoding, "_take_kept", stopping)
        go(*call)
    code, err = go(*call)
    assert code == 0
    assert ("continuing a run that was stopped" in err) == any(task.ended for task in taken)
    assert go(*call, out="fresh")[0] == 0
    assert pair_bytes(tmp_path / "out", "in") == pair_bytes(tmp_path / "fresh", "in")
    one, other = (figures(tmp_path / out, "in") for out in ("out", "fresh"))
    assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_bad_lines_of_kept_inputs_are_still_listed(go, encoded, tmp_path):
    for name in "abc":
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.jsonl").write_text('{"text": "x"}\n' * 30 + f"bad {name}\n" + '{"text": "y"}\n')
    call = ["--input-dir", tmp_path / "in", "--join", "--on-error", "skip"]
    assert go(*call)[0] == 0
    encoded.clear()
    write_jsonl(tmp_path / "in" / "bb.jsonl", TEXTS)
    assert go(*call)[0] == 0
    assert encoded == ["bb.jsonl"]
    assert go(*call, out="fresh")[0] == 0
    lists = [(tmp_path / out / "preprocessed/in.rejects.jsonl").read_text() for out in ("out", "fresh")]
    assert lists[0] == lists[1]
    assert figures(tmp_path / "out", "in")["bad_lines"] == {"broken JSON": 3}


@pytest.mark.parametrize("join", [[], ["--join"]])
def test_a_bad_last_file_throws_nothing_away(join, go, encoded, tmp_path):
    for number in range(6):
        write_jsonl(tmp_path / "in" / f"{number}.jsonl", [f"{number} {text}" for text in TEXTS])
    bad = tmp_path / "in" / "9.jsonl"
    bad.write_bytes(b'{"text": "a"}\n{"text": 5}\n')
    code, err = go("--input-dir", tmp_path / "in", *join)
    assert code == 2 and "9.jsonl:2: not a string" in err
    encoded.clear()
    write_jsonl(bad, ["mended"])
    code, err = go("--input-dir", tmp_path / "in", *join)
    assert code == 0 and "continuing a run that was stopped" in err
    assert encoded == ["9.jsonl"]
    assert go("--input-dir", tmp_path / "in", *join, out="fresh")[0] == 0
    for name in ["in"] if join else ["0", "5", "9"]:
        assert pair_bytes(tmp_path / "out", name) == pair_bytes(tmp_path / "fresh", name)


@pytest.fixture
def ended(go, tmp_path, capsys):
    """End the run with an error, after `first()`, when it has taken so many results; returns what is said of it."""

    def end(error: BaseException, after: int, *words: object, worth: int = encoding.WORTH_KEEPING, first=str) -> str:
        take, taken = encoding.Encoding._take, []

        def ending(self, task, *more):
            if len(taken) == after:
                first()
                raise error
            taken.append(task)
            take(self, task, *more)

        with pytest.MonkeyPatch.context() as patched, pytest.raises(type(error)) as raised:
            patched.setattr(encoding.Encoding, "_take", ending)
            patched.setattr(encoding, "WORTH_KEEPING", worth)
            patched.setattr(run, "CHUNK", 1600)
            go(*words)
        return str(raised.value) or capsys.readouterr().err.splitlines()[-1]

    return end


KILLED = "worker process 7 died (SIGKILL)"
KEPT = r"(\d+) % is kept; the same command goes on from there"
NOTHING_KEPT = "nothing of this run is kept; the same command begins again"


@pytest.mark.parametrize(("error", "why"), [(KeyboardInterrupt(), "stopped by Ctrl-C"), (Failure(KILLED), KILLED)])
def test_what_is_kept_of_a_run_that_ends_early_is_said(error, why, ended, go, tmp_path):
    """Of one small file nothing; what an earlier run has begun, however small, and what it has done is kept."""
    call = ["--input", write_jsonl(tmp_path / "a.jsonl", TEXTS * 8)]
    left = tmp_path / "out" / "preprocessed"
    assert ended(error, 3, *call) == f"{why}; {NOTHING_KEPT}" and not left.parent.exists()
    shares = [int(re.fullmatch(f"{re.escape(why)}; {KEPT}", ended(error, 3, *call, worth=0))[1])]
    for after in (2, 0):
        found = re.fullmatch(f"{re.escape(why)}; {KEPT}", ended(error, after, *call))
        shares.append(int(found[1]))
    assert 0 < shares[0] < shares[1] == shares[2] < 100
    assert ended(error, 1, *call, "--overwrite") == f"{why}; {NOTHING_KEPT}" and not list(left.iterdir())
    said = ended(error, 3, *call, "--overwrite", worth=0)
    assert re.fullmatch(f"{re.escape(why)}; {KEPT.replace('command', 'command without --overwrite')}", said)
    code, err = go(*call)
    assert code == 0 and "continuing a run that was stopped" in err
    assert ended(error, 3, *call, "--overwrite", worth=0) == f"{why}; {NOTHING_KEPT}"  # the pair is there, and whole


def test_of_several_files_those_that_are_done_are_kept(ended, go, encoded, tmp_path):
    for name in "ab":
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", TEXTS)
    call = ["--input-dir", tmp_path / "in"]
    whole = sum(path.stat().st_size for path in (tmp_path / "in").iterdir())
    parts = len(list(line_ranges(tmp_path / "in" / "a.jsonl", max(100, min(1600, whole // 8)))))
    assert ended(Failure(KILLED), parts, *call) == f"{KILLED}; 50 % is kept; the same command goes on from there"
    encoded.clear()
    assert go(*call)[0] == 0
    assert encoded == ["b.jsonl"]


def test_of_a_file_that_has_changed_nothing_is_kept(ended, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS * 8)
    changed = Failure(f"{path}: changed while it was read")

    said = ended(changed, 3, "--input", path, worth=0, first=lambda: os.utime(path, ns=(1, 1)))
    assert said == f"{changed}; {NOTHING_KEPT}"


def test_the_speed_is_that_of_this_run_alone(monkeypatch):
    meter = console.Meter()
    shown: list[str] = []
    monkeypatch.setattr(meter, "show", lambda text, always=False: shown.append(text))
    progress = encoding.Progress(meter, total=100_000_000, earlier=41_000_000, documents=5000)
    monkeypatch.setattr(encoding.time, "monotonic", lambda: progress.began + 2)
    progress.show()
    progress.read, progress.tokens = 9_000_000, 4_000_000
    progress.show()
    assert shown == [
        " 41 %  5k documents  0.0 MB/s  0 tokens/s  no block done yet",
        " 50 %  5k documents  4.5 MB/s  2M tokens/s  11 s left",
    ]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", pytest.param("arrow", marks=pytest.mark.slow)])
def test_a_run_stopped_within_a_file(kind, go, encoded, tmp_path, monkeypatch):
    """Stopped twice within it; what was written when it stopped is not done again, and the pairs are the same."""
    texts = [f"{number} {text}" for number in range(8) for text in TEXTS]
    plain = write_jsonl(tmp_path / "plain.jsonl", texts).read_bytes()
    path = tmp_path / f"docs.{kind}"
    if kind == "jsonl":
        path.write_bytes(plain)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(plain))
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=9)
    else:
        datasets.Dataset.from_dict({"text": texts}).save_to_disk(tmp_path / "saved")
        next((tmp_path / "saved").glob("*.arrow")).rename(path)
    monkeypatch.setattr(run, "CHUNK", 1600)
    monkeypatch.setattr(streams, "BLOCK", 700)
    call = ["--input", write_jsonl(tmp_path / "a.jsonl", TEXTS), path, "--join"]
    assert go(*call, out="whole")[0] == 0
    monkeypatch.setattr(encoding, "WORTH_KEEPING", 0)
    monkeypatch.setattr(journal, "LINE_SECONDS", 0.0)
    take, taken = encoding.Encoding._take, []

    def stopping(self, task, result, pool, worker):
        if len(taken) in (4, 8):
            taken.append(None)
            raise Failure("stopped here")
        taken.append((task.source, task.position))
        take(self, task, result, pool, worker)

    monkeypatch.setattr(encoding.Encoding, "_take", stopping)
    for _ in range(2):
        with pytest.raises(Failure, match="stopped here"):
            go(*call)
    assert go(*call)[0] == 0
    done = [each for each in taken if each is not None]
    assert len(done) > 9 and len(set(done)) == len(done)
    [name] = made_names(tmp_path / "out")
    name = name.removesuffix("_text_document")
    assert pair_bytes(tmp_path / "out", name) == pair_bytes(tmp_path / "whole", name)
    one, other = (figures(tmp_path / out, name) for out in ("out", "whole"))
    assert {**one, "seconds": 0} == {**other, "seconds": 0}
    check_pair(read_pair(find_prefixes(tmp_path / "out")[0]))
