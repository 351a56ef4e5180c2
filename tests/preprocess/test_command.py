"""The command as a user meets it: inputs of every kind, refusals, bad lines, names."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer

from nemo_workflow.data.indexed_dataset import find_prefixes, read_pair
from nemo_workflow.preprocess import asked, command, inspect_dataset
from nemo_workflow.preprocess.documents import BOM
from nemo_workflow.preprocess.engines import FastokensEngine
from nemo_workflow.preprocess.inspect_dataset import check_pair, document_ids
from nemo_workflow.utils.errors import Refusal
from tests import forked
from tests.preprocess.helpers import ROOT, figures, nothing_written, pair_bytes, write_jsonl
from tests.preprocess.tokenizer_makers import training_texts

TEXTS = [*training_texts(30, seed=8), "", "end"]


def test_guides_command_through_the_script(tokenizers_dir, tmp_path):
    """From another folder, through a path with a blank, a quote, a line break and letters of many scripts."""
    odd = tmp_path / 'it\'s a "folder"\nwith 世界 $HOME'
    write_jsonl(odd / "in" / "zh_wiki-20250101-pages.v1.jsonl", TEXTS)
    copy = odd / "repo"
    copy.mkdir()
    shutil.copy(ROOT / "preprocess_data.sh", copy)
    (copy / "nemo_workflow").symlink_to(ROOT / "nemo_workflow")
    shutil.copytree(tokenizers_dir / "byte_bpe", odd / "tokenizer")
    arguments = [
        "--ht-tokenizer",
        odd / "tokenizer",
        "--data-prefix",
        "zh_wiki-20250101-pages.v1",
        "--input-dir",
        odd / "in",
    ]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", copy / "preprocess_data.sh", *arguments, "--output-dir", odd / "out"],
        cwd="/", env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = sorted(path.name for path in (odd / "out" / "preprocessed").iterdir())
    assert written == [f"zh_wiki-20250101-pages.v1_text_document.{ending}" for ending in ("bin", "idx", "json")]
    [prefix] = find_prefixes(odd / "out")
    assert read_pair(prefix).documents == len(TEXTS)


@pytest.mark.parametrize(
    ("shell", "script"), [("bash", "preprocess_data.sh"), ("sh", "preprocess_data.sh"), ("bash", "a/link")]
)
def test_script_takes_the_venv_of_its_own_folder(shell, script, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to("../preprocess_data.sh")
    shutil.copy(ROOT / "preprocess_data.sh", tmp_path)
    fake = tmp_path / ".venv" / "bin" / "python"
    fake.parent.mkdir(parents=True)
    fake.write_text('#!/bin/sh\nprintf "%s|" "$@"\nexit 7\n')
    fake.chmod(0o755)
    done = subprocess.run([shell, script, "--a", "b c"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "-m|nemo_workflow.preprocess|--a|b c|")


def parquet(path: Path, texts: list[str]) -> None:
    table = pyarrow.table({"id": range(len(texts)), "text": texts})
    pyarrow.parquet.write_table(table, path, row_group_size=7)


def zstd(data: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(data, asbytes=True)


def zst_in_two_frames(path: Path, data: bytes) -> None:
    path.write_bytes(zstd(data[:1000]) + zstd(data[1000:]))


def test_every_kind_of_file_gives_the_same_pair(go, tmp_path):
    plain = write_jsonl(tmp_path / "in" / "plain.jsonl", TEXTS).read_bytes()
    folder = tmp_path / "in"
    (folder / "lines.json").write_bytes(plain)
    (folder / "nd.ndjson").write_bytes(plain.rstrip(b"\n"))
    (folder / "bom.jsonl").write_bytes(BOM + plain.replace(b"\n", b"\r\n\r\n"))
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress(plain[:2000]) + gzip.compress(plain[2000:]))
    (folder / "bom.z.json.gz").write_bytes(gzip.compress(BOM + plain))
    zst_in_two_frames(folder / "packed.z.jsonl.zst", plain)
    parquet(folder / "table.parquet", TEXTS)
    (folder / "README.md").write_text("not an input")
    code, err = go("--input-dir", folder)
    assert code == 0, err
    expected = pair_bytes(tmp_path / "out", "plain")
    prefixes = find_prefixes(tmp_path / "out")
    assert len(prefixes) == 8
    for prefix in prefixes:
        assert (Path(f"{prefix}.bin").read_bytes(), Path(f"{prefix}.idx").read_bytes()) == expected, prefix
        check_pair(read_pair(prefix))
    assert figures(tmp_path / "out", "plain")["documents"] == len(TEXTS)
    assert figures(tmp_path / "out", "plain")["empty_documents"] == 1
    assert figures(tmp_path / "out", "plain")["bytes"] == sum(len(text.encode()) for text in TEXTS)


def test_small_chunks_and_giant_lines_change_nothing(go, tmp_path, monkeypatch):
    from nemo_workflow.preprocess import inputs, oversized_line, run, split_long_text, worker

    texts = [*TEXTS, "\n".join(TEXTS * 3), *TEXTS, '"世界🙂"\n' * 9000]
    plain = write_jsonl(tmp_path / "a.jsonl", texts).read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(plain))
    inputs_ = [tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"]
    assert go("--input", *inputs_)[0] == 0
    for module, name, value in (
        (run, "CHUNK", 1600), (inputs, "GIANT", 20_000), (oversized_line, "LONG_STRING", 9000), (oversized_line, "PIECE", 3000),
        (split_long_text, "PIECE", 2000), (split_long_text, "WINDOW", 100), (worker, "LONG_TEXT", 5000),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    assert go("--input", *inputs_, out="small")[0] == 0
    for name in ("a", "b"):
        assert pair_bytes(tmp_path / "small", name) == pair_bytes(tmp_path / "out", "a")
        one, other = (figures(tmp_path / out, name) for out in ("out", "small"))
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert sorted(path.suffix for path in (tmp_path / "small" / "preprocessed").iterdir()) == sorted(
        2 * [".bin", ".idx", ".json"]
    )


def test_one_key_or_several(go, tmp_path):
    lines = [json.dumps({"title": f"title {n}", "text": text}) for n, text in enumerate(TEXTS)]
    (tmp_path / "docs.jsonl").write_text("\n".join(lines))
    write_jsonl(tmp_path / "only" / "docs.jsonl", TEXTS)
    assert go("--input", tmp_path / "docs.jsonl", "--json-keys", "title", "text")[0] == 0
    assert go("--input", tmp_path / "only", out="single")[0] == 0
    assert pair_bytes(tmp_path / "out", "docs") == pair_bytes(tmp_path / "single", "docs")
    assert read_pair(tmp_path / "out/preprocessed/docs_title_document").documents == len(TEXTS)
    assert go("--input", tmp_path / "docs.jsonl", "--json-keys", "title", "--json-keys", "text", out="twice")[0] == 0
    assert pair_bytes(tmp_path / "twice", "docs") == pair_bytes(tmp_path / "out", "docs")
    assert pair_bytes(tmp_path / "twice", "docs", "title") == pair_bytes(tmp_path / "out", "docs", "title")


def test_joined_files_with_a_byte_order_mark_each(go, tmp_path):
    plain = write_jsonl(tmp_path / "plain.jsonl", TEXTS).read_bytes()
    halves = [BOM + plain[: plain.index(b"\n") + 1], BOM + plain[plain.index(b"\n") + 1 :]]
    (tmp_path / "joined.jsonl").write_bytes(b"".join(halves))
    (tmp_path / "packed.jsonl.gz").write_bytes(b"".join(map(gzip.compress, halves)) + b"behind")
    code, err = go("--input", *(tmp_path / name for name in ("plain.jsonl", "joined.jsonl", "packed.jsonl.gz")))
    assert code == 0
    assert f"WARNING: {tmp_path / 'packed.jsonl.gz'}: the data after the end of the compressed data was ignored" in err
    assert pair_bytes(tmp_path / "out", "plain") == pair_bytes(tmp_path / "out", "joined")
    assert pair_bytes(tmp_path / "out", "plain") == pair_bytes(tmp_path / "out", "packed")


def test_several_prefixes_are_ready_for_a_blend(go, tmp_path):
    for name in ("a", "b", "c"):
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", TEXTS)
    code, err = go("--input_dir", tmp_path / "in", "--data_prefix", "a", "--data-prefix", "c.jsonl")
    assert code == 0, err
    assert [prefix.name for prefix in find_prefixes(tmp_path / "out")] == ["a_text_document", "c_text_document"]


def test_one_document_is_one(go, tmp_path):
    (tmp_path / "text.txt").write_text("a text")
    code, err = go("--input", tmp_path / "text.txt")
    assert code == 0 and re.search(r"100 %  1 document  ", err), err


def test_two_outputs_of_one_name_are_refused(go, tmp_path):
    """wiki with the key raw_text and wiki_raw with the key text: both are wiki_raw_text_document."""
    for name in ("wiki", "wiki_raw"):
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", TEXTS)
    code, err = go("--input", tmp_path / "in", "--json-keys", "text", "raw_text")
    assert code == 2
    assert "wiki_raw.jsonl: its output would have the same name as that of" in err
    assert "wiki.jsonl (wiki_raw_text_document)" in err
    assert nothing_written(tmp_path / "out")


def test_endings_in_capitals(go, tmp_path):
    plain = write_jsonl(tmp_path / "in" / "UP.JSONL", TEXTS).read_bytes()
    (tmp_path / "in" / "Packed.Json.GZ").write_bytes(gzip.compress(plain))
    (tmp_path / "in" / "Z.jsonl.ZST").write_bytes(zstd(plain))
    parquet(tmp_path / "in" / "T.Parquet", TEXTS)
    code, err = go("--input", tmp_path / "in")
    assert code == 0, err
    assert "WARNING" not in err
    for name in ("Packed", "Z", "T"):
        assert pair_bytes(tmp_path / "out", name) == pair_bytes(tmp_path / "out", "UP")
    assert go("--input-dir", tmp_path / "in", "--data-prefix", "UP", "T.Parquet", out="named")[0] == 0
    assert [prefix.name[0] for prefix in find_prefixes(tmp_path / "named")] == ["T", "U"]


def test_what_a_folder_holds_besides_is_named(go, tmp_path):
    folder = write_jsonl(tmp_path / "in" / "docs.jsonl", TEXTS).parent
    for name in ("a.jsonl.lz4", "b.CSV", "c.jsonl.part", "README.md", "README.txt", ".hidden.txt", "docs.jsonl.sha256"):
        (folder / name).write_bytes(b"x")
    write_jsonl(folder / "spark.json" / "part-0.json", TEXTS)
    (folder / "preprocessed").mkdir()
    code, err = go("--input-dir", folder)
    assert code == 0, err
    assert [prefix.parent.name for prefix in find_prefixes(tmp_path / "out")] == ["preprocessed", "spark.json"]
    assert err.splitlines()[0] == (
        f"WARNING: --input-dir {folder}: skipped, not an input file: a.jsonl.lz4, b.CSV, c.jsonl.part"
    )
    (folder / "docs.jsonl").unlink()
    shutil.rmtree(folder / "spark.json")
    assert "no input files in it" in go("--input-dir", folder)[1]
    assert "skipped, not an input file: a.jsonl.lz4" in go("--input-dir", folder)[1]


def test_link_that_leads_nowhere(go, tmp_path):
    folder = write_jsonl(tmp_path / "in" / "docs.jsonl", TEXTS).parent
    (folder / "lost.jsonl").symlink_to("gone")
    for arguments in (
        ["--input-dir", folder],
        ["--input", folder / "lost.jsonl"],
        ["--input-dir", folder, "--data-prefix", "lost"],
    ):
        code, err = go(*arguments)
        assert code == 2
        assert "lost" in err
        assert "a broken symlink" in err
    assert nothing_written(tmp_path / "out")


def test_names_that_are_no_utf8(go, tmp_path):
    docs = write_jsonl(tmp_path / "docs.jsonl", TEXTS)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl"))
    shutil.copy(docs, odd)
    code, err = go("--input", odd)
    assert code == 2
    assert "its name is not UTF-8; rename it" in err
    assert nothing_written(tmp_path / "out")
    code, err = go("--input", docs, out="o\udce9", tokenizer="t\udce9")
    assert code == 2
    assert "--output-dir" in err
    assert "--tokenizer" in err
    assert "--json-keys: a key is not UTF-8" in go("--input", docs, "--json-keys", "\udce9")[1]


def test_an_input_is_the_same_by_whatever_path(go, tmp_path, monkeypatch):
    """From another folder, through `..` and in one that is joined, which is not called so; behind a link `..` leads elsewhere."""
    write_jsonl(tmp_path / "docs" / "docs.jsonl", TEXTS)
    write_jsonl(tmp_path / "far" / "docs.jsonl", TEXTS[:3])
    for folder in ("here", "far/deep"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "here" / "link").symlink_to(tmp_path / "far" / "deep")
    assert go("--input", tmp_path / "docs" / "docs.jsonl")[0] == 0
    monkeypatch.chdir(tmp_path / "here")
    for name in ("../docs/docs.jsonl", "./../here/../docs/docs.jsonl"):
        code, err = go("--input", name)
        assert (code, "already complete" in err) == (0, True), err
    code, err = go("--input", "link/../docs.jsonl")
    assert (code, f"made from other input ({tmp_path / 'docs' / 'docs.jsonl'})" in err) == (2, True), err
    assert go("--input-dir", "../docs/../docs/../far/..", "--join", out="joined")[0] == 0
    assert [path.name for path in find_prefixes(tmp_path / "joined")] == [f"{tmp_path.name}_text_document"]


OTHERWISE = {
    "--no-append-eod": "with --append-eod",
    "--no-append-eod --no-special-tokens": "with --append-eod --special-tokens",
    "--eod-token !": "with no --eod-token",
    "--json-keys text id": "with --json-keys text",
    "--trust-remote-code": "with other flags, or beside another tokenizer_config.json",
    "--tokenizer {}/gpt2_bpe": "with another tokenizer ({})",
    "--tokenizer {}/gpt2_bpe --no-special-tokens": "with another tokenizer ({}) and with --special-tokens",
}


def test_existing_output_needs_overwrite(go, tmp_path, tokenizers_dir):
    write_jsonl(tmp_path / "docs.jsonl", TEXTS)
    assert go("--input", tmp_path / "docs.jsonl")[0] == 0
    before = pair_bytes(tmp_path / "out", "docs")
    write_jsonl(tmp_path / "other" / "docs.jsonl", TEXTS[:3])
    for different, said in OTHERWISE.items():
        code, err = go("--input", tmp_path / "docs.jsonl", *different.format(tokenizers_dir).split())
        assert code == 2
        said = said.format(tokenizers_dir / "byte_bpe")
        assert f"docs_text_document.bin and 1 more: already exists, made {said}; --overwrite replaces it" in err
    code, err = go("--input", tmp_path / "other" / "docs.jsonl", "--no-append-eod")
    assert code == 2
    assert (
        f"already exists, made from other input ({tmp_path / 'docs.jsonl'}) and with --append-eod; --overwrite" in err
    )
    assert pair_bytes(tmp_path / "out", "docs") == before
    assert go("--input", tmp_path / "other" / "docs.jsonl", "--overwrite")[0] == 0
    assert read_pair(tmp_path / "out/preprocessed/docs_text_document").documents == 3


def test_existing_output_of_a_tokenizer_that_was_replaced_in_its_folder(go, tokenizers_dir, tmp_path):
    """As it happens to who trains a tokenizer again and preprocesses with the same command."""
    folder = shutil.copytree(tokenizers_dir / "byte_bpe", tmp_path / "tokenizer")
    docs = write_jsonl(tmp_path / "docs.jsonl", TEXTS)
    made = ("--input", docs, "--tokenizer", folder)
    assert go(*made, "--eod-token", "!")[0] == 0
    assert "already exists, made with --eod-token '!'; --overwrite replaces it" in go(*made)[1]
    shutil.copy(tokenizers_dir / "gpt2_bpe" / "tokenizer.json", folder)
    code, err = go(*made, "--eod-token", "!")
    assert code == 2
    assert f"already exists, made before the tokenizer in {folder} changed; --overwrite replaces it" in err


def test_existing_output_of_which_nothing_is_told(go, tmp_path):
    made = ("--input", write_jsonl(tmp_path / "docs.jsonl", TEXTS))
    assert go(*made)[0] == 0
    pair = tmp_path / "out/preprocessed/docs_text_document"
    with Path(f"{pair}.bin").open("ab") as stream:
        stream.write(b"\0\0")
    assert "already exists, and what was made with it is no longer there as it was; --overwrite" in go(*made)[1]
    for text in ("{}", '{"recipe": "x"}', '{"recipe": "x", "inputs": 5}', "[]", "no JSON", None):
        Path(f"{pair}.json").write_text(text) if text else Path(f"{pair}.json").unlink()
        code, err = go(*made)
        assert code == 2 and "Traceback" not in err
        assert "already exists, and nothing beside it says from which input, with which tokenizer and flags" in err


# --- bad lines ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_bad_lines(tmp_path):
    path = write_jsonl(tmp_path / "docs.jsonl", TEXTS * 40)
    lines = path.read_bytes().split(b"\n")
    lines[900:900] = [b"", b'{"text": 5}', b'{"text": "cut']
    lines[1100:1100] = [b'{"text": "\xff"}']
    path.write_bytes(b"\n".join(lines))
    return path


def test_stop_names_the_first_bad_line(go, with_bad_lines, tmp_path):
    code, err = go("--input", with_bad_lines)
    assert code == 2
    assert f"{with_bad_lines}:902: not a string" in err
    assert nothing_written(tmp_path / "out")


def test_skip_counts_and_lists_them(go, with_bad_lines, tokenizers_dir, tmp_path, capsys):
    words = ("--tokenizer", tokenizers_dir / "byte_bpe", "--output-dir", tmp_path / "out", "--input", with_bad_lines)
    assert command.main([*map(str, words), "--on-error", "skip"]) == 0
    place = tmp_path / "out/preprocessed/docs.rejects.jsonl"
    said = f"  bad lines left out: 3 (not a string 1, broken JSON 1, invalid UTF-8 1), listed in {place}\n"
    assert said in (told := capsys.readouterr().out), told
    made = figures(tmp_path / "out", "docs")
    assert made["bad_lines"] == {"not a string": 1, "broken JSON": 1, "invalid UTF-8": 1}
    assert made["documents"] == 40 * len(TEXTS)
    rejects = tmp_path / "out/preprocessed/docs.rejects.jsonl"
    listed = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(entry["line"], entry["reason"]) for entry in listed] == [
        (902, "not a string"),
        (903, "broken JSON"),
        (1101, "invalid UTF-8"),
    ]
    assert {entry["file"] for entry in listed} == {str(with_bad_lines)}
    write_jsonl(with_bad_lines, TEXTS)
    assert go("--input", with_bad_lines, "--on-error", "skip", "--overwrite")[0] == 0
    assert not rejects.exists()  # it spoke of the old file


def test_too_many_bad_lines_are_refused(go, with_bad_lines, tmp_path):
    code, err = go("--input", with_bad_lines, "--on-error", "skip", "--max-bad", "0.2")
    assert code == 2
    assert "3 of 1,284 lines are bad" in err
    assert "more than --max-bad 0.2 %" in err
    assert nothing_written(tmp_path / "out")


@pytest.mark.slow
def test_bad_lines_all_at_the_beginning(go, tmp_path):
    """3.6 % of the lines, longer than the rest, and more than 5 % of each beginning."""
    bad, good = b'{"text": 5, "more": "%s"}\n' % (b"x" * 180) * 9_000, b'{"text": "a"}\n' * 241_000
    (tmp_path / "plain.jsonl").write_bytes(bad + good)
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(bad + good))
    code, err = go("--input", tmp_path / "plain.jsonl", tmp_path / "packed.jsonl.gz", "--on-error", "skip")
    assert code == 0, err
    assert figures(tmp_path / "out", "packed")["bad_lines"] == {"not a string": 9_000}


@pytest.mark.slow
def test_hopeless_input_is_refused_early(go, tmp_path):
    (tmp_path / "docs.jsonl").write_bytes(b'{"text": 5, "more": "%s"}\n' % (b"x" * 100) * 200_000)
    code, err = go("--input", tmp_path / "docs.jsonl", "--on-error", "skip")
    assert code == 2
    lines = int(re.search(r"of the first ([\d,]+) lines are bad", err)[1].replace(",", ""))
    assert lines < 100_000


def test_two_columns_of_one_name(go, tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, ["text", "id", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    code, err = go("--input", tmp_path / "t.parquet")
    assert code == 2
    assert "t.parquet: 2 columns are named 'text'; rename all but one" in err


@pytest.mark.slow
def test_bad_row_of_parquet(go, tmp_path):
    values = pyarrow.array([b"fine", b"bad \xff", None, b"good"], pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), 4, values.buffers(), values.null_count)
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), tmp_path / "t.parquet")
    code, err = go("--input", tmp_path / "t.parquet")
    assert code == 2
    assert "t.parquet:2: invalid UTF-8 in this row: byte 0xff at position 5" in err
    code, err = go("--input", tmp_path / "t.parquet", "--on-error", "skip", "--max-bad", 60)
    assert code == 0, err
    assert figures(tmp_path / "out", "t")["bad_lines"] == {"invalid UTF-8": 1, "not a string": 1}


def test_a_blank_file_among_others_is_skipped_like_an_empty_one(go, tmp_path):
    for name, data in (("a.txt", b"Text.\n"), ("b.txt", b"\n\n"), ("c.txt", b"")):
        bad_file(tmp_path / "in", name, data)
    code, err = go("--input", tmp_path / "in")
    assert code == 0 and "skipped 2 empty files: " in err, err
    assert [prefix.name for prefix in find_prefixes(tmp_path / "out")] == ["a_text_document"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b'{"text": "a"}\n\n{"text": "b"}\n', True),
        ("a.txt", b'{"text": "' + b"a" * 5000 + b'"}\n', False),  # its first line has no end within what is looked at
        ("a.md.gz", gzip.compress(b'\xef\xbb\xbf{"text": "a"}\n', mtime=0), True),
        ("a.txt", b'{"text": "a"}\nis a line of JSON.\n', False),
        ("a.txt", b"{a set} of words\n", False),
    ],
)
def test_json_lines_that_are_read_as_text_are_told(name, data, said, go, tmp_path):
    code, err = go("--input", bad_file(tmp_path / "in", name, data))
    assert code == 0 and ("WARNING: JSON lines, read as plain text" in err) == said, err


def test_a_word_on_many_small_files(go, tmp_path, monkeypatch):
    monkeypatch.setattr(asked, "MANY", 3)
    for name in "abc":
        bad_file(tmp_path / "in", f"{name}.txt", b"Text.\n")
    said = "3 files of 6 B each on average become as many pairs"
    assert said in go("--input", tmp_path / "in")[1]
    assert said not in go("--input", tmp_path / "in", "--join", "--overwrite")[1]
    monkeypatch.setattr(asked, "SMALL", 5)
    assert said not in go("--input", tmp_path / "in", "--overwrite")[1]


# --- refusals ------------------------------------------------------------------------------------------------------------


def bad_file(folder: Path, name: str, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"", "empty; there is no text in it"),
        ("a.jsonl", b"\n \n\n", "no documents in it"),
        ("a.txt", b"\n \t\n", "a.txt: holds white space alone; there is no text in it"),
        ("a.md.gz", gzip.compress(("\ufeff" + 99999 * "\u3000\n").encode(), mtime=0), "holds white space alone"),
        ("a.jsonl", b"Some text.\n\"Quoted,\" he said.\n12 more.\n", "plain text, not JSON lines; rename it: a.txt"),
        ("a.ndjson.gz", gzip.compress(b"Some text.\n", mtime=0), "plain text, not JSON lines; rename it: a.txt.gz"),
        ("a.json", b'{"data": [{"x": 1}]}', "no 'text' among 'data' (if each object of 'data' is a document: `jq -c '.data[]' OLD > NEW.jsonl`)"),
        ("a.json", b'["Some text.", "More."]', "a JSON array of texts, not one object per line; convert it first: `jq -c '.[] | {text: .}' OLD.json > NEW.jsonl`"),
        ("a.json", b'[\n "Some text."]', "a JSON array of texts"),
        ("a.json", b'{"data": [\n{"text": "a"}]}', "one object with a list within, not one object per line; convert it first: `jq -c '.data[]' OLD.json > NEW.jsonl`"),
        ("a.json", b'{\n  "data": [\n    {\n "text": "a"}]}', "`jq -c '.data[]' OLD.json > NEW.jsonl`"),
        ("a.jsonl", b'{"text":"caf\xe9"}\n', "Convert it (if it is Latin-1: `iconv -f LATIN1 -t UTF-8 OLD > NEW`)"),
        ("a.jsonl", b'{"id": "1", "data": {"body": "A text."}}\n', "(its longest text: --json-keys data.body)"),
        ("a.jsonl", b'{"text": ""}\n', "every 'text' is empty"),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16"), "UTF-16; convert it first: `iconv -f UTF-16 -t UTF-8 OLD > NEW`"),
        ("a.json", b'[{"text": "a"}]', "one JSON array"),
        ("a.jsonl", gzip.compress(b'{"text": "a"}', mtime=0), "gzip data without the extension .gz"),
        ("a.jsonl.gz", b'{"text": "a"}', "not what its extension says"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 9999, mtime=0)[:-20], "damaged gzip data"),
        ("b.jsonl.zst", b'{"text": "a"}', "not what its extension says"),
        ("a.jsonl.zst", zstd(os.urandom(99_999))[:9000], "damaged"),
        ("a.parquet", b"PAR1 is not enough", "damaged"),
        ("a.doc", b"\0text", "not a file extension that is read here (.json"),
        ("a.csv", "a, é".encode(), "; a table; make it one that is: python -c \"import pandas; pandas.read_csv('OLD').to_parquet('NEW.parquet')\""),
        ("a.log", "a, é".encode(), "; if it is plain text, rename it: a.txt"),
        ("a.pdf", b"%PDF-1.7\n%\xe2\xe3\n", "; it is a PDF: take the text out first, for example: pdftotext OLD NEW.txt"),
        ("a.doc", b"{\\rtf1\\ansi Text}", "; it is a document in RTF: take the text out first, for example: pandoc -f rtf"),
        ("a.log", "a, b".encode("utf-16"), "; it is UTF-16: convert it: `iconv -f UTF-16 -t UTF-8 OLD > NEW`"),
        ("a.zip", b"PK\x03\x04" + bytes(60), "; it is zip data: unpack it"),
        ("a.dat", gzip.compress(b"text", mtime=0), "; it is gzip data: give it the extension .gz"),
        ("a.tar.gz", gzip.compress(b"text", mtime=0), "; it is a tar archive: unpack it: tar -xf"),
        ("corpus", b'{"text": "a"}', "; if it is JSON lines, rename it: corpus.jsonl"),
    ],
)  # fmt: skip
def test_input_that_is_no_input(name, data, message, go, tmp_path):
    code, err = go("--input", bad_file(tmp_path / "in", name, data))
    assert code == 2
    assert message in err
    assert name in err
    assert nothing_written(tmp_path / "out")


@pytest.mark.slow
def test_missing_things_are_refused(go, tmp_path, tokenizers_dir):
    write_jsonl(tmp_path / "in" / "docs.jsonl", TEXTS)
    (tmp_path / "in" / "docs.json").write_text('{"text": "a"}')
    (tmp_path / "d.txt").write_text("a document")
    (tmp_path / "empty").mkdir()
    cases = {
        ("--input-dir", tmp_path / "in", "--data-prefix", "none"): "--data-prefix none: no none.jsonl",
        ("--input-dir", tmp_path / "in", "--data-prefix", "docs"): "docs.json and docs.jsonl are both in",
        ("--input-dir", tmp_path / "in"): "its output would have the same name as that of",
        ("--input-dir", tmp_path / "nowhere", "--data-prefix", "x"): "nowhere: no such folder",
        ("--input-dir", tmp_path / "empty"): "no input files in it",
        ("--input", tmp_path / "no.jsonl"): "no such file",
        (): "--input or --input-dir is required",
        ("--input", "x", "--data-prefix", "y"): "--input: can't be combined with --input-dir",
        ("--input", tmp_path / "in/docs.json", "--workers", "0"): "--workers 0: at least 1",
        ("--input", tmp_path / "in/docs.json", "--max-bad", "101"): "--max-bad 101",
        ("--input", tmp_path / "in/docs.json", "--max-bad", "3"): "--max-bad 3: of the lines that --on-error skip leaves out",
        ("--input", tmp_path / "in/docs.json", "--max-bad", "5", "--on-error", "stop"): "--max-bad 5: of the lines that",
        ("--input", tmp_path / "in/docs.json", "--separator", "-"): "--separator: goes between the texts of --join-fields",
        ("--input", tmp_path / "in/docs.json", "--eod-token", "<|endoftext|>", "--no-append-eod"): "--eod-token <|endoftext|>: ends each document",
        ("--input", tmp_path / "d.txt", "--json-keys", "a", "b"): "d.txt: one document a file, without keys",
        ("--input", tmp_path / "in/docs.json", tmp_path / "d.txt", "--join-fields", "a,b"): "d.txt: one document a file, without keys",
        ("--input", tmp_path / "in/docs.json", "--json-keys", "a/b"): "--json-keys",
        ("--input", tmp_path / "in/docs.json", "--eod-token", "<none>"): "--eod-token <none>: not in the vocabulary",
        ("--input", tmp_path / "in/docs.json", "--tokenizer", tmp_path / "empty"): "no tokenizer.json or other tokenizer files",
        ("--input", tmp_path / "in/docs.json", "--tokenizer", "./nowhere"): "--tokenizer ./nowhere: no such folder",
        ("--input", tmp_path / "in/docs.json", "--engine", "fastokens", "--tokenizer", tokenizers_dir / "unigram"): "does not support this tokenizer",
        ("--input", tmp_path / "in/docs.json", "--engine", "tokenizers", "--tokenizer", tokenizers_dir / "slow"): "exists in Python only",
        ("--input", tmp_path / "in/docs.json", "--colour"): "unrecognized arguments: --colour",
    }  # fmt: skip
    for arguments, message in cases.items():
        code, err = go(*arguments)
        assert code == 2
        assert message in err, arguments
        assert nothing_written(tmp_path / "out")


def test_refusal_on_the_command_line(preprocess, tmp_path):
    done = preprocess("--input", tmp_path / "no.jsonl", "--tokenizer", tmp_path, "--output-dir", tmp_path / "out")
    assert done.code == 2
    assert done.out == ""
    assert done.err.splitlines() == [
        f"python -m nemo_workflow.preprocess: error: --input {tmp_path / 'no.jsonl'}: no such file"
    ]


def test_a_flag_of_another_tool_leads_to_ours():
    made = command.parser()
    with pytest.raises(Refusal, match="--text-key title; did you mean --json-keys"):
        made.parse_args(["--tokenizer", "a", "--output-dir", "b", "--text-key", "title"])


def test_tokenizer_without_an_end_token(go, tokenizers_dir, tmp_path):
    folder = shutil.copytree(tokenizers_dir / "tiktoken_bpe", tmp_path / "tokenizer")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    docs = write_jsonl(tmp_path / "docs.jsonl", TEXTS)
    code, err = go("--input", docs, "--tokenizer", folder)
    assert code == 2
    assert "it names no eos_token" in err
    assert go("--input", docs, "--tokenizer", folder, "--eod-token", "<|eot_id|>")[0] == 0
    assert figures(tmp_path / "out", "docs")["eod_token"] == "<|eot_id|>"
    assert go("--input", docs, "--tokenizer", folder, "--no-append-eod", out="none")[0] == 0


def test_end_of_a_chats_turn_as_end_of_document(go, tokenizers_dir, tmp_path):
    folder = shutil.copytree(tokenizers_dir / "byte_bpe", tmp_path / "chat")
    chat = Tokenizer.from_file(str(folder / "tokenizer.json"))
    chat.add_special_tokens(["<|im_end|>"])
    chat.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    docs = write_jsonl(tmp_path / "docs.jsonl", TEXTS)
    _, err = go("--input", docs, "--tokenizer", folder)
    assert "WARNING: <|im_end|> ends a chat turn; the base model's documents end with <|endoftext|>: --eod-token" in err
    _, err = go("--input", docs, "--tokenizer", folder, "--eod-token", "<|endoftext|>", out="base")
    assert "chat's turn" not in err and "<|endoftext|> (0) ends a document" in err
    assert "chat's turn" not in go("--input", docs, out="plain")[1]


def test_tokenizer_files_that_are_broken(go, tokenizers_dir, tmp_path):
    docs = write_jsonl(tmp_path / "docs.jsonl", TEXTS)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        folder = shutil.copytree(tokenizers_dir / "byte_bpe", tmp_path / f"broken {name}")
        (folder / name).write_text('{"cut of')
        code, err = go("--input", docs, "--tokenizer", folder)
        assert code == 2
        assert str(folder / name) in err


# --- what is said ----------------------------------------------------------------------------------------------------------


def test_forged_end_of_document_is_counted(go, tmp_path):
    texts = ["a <|endoftext|> b", "plain", "<|endoftext|><|endoftext|>"]
    code, err = go("--input", write_jsonl(tmp_path / "docs.jsonl", texts))
    assert code == 0
    assert "WARNING: 3 times a text holds <|endoftext|> itself" in err
    assert figures(tmp_path / "out", "docs")["eod_ids_inside_texts"] == 3


def words_only(folder: Path, model: str) -> Path:
    """A tokenizer with an entry for two words and one for what is unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<unk>", "a", "text"]
    if model == "unigram":
        made = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=0))
    else:
        made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


