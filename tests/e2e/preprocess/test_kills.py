"""Killed at any moment, the final names hold the old pair or the new one; the parent never hangs; the next run cleans up."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_workflow.data.indexed_dataset import COMMIT_NAME, read_pair
from nemo_workflow.preprocess.inspect_dataset import check_pair
from nemo_workflow.preprocess.journal import read_journal
from nemo_workflow.preprocess.output_dir import OutputFolder, clean_up_stale
from nemo_workflow.preprocess.pool import Pool
from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.processes import signal_name
from tests.preprocess.helpers import ROOT, write_jsonl
from tests.preprocess.tokenizer_makers import training_texts
from tests.waiting import LIMIT, all_gone, lives, until

pytestmark = pytest.mark.e2e
STEM = "docs_text_document"
NOTHING_KEPT = "nothing of this run is kept; the same command begins again"


@pytest.fixture(scope="module")
def docs(tmp_path_factory) -> Path:
    """About 20 MB, so that a run works for a while after it started."""
    folder = tmp_path_factory.mktemp("kills")
    path = write_jsonl(folder / "docs.jsonl", training_texts(200, seed=4))
    path.write_bytes(path.read_bytes() * 100)
    return path


@pytest.fixture(scope="module")
def more(docs: Path) -> list[Path]:
    """The same under more names: a run of all works on for seconds after its first tokens are written."""
    links = [docs.with_name(f"more{number}.jsonl") for number in range(3)]
    for link in links:
        link.hardlink_to(docs)
    return [docs, *links]


@pytest.fixture(scope="module")
def whole(docs: Path, tokenizers_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of them makes that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole")
    process = start(docs, tokenizers_dir, out)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    return out


def start(docs: Path, tokenizers_dir: Path, out: Path, *more: object) -> subprocess.Popen[str]:
    arguments = [
        "--tokenizer",
        tokenizers_dir / "byte_bpe",
        "--input",
        docs,
        "--output-dir",
        out,
        "--workers",
        2,
        *more,
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "nemo_workflow.preprocess", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def pair_now(out: Path) -> tuple[bytes, ...] | None:
    """The pair under the final names, checked whole; None when there is none."""
    folder = out / "preprocessed"
    if not (folder / f"{STEM}.idx").exists():
        return None
    check_pair(read_pair(folder / STEM))
    return tuple((folder / f"{STEM}.{ending}").read_bytes() for ending in ("bin", "idx"))


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def working(out: Path) -> bool:
    """Whether tokens are being written."""
    return any(path.stat().st_size for path in (out / "preprocessed").glob(f".preprocess-*/{STEM}.bin"))


def stages(out: Path, size: int) -> dict[str, Callable[[], bool]]:
    """What can be seen of the progress of a run that starts now, in order; `size` are the bytes of its .bin."""
    earlier = set((out / "preprocessed").glob(".preprocess-*"))

    def aside(name: str) -> list[Path]:
        found = (out / "preprocessed").glob(f".preprocess-*/{name}")
        return [path for path in found if path.parent not in earlier]

    def tokens(share: float) -> bool:
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            return any(path.stat().st_size > share * size for path in aside(f"{STEM}.bin"))
        return False

    parts = {f"{share:.0%}": functools.partial(tokens, share) for share in (0, 0.2, 0.4, 0.6, 0.8)}
    files = {name: functools.partial(aside, name) for name in ("lock", f"{STEM}.idx", COMMIT_NAME)}
    return {"lock": files.pop("lock"), **parts, **files}


def test_parent_killed_at_every_stage(docs, whole, tokenizers_dir, tmp_path):
    out, folder = tmp_path / "out", tmp_path / "out" / "preprocessed"
    small = write_jsonl(tmp_path / "docs.jsonl", training_texts(5))
    assert start(small, tokenizers_dir, out).wait(LIMIT) == 0
    old = pair_now(out)
    new = pair_now(whole)
    seen = set()
    for stage in stages(out, len(new[0])):
        reached = stages(out, len(new[0]))[stage]
        process = start(docs, tokenizers_dir, out, "--overwrite")
        until(lambda there=reached, run=process: there() or run.poll() is not None, 0.005)
        workers = children(process.pid)
        process.kill()
        process.communicate(timeout=LIMIT)
        assert all_gone(workers)  # they die with it
        if list(folder.glob(f".preprocess-*/{COMMIT_NAME}")):  # between two renames: nobody reads the folder
            with pytest.raises(Refusal, match="killed while it renamed"):
                pair_now(out)
            continue
        now = pair_now(out)
        assert now in (old, new)
        seen.add(now == new)
    assert False in seen  # or the kills all came too late to mean anything
    process = start(docs, tokenizers_dir, out, "--overwrite")
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    assert pair_now(out) == new
    assert sorted(path.name for path in folder.iterdir()) == [f"{STEM}.{e}" for e in ("bin", "idx", "json")]


def test_killed_runs_go_on(docs, whole, tokenizers_dir, tmp_path):
    """Without --overwrite, each start goes on where the one before it was killed; the pair is that of one run."""
    new, out = pair_now(whole), tmp_path / "out"

    def journaled() -> int:
        lines = [read_journal(folder) for folder in (out / "preprocessed").glob(".preprocess-*")]
        return max((line["position"] for each in lines for [line] in each.values()), default=0)

    before = 0
    for _ in range(2):
        process = start(docs, tokenizers_dir, out)
        until(lambda run=process, far=before: journaled() > far or run.poll() is not None)
        workers = children(process.pid)
        process.kill()
        process.communicate(timeout=LIMIT)
        assert all_gone(workers)
        assert journaled() > before or pair_now(out) == new
        before = journaled()
    process = start(docs, tokenizers_dir, out)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0 and ("continuing a run that was stopped" in err or "already complete" in err)
    assert pair_now(out) == new
    assert [path.name for path in (out / "preprocessed").glob(".*")] == []


@pytest.mark.parametrize("which", [0, 1])
def test_worker_killed(which, docs, more, tokenizers_dir, tmp_path):
    process = start(docs, tokenizers_dir, tmp_path / "out", "--input", *more)
    until(lambda: working(tmp_path / "out"))
    victim = children(process.pid)[which]
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    hint = "the machine may be out of memory: try fewer --workers"
    assert f"worker process {victim} died (SIGKILL); {hint}; {NOTHING_KEPT}\n" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped(number, code, docs, more, tokenizers_dir, tmp_path):
    process = start(docs, tokenizers_dir, tmp_path / "out", "--input", *more)
    until(lambda: working(tmp_path / "out"))
    workers = children(process.pid)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == code
    assert f"stopped by {signal_name(number)}; {NOTHING_KEPT}\n" in err
    assert "Traceback" not in err
    assert not any(map(lives, workers))
    assert not (tmp_path / "out").exists()


def test_live_run_beside_is_left_alone(docs, tokenizers_dir, tmp_path):
    out = tmp_path / "out"
    process = start(docs, tokenizers_dir, out)
    until(lambda: working(out))
    other = write_jsonl(tmp_path / "other.jsonl", training_texts(5))
    assert start(other, tokenizers_dir, out).wait(LIMIT) == 0
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    assert len(list((out / "preprocessed").glob("*.idx"))) == 2


class Killed(BaseException):
    """Stands for SIGKILL at one exact rename, which no clock can hit."""


@pytest.mark.parametrize("renames", range(5))
def test_killed_between_two_renames(renames, docs, tokenizers_dir, tmp_path, monkeypatch):
    """Readers refuse the folder until the next run has finished the renames."""
    out, folder = tmp_path / "out", tmp_path / "out" / "preprocessed"
    assert start(write_jsonl(tmp_path / "docs.jsonl", training_texts(5)), tokenizers_dir, out).wait(LIMIT) == 0
    assert (
        start(write_jsonl(tmp_path / "new" / "docs.jsonl", training_texts(9)), tokenizers_dir, tmp_path / "new").wait(
            120
        )
        == 0
    )
    old, new = pair_now(out), pair_now(tmp_path / "new")
    replace, done = Path.replace, []

    def counted(self, target):
        if Path(target).name != COMMIT_NAME:
            if len(done) == renames:
                raise Killed
            done.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", counted)
    output = OutputFolder(folder, overwrite=True).__enter__()
    for ending in ("json", "bin", "idx"):
        (output.run_dir / f"{STEM}.{ending}").write_bytes(
            (tmp_path / "new" / "preprocessed" / f"{STEM}.{ending}").read_bytes()
        )
        output.move(f"{STEM}.{ending}")
    if renames < 3:
        with pytest.raises(Killed):
            output.commit([])
        output.__exit__(None, None, None)  # as if the rename had failed: nothing is thrown away
        with pytest.raises(Refusal, match="killed while it renamed"):
            read_pair(folder / STEM)
    else:
        output.commit([])
    monkeypatch.undo()
    if renames >= 3:
        assert clean_up_stale(folder) == []  # the lock says that the run lives
        fcntl.flock(output._lock, fcntl.LOCK_UN)
    [said] = clean_up_stale(folder)
    assert ("finished the renames" in said) == (renames < 3)
    assert pair_now(out) == new != old
    assert not list(folder.glob(".preprocess-*"))


def test_full_disk(docs, tokenizers_dir, tmp_path):
    """A real small file system; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no right to mount a small file system")
    try:
        small = write_jsonl(tmp_path / "docs.jsonl", training_texts(5))
        assert start(small, tokenizers_dir, disk / "out").wait(LIMIT) == 0
        old = pair_now(disk / "out")
        process = start(docs, tokenizers_dir, disk / "out", "--overwrite")
        _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 1
        assert f"No space left on device; free some space; {NOTHING_KEPT}\n" in err
        assert "Traceback" not in err
        assert pair_now(disk / "out") == old
        assert len(list((disk / "out" / "preprocessed").iterdir())) == 3
    finally:
        subprocess.run(["umount", disk], check=True)


