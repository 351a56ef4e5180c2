"""What several machines do with one corpus, here one after the other or as two in one process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nemo_workflow.preprocess import command, node, pieces
from nemo_workflow.preprocess.asked import read_asked
from nemo_workflow.preprocess.claims import Claims
from nemo_workflow.preprocess.inputs import line_ranges
from nemo_workflow.utils.errors import Refusal
from tests.preprocess.helpers import write_jsonl

TEXTS = [f"document {number} " + "word " * (number % 37) for number in range(900)]


@pytest.fixture
def two(tokenizers_dir, tmp_path, monkeypatch):
    """Make the job of some flags, and let machine after machine work on it; the corpus is in pieces of some kB."""
    monkeypatch.setattr(pieces, "SMALLEST", 1 << 13)

    class Two:
        def __init__(self) -> None:
            self.finished = tmp_path / "finished"
            self.claims = tmp_path / "claims"

        def words(self, out: str, *flags: object) -> list[str]:
            line = ["--tokenizer", tokenizers_dir / "byte_bpe", "--output-dir", tmp_path / out, "--workers", 1, *flags]
            return [str(word) for word in line]

        def job(self, *flags: object) -> node.Job:
            args = command.parser().parse_args(self.words("two", *flags))
            command.check(args)
            asked = read_asked(args)
            cut = pieces.cut(asked.sources, 2)
            return node.Job(asked, cut, tmp_path / "pieces" / "recipe", tmp_path / "progress")

        def work(self, job: node.Job, rank: int = 0) -> None:
            told = node.Job.from_json(json.loads(json.dumps(job.to_json())))  # as it travels
            node.Node(told, Claims(self.claims, f"rank{rank}"), rank, 2).work(self.finished)

        def one(self, *flags: object) -> dict[str, bytes]:
            assert command.main(self.words("one", *flags)) == 0
            return self.made("one")

        def made(self, out: str) -> dict[str, bytes]:
            folder = tmp_path / out / "preprocessed"
            files = [*folder.rglob("*.bin"), *folder.rglob("*.idx"), *folder.rglob("*.rejects.jsonl")]
            return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return Two()


@pytest.mark.parametrize("ending", [b"", b"\n"])
@pytest.mark.parametrize("size", [1, 7, 64, 1000, 10_000])
def test_every_line_is_in_one_part(tmp_path: Path, ending: bytes, size: int) -> None:
    data = b"\n".join([b"x" * (number * 7 % 90) for number in range(40)]) + ending
    path = tmp_path / "lines.jsonl"
    path.write_bytes(data)
    read = [
        data[begin:end]
        for start in range(0, len(data), size)
        for begin, end in line_ranges(path, 50, 0, (start, min(len(data), start + size)))
    ]
    assert b"".join(read) == data
    assert all(block.endswith(b"\n") for block in read[:-1])


def test_a_part_is_gone_on_with(tmp_path: Path) -> None:
    """From the place that the journal names."""
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    part = (5000, 20_000)
    whole = list(line_ranges(path, 1000, 0, part))
    assert list(line_ranges(path, 1000, whole[3][1], part)) == whole[4:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--join",),
        ("--join", "folder", "--json-keys", "text,more"),
        ("--join-fields", "text,more", "--no-append-eod"),
    ],
    ids=["a pair a file", "join", "two keys", "fields"],
)
def test_the_bytes_of_one_machine(two, tmp_path: Path, flags: tuple[str, ...]) -> None:
    tree = tmp_path / "tree"
    for name in ("a/large", "a/small", "b/small"):
        path = tree / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"text": text, "more": text[::-1]} for text in (TEXTS if "large" in name else TEXTS[:20])]
        lines = [json.dumps(row) for row in rows]
        lines[3:3] = ["{broken", ""]
        lines[15:15] = ['{"text": 1}']
        if "large" in name:
            lines[700:700] = ["[]", *['{"text": "", "more": ""}'] * 400]  # parts without a token too
        path.write_text("\n".join(lines))
    given = ("--input-dir", tree, "--on-error", "skip", *flags)
    job = two.job(*given)
    assert any(each.part for piece in job.pieces for each in piece.sources)
    two.work(job)
    assert two.made("two") == two.one(*given)
    assert not job.folder.exists()
    assert "nothing to do" in job.asked.nothing_to_do()


def test_a_node_works_in_another_folder(two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", TEXTS[:50])
    monkeypatch.chdir(tmp_path / "in")
    job = two.job("--input", "a.jsonl")
    told = json.dumps(job.to_json())
    monkeypatch.chdir("/")
    node.Node(node.Job.from_json(json.loads(told)), Claims(two.claims, "rank0"), 0, 1).work(two.finished)
    assert two.made("two") == two.one("--input", tmp_path / "in" / "a.jsonl")


def test_a_changed_input_is_done_again(two, tmp_path: Path) -> None:
    first, second = (write_jsonl(tmp_path / "in" / name, TEXTS[:300]) for name in ("a.jsonl", "b.jsonl"))
    job = two.job("--input-dir", tmp_path / "in", "--join")
    worker = node.Node(job, Claims(two.claims, "rank0"), 0, 2)
    for piece in job.pieces:
        worker._encode(piece)
    worker.claims.close()
    write_jsonl(first, TEXTS[:301])
    two.work(job)
    assert two.made("two") == two.one("--input", first, second, "--join")


def test_a_bad_line_ends_all_machines(two, tmp_path: Path) -> None:
    """Its number is that in the file, not in the part."""
    path = write_jsonl(tmp_path / "in" / "a.jsonl", TEXTS)
    lines = path.read_text().splitlines()
    lines[800] = "{"
    path.write_text("\n".join(lines))
    job = two.job("--input", path)
    with pytest.raises(Refusal, match=r"a\.jsonl:801: "):
        two.work(job, 0)
    with pytest.raises(Refusal, match=r"a\.jsonl:801: "):
        two.work(job, 1)
    assert not two.finished.exists()


@pytest.mark.slow
def test_bad_lines_are_judged_together(two, tmp_path: Path) -> None:
    """A piece of bad lines alone refuses nothing; too many in all do."""
    path = write_jsonl(tmp_path / "in" / "a.jsonl", TEXTS)
    path.write_text(path.read_text() + "{\n" * 500)
    job = two.job("--input", path, "--on-error", "skip", "--max-bad", 40)
    two.work(job)
    assert two.made("two") == two.one("--input", path, "--on-error", "skip", "--max-bad", 40)
    two.finished.unlink()
    job = two.job("--input", path, "--on-error", "skip", "--max-bad", 30, "--overwrite")
    with pytest.raises(Refusal, match="500 of 1,400 lines are bad"):
        two.work(job)


def test_a_lost_claim_is_taken_over(tmp_path: Path) -> None:
    one, other = (Claims(tmp_path, name, lost_seconds=30) for name in ("rank0", "rank1"))
    assert one.take("piece")
    assert not other.take("piece")
    path = tmp_path / "piece.claim"
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 60))
    assert other.take("piece")
    assert not one.take("piece")
    other.release("piece")
    assert one.take("piece")
    one.close()
    assert other.take("piece")
    other.close()


def test_pieces_stay_when_the_nodes_are_others(tmp_path: Path) -> None:
    """Whole files keep their names whatever is beside them; parts, where the sizes' power of two is the same."""
    path = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    from nemo_workflow.preprocess.sources import Source

    with path.open("r+b") as stream:
        stream.truncate(100 << 20)
    names = [{piece.name for piece in pieces.cut([Source(path, "a")], nodes)} for nodes in (2, 3)]
    assert names[0] == names[1]


