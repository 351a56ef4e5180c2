"""A corpus preprocessed by two nodes of a real Slurm: the bytes of one machine, also where a node is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.run_dir import slurm_jobs
from nemo_workflow.run_dir.slurm_jobs import Job
from tests.e2e.slurm.conftest import REPOSITORY, Boxed, wait_for
from tests.e2e.slurm.daemons import Daemons
from tests.waiting import LIMIT

pytestmark = [pytest.mark.slurm, pytest.mark.thorough]

LOST_SECONDS = 3.0  # for the test; a minute otherwise


class Corpus:
    """A tree of files, one of them large, and what one machine makes of it."""

    def __init__(self, place: Path, tokenizer: Path, source: Path):
        self.place, self.tokenizer = place, tokenizer
        lines = source.read_bytes().splitlines(keepends=True)
        for number in range(4):
            part = place / "tree" / f"source{number % 2}" / f"part-{number}.jsonl"
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(b"".join(lines[number::5]))
        (place / "tree" / "source0" / "large.jsonl").write_bytes(b"".join(lines * 8) + b'{"text": 1}\n')
        self.flags = ("--join", "folder", "--on-error", "skip", "--workers", "1")
        done = self.run("one", *self.flags)
        assert done.returncode == 0, done.stderr

    def run(self, out: str, *flags: str, tree: str = "tree", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(REPOSITORY / "preprocess_data.sh"), "--tokenizer", str(self.tokenizer), "--input-dir",
             str(self.place / tree), "--output-dir", str(self.place / out), *flags],
            capture_output=True, text=True, timeout=LIMIT, check=False,
            env=dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}") | variables,
        )  # fmt: skip

    def submit(self, out: str, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
        container = () if "--container-runtime" in flags else ("--no-container",)
        slurm = ("--executor", "slurm", *container, "-A", "a1", "-P", "batch", "-N", "2")
        return self.run(out, *self.flags, *slurm, *flags, **variables)

    def job(self, out: str) -> Job:
        return slurm_jobs.latest(self.place / out / "preprocess")[-1]

    def said(self, out: str) -> str:
        return "".join(path.read_text() for path in self.job(out).logs())

    def pairs(self, out: str) -> dict[str, bytes]:
        return {
            path.name: path.read_bytes()
            for path in sorted((self.place / out / "preprocessed").iterdir())
            if path.suffix in (".bin", ".idx") or path.name.endswith(".rejects.jsonl")
        }


@pytest.fixture(scope="module")
def tree(slurm: Daemons, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("tree"), corpus / "tokenizer", corpus / "data" / "stdlib.jsonl")


def test_two_nodes_make_the_bytes_of_one(tree: Corpus, boxed: Boxed) -> None:
    """The two nodes in Apptainer's stand-in."""
    path = f"{Path(sys.executable).parent}:{boxed.variables['PATH']}"  # the command itself needs this Python
    done = tree.submit("two", "--wait", *boxed.flags, **boxed.variables | {"PATH": path})
    assert done.returncode == 0, done.stderr + done.stdout
    assert tree.pairs("two") == tree.pairs("one")
    assert len(tree.pairs("two")) == 5
    encoded = set(re.findall(r"(node \d) of 2: \d+ of", done.stdout))
    assert encoded == {"node 1", "node 2"}
    assert len([line for line in boxed.log.read_text().splitlines() if f"--bind {tree.place / 'two'}:" in line]) == 2
    assert not list((tree.place / "two" / "preprocess").glob(".pieces/*"))
    again = tree.submit("two", "--wait")
    assert "nothing to do" in again.stdout


def stopped_within_pieces(tree: Corpus, out: str) -> dict[int, int]:
    """Nodes that have begun and their processes, stopped; none where one of them was between two pieces."""
    job = tree.job(out)
    found = re.findall(r"node (\d) of 2 is \S+, process (\d+)", tree.said(out))
    processes = {int(number): int(process) for number, process in found}
    for process in processes.values():
        os.kill(process, signal.SIGSTOP)
    pieces = Path(json.loads((job.attempt / "plan.json").read_text())["folder"])
    claims = (job.attempt / "claims").glob("*.claim")
    if sum(not (pieces / claim.stem / "done").exists() for claim in claims) == len(processes):
        return processes
    for process in processes.values():
        os.kill(process, signal.SIGCONT)
    return {}


def test_a_lost_node(slurm: Daemons, tree: Corpus) -> None:
    """The second node dies with a piece half done; the first one takes it over."""
    assert tree.submit("lost", "--slurm-arg", "hold").returncode == 0
    job = tree.job("lost")
    plan = json.loads((job.attempt / "plan.json").read_text())
    (job.attempt / "plan.json").write_text(json.dumps(plan | {"lost_seconds": LOST_SECONDS}))
    slurm.run("scontrol", "release", job.job_id)
    claims = job.attempt / "claims"
    wait_for(lambda: re.search(r"node 2 of 2: \d+ of", tree.said("lost")))
    held = wait_for(lambda: stopped_within_pieces(tree, "lost"))  # so that it surely dies within one
    for number, process in held.items():
        if number == 1:
            os.kill(process, signal.SIGCONT)
    slurm.lose_node(2)
    try:
        wait_for(lambda: job.exit_code(0) is not None)
    finally:
        slurm.start_node(2)
    assert job.exit_code(0) == 0, tree.said("lost")
    assert tree.pairs("lost") == tree.pairs("one")
    assert list(claims.glob("*.lost-rank0")), tree.said("lost")


def test_cancelled_and_gone_on_with(tree: Corpus) -> None:
    """`runs cancel` stops the nodes; the same command encodes what is left. A refused command submits nothing."""
    refused = tree.submit("stopped", "--partition", "nowhere", "--time", "0:05")
    assert refused.returncode == 2
    assert "--time 0:05: not longer than the 300 s of --stop-before" in refused.stderr
    refused = tree.submit("stopped", "--partition", "nowhere")
    assert refused.returncode == 2
    assert "--partition nowhere: no such partition" in refused.stderr
    assert not (tree.place / "stopped").exists()
    assert tree.submit("stopped").returncode == 0
    wait_for(lambda: re.search(r"node \d of 2: [1-9] of", tree.said("stopped")))
    held = wait_for(lambda: stopped_within_pieces(tree, "stopped"))  # so that the job can't end before it is cancelled
    runs = [sys.executable, "-m", "nemo_workflow.runs", "--output-dir", str(tree.place / "stopped")]
    cancel = subprocess.Popen([*runs, "cancel", "preprocess"], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    job = tree.job("stopped")
    wait_for(slurm_jobs.cancelled_mark(job.attempt).exists)
    for process in held.values():
        os.kill(process, signal.SIGCONT)
    assert "finished pieces are kept" in cancel.communicate(timeout=LIMIT)[0]
    assert job.exit_code(0) == 75
    status = subprocess.run([*runs, "status", job.job_id], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert f"job {job.job_id}" in status.stdout
    first = json.loads((job.attempt / "plan.json").read_text())["pieces"]
    assert tree.submit("stopped", "--wait").returncode == 0
    assert len(json.loads((tree.job("stopped").attempt / "plan.json").read_text())["pieces"]) < len(first)
    assert tree.pairs("stopped") == tree.pairs("one")