def test_pool_reports_what_its_workers_raise():
    def handler():
        def work(task):
            if task == 3:
                raise Refusal("task 3 is bad")
            if task == 5:
                raise ZeroDivisionError("a bug")
            if task == 7:
                os._exit(9)
            return task * 10

        return "hello", work

    def run(tasks):
        pool = Pool(2, handler)
        try:
            assert pool.hellos == ["hello", "hello"]
            return [result for _, result, _ in pool.run(((task, True) for task in tasks), lambda: None)]
        finally:
            pool.close()

    assert run([1, 2, 4, 6, 8, 9, 10, 11]) == [10, 20, 40, 60, 80, 90, 100, 110]
    assert run([]) == []
    with pytest.raises(Refusal, match="task 3 is bad"):
        run([1, 2, 3, 4])
    with pytest.raises(RuntimeError, match="a bug"):
        run([5, 1])
    with pytest.raises(Failure, match="exit code 9"):
        run([1, 7, 2])


def test_figures_are_those_of_the_pair(whole):
    made = json.loads((whole / "preprocessed" / f"{STEM}.json").read_text())
    pair = read_pair(whole / "preprocessed" / STEM)
    figures = check_pair(pair)
    assert (made["tokens"], made["documents"], made["dtype"]) == (pair.tokens, pair.documents, pair.dtype)
    assert (made["longest_document"], made["largest_token_id"]) == (figures.longest, figures.largest_id)
    assert list(figures.last_tokens) == [made["eod_id"]]
    assert sum(made["documents_by_tokens"].values()) == pair.documents