def test_what_is_done_is_not_planned_again(two, tmp_path: Path) -> None:
    """Neither a part of a large file nor a whole file; what is left is cut as before, though it is a quarter of all."""
    for number in range(9):
        write_jsonl(tmp_path / "in" / f"small{number}.jsonl", TEXTS[:240])
    write_jsonl(tmp_path / "in" / "large.jsonl", TEXTS)
    job = two.job("--input-dir", tmp_path / "in", "--join")
    worker = node.Node(job, Claims(two.claims, "rank0"), 0, 2)
    whole = [piece for piece in job.pieces if not any(each.part for each in piece.sources)]
    parts = [piece for piece in job.pieces if piece not in whole]
    for piece in [*whole, *parts[1::2]]:
        worker._encode(piece)
    finished = pieces.Finished(job.folder, job.asked.names, job.asked.recipe, skip=False)
    left = pieces.still_to_encode(job.asked.sources, 2, job.folder, finished)
    assert [piece.name for piece in left] == [piece.name for piece in parts[::2]]
    two.work(node.Job(job.asked, left, job.folder, job.progress))
    assert two.made("two") == two.one("--input-dir", tmp_path / "in", "--join")


def test_flags_of_a_job_without_one(preprocess, tmp_path: Path) -> None:
    done = preprocess("--tokenizer", "x", "--input", "y", "--output-dir", tmp_path / "out", "-N", 2, "--time", 10)
    assert done.code == 2
    assert "--num-nodes: only for --executor slurm" in done.err
    assert "--time: only for --executor slurm" in done.err
    assert not (tmp_path / "out").exists()