@pytest.mark.parametrize("model", ["unigram", "words"])
def test_text_that_a_tokenizer_does_not_know_is_told(model, go, tmp_path):
    docs = write_jsonl(tmp_path / "docs.jsonl", ["a text \u5b57", "\u8a00\u8a9e a text"])
    code, err = go("--input", docs, "--tokenizer", words_only(tmp_path / "words", model), "--no-append-eod")
    assert (
        code == 0
        and "WARNING: docs_text_document: 33.33% of the tokens stand for text that the tokenizer has no entry for"
        in err
    ), err
    assert figures(tmp_path / "out", "docs")["unknown_share"] == pytest.approx(1 / 3, abs=1e-5)
    known = write_jsonl(tmp_path / "known.jsonl", ["a text"])
    code, err = go("--input", known, "--tokenizer", tmp_path / "words", "--no-append-eod", out="known")
    assert code == 0 and "WARNING" not in err and figures(tmp_path / "known", "known")["unknown_share"] == 0


def test_tokens_around_a_text_are_no_forgery(go, tmp_path):
    docs = write_jsonl(tmp_path / "docs.jsonl", ["a", "", "b"])
    code, err = go("--input", docs, "--eod-token", "<|begin_of_text|>", tokenizer="tiktoken_bpe")
    assert code == 0, err
    assert figures(tmp_path / "out", "docs")["eod_ids_inside_texts"] == 0


def test_engine_is_named_with_the_reason(go, tmp_path):
    docs = write_jsonl(tmp_path / "docs.jsonl", TEXTS)
    assert "engine fastokens: supports this tokenizer" in go("--input", docs)[1]
    code, err = go("--input", docs, tokenizer="unigram", out="unigram")
    assert code == 0
    assert "engine tokenizers: fastokens does not support this tokenizer (normalizer error" in err
    assert "engine tokenizers: as --engine says" in go("--input", docs, "--engine", "tokenizers", out="said")[1]
    assert pair_bytes(tmp_path / "said", "docs") == pair_bytes(tmp_path / "out", "docs")


def test_engine_that_differs_is_left_loudly(go, tmp_path, monkeypatch):
    """A fake fault in fastokens: the real one has none that is known here."""
    docs = write_jsonl(tmp_path / "docs.jsonl", TEXTS)
    assert go("--input", docs)[0] == 0
    right = FastokensEngine.encode

    def wrong(self, texts, special):
        ids, lengths = right(self, texts, special)
        return ids ^ (ids == ids[0]), lengths

    monkeypatch.setattr(FastokensEngine, "encode", wrong)
    code, err = go("--input", docs, out="other")
    assert code == 0
    assert "WARNING: fastokens gives different ids from the Hugging Face tokenizer: token" in err
    assert "engine tokenizers" in err
    assert pair_bytes(tmp_path / "other", "docs") == pair_bytes(tmp_path / "out", "docs")


def test_help_is_light_and_quick(preprocess):
    done = preprocess("--help")
    assert done.code == 0
    lines = done.out.splitlines()
    assert len(lines) <= 50 and max(map(len, lines)) <= 100
    assert [line.split()[1] for line in lines if line.startswith("* ")] == ["--input", "--tokenizer", "--output-dir"]
    assert "--help all" in done.out and "--input my_text.txt" in done.out
    everything = preprocess("--help", "all").out
    assert "--hf-tokenizer" in everything and "--max-bad" in everything and "--max-bad" not in done.out
    assert preprocess("--help", "slurm").code == 2


def test_loading_begins_before_numpy_is_imported():
    """It is imported while the tokenizer loads, which takes a second."""
    program = (
        "import sys; from nemo_workflow.preprocess import command, output_dir, startup; print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_hot_path_imports_nothing_heavy(tokenizers_dir, tmp_path):
    """Start-up time comes from imports: torch takes 4 s, transformers 1 s."""
    docs = write_jsonl(tmp_path / "docs.jsonl", TEXTS)
    program = (
        "import sys; from nemo_workflow.preprocess.command import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    common = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def modules(*arguments: object) -> set[str]:
        done = subprocess.run(
            [*common, *map(str, arguments)], env=environment, capture_output=True, text=True, check=True
        )
        return set(done.stdout.splitlines()[-1].split())

    assert not modules("--help") & {"numpy", "torch", "transformers", "tokenizers", "fastokens", "pyarrow", "orjson"}
    used = modules("--input", docs, "--tokenizer", tokenizers_dir / "byte_bpe", "--output-dir", tmp_path / "out")
    assert "fastokens" in used
    assert not used & {"torch", "transformers", "megatron", "nemo", "pyarrow", "huggingface_hub"}


# --- the report -------------------------------------------------------------------------------------------------------------


def report(*arguments: object) -> subprocess.CompletedProcess[str]:
    return forked.run(["-m", "nemo_workflow.dataset", *arguments])


def test_report_checks_and_decodes(go, tokenizers_dir, tmp_path):
    assert go("--input", write_jsonl(tmp_path / "docs.jsonl", ["first text", "", "the third 世界"]))[0] == 0
    done = report(tmp_path / "out", "--tokenizer", tokenizers_dir / "byte_bpe", "--document", 2)
    assert done.returncode == 0, done.stderr
    assert "3 documents (1 empty), 2 sequences" in done.stdout
    assert "the third 世界<|endoftext|>" in done.stdout
    assert len(document_ids(read_pair(tmp_path / "out/preprocessed/docs_text_document"), 1)) == 0
    wrong = report(tmp_path / "out", "--tokenizer", tokenizers_dir / "byte_bpe", "--document", 3)
    assert wrong.returncode == 2
    assert "has documents 0 to 2" in wrong.stderr


def test_report_names_damage(go, tmp_path):
    assert go("--input", write_jsonl(tmp_path / "docs.jsonl", TEXTS))[0] == 0
    stem = tmp_path / "out/preprocessed/docs_text_document"
    idx, bin_ = Path(f"{stem}.idx"), Path(f"{stem}.bin")
    whole, sequences = idx.read_bytes(), len(TEXTS) - 1
    damages = {
        "the pointer of sequence 1 is wrong": whole[: 34 + 4 * sequences + 8]
        + b"\x01"
        + whole[34 + 4 * sequences + 9 :],
        "sequence 0 has no tokens": whole[:34] + bytes(4) + whole[38:],
        "truncated": whole[:-3],
        "not a Megatron index": b"X" + whole[1:],
    }
    for message, damaged in damages.items():
        idx.write_bytes(damaged)
        done = report(stem)
        assert done.returncode == 2
        assert message in done.stderr
    idx.write_bytes(whole)
    bin_.write_bytes(bin_.read_bytes()[:-2])
    assert "but its .idx describes" in report(f"{stem}.idx").stderr
    bin_.unlink()
    assert "missing, though docs_text_document.idx is there" in report(tmp_path / "out").stderr


@pytest.mark.parametrize("flag", ["--input", "--input-dir"])
def test_text_and_tokenizer_that_are_swapped_are_told(flag, preprocess, tmp_path, tokenizers_dir):
    text = tmp_path / "in" / "docs.jsonl"
    write_jsonl(text, TEXTS)
    text = text if flag == "--input" else text.parent
    tokenizer = tokenizers_dir / "unigram"
    done = preprocess("--tokenizer", text, flag, tokenizer, "--output-dir", tmp_path / "out")
    assert done.code == 2
    assert (
        f"look swapped, the first is text and the second a tokenizer; use --tokenizer {tokenizer} {flag} {text}"
        in done.err
    )
    assert nothing_written(tmp_path / "out")


def test_data_that_is_decoded_with_another_tokenizer_is_told(go, tokenizers_dir, tmp_path, capsys):
    assert go("--input", write_jsonl(tmp_path / "docs.jsonl", TEXTS))[0] == 0
    other = shutil.copytree(tokenizers_dir / "byte_bpe", tmp_path / "other")
    whole = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = whole["model"]["vocab"]
    one, two = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (other / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    for tokenizer, told in ((other, True), (tokenizers_dir / "byte_bpe", False)):
        assert inspect_dataset.main([str(tmp_path / "out"), "--tokenizer", str(tokenizer)]) == 0
        assert ("was made with another tokenizer" in capsys.readouterr().err) == told


def test_data_whose_documents_end_otherwise_is_told(go, tokenizers_dir, tmp_path):
    """The same tokenizer.json beside another eos_token; not where --eod-token has chosen the end."""
    other = shutil.copytree(tokenizers_dir / "byte_bpe", tmp_path / "other")
    (other / "special_tokens_map.json").unlink(missing_ok=True)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "!"}
    (other / "tokenizer_config.json").write_text(json.dumps(config))
    docs = write_jsonl(tmp_path / "docs.jsonl", TEXTS)
    assert go("--input", docs, out="own")[0] == 0
    assert go("--input", docs, "--tokenizer", other, "--eod-token", "<|endoftext|>", out="chosen")[0] == 0
    assert go("--input", docs, "--no-append-eod", out="none")[0] == 0
    said = figures(tmp_path / "chosen", "docs")
    assert (said["eod_token"], said["tokenizer_eod_token"]) == ("<|endoftext|>", "!")
    for out, tokenizer, told in (
        ("own", other, 1),
        ("own", tokenizers_dir / "byte_bpe", 0),
        ("chosen", other, 0),
        ("none", other, 0),
    ):
        done = report(tmp_path / out, "--tokenizer", tokenizer)
        assert done.returncode == 0
        err = done.stderr
        assert (
            err.count("its documents end with <|endoftext|> (0), and")
            == err.count(f"{tokenizer} ends one with ! (")
            == told
        )


def test_data_of_a_tokenizer_that_was_replaced_in_its_folder_is_told_so(go, tokenizers_dir, tmp_path, capsys):
    folder = shutil.copytree(tokenizers_dir / "byte_bpe", tmp_path / "tokenizer")
    assert go("--input", write_jsonl(tmp_path / "docs.jsonl", TEXTS), "--tokenizer", folder)[0] == 0
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    one, two = list(whole["model"]["vocab"])[-2:]
    ids = whole["model"]["vocab"]
    ids[one], ids[two] = ids[two], ids[one]
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    assert inspect_dataset.main([str(tmp_path / "out"), "--tokenizer", str(folder)]) == 0
    assert f"was made with this tokenizer before it changed ({folder})" in capsys.readouterr().err
