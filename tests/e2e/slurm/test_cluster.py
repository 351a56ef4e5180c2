"""What Slurm does with our jobs, on real daemons. Where no training is needed, a stand-in runs in its place."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.config.checks.slurm import SBATCH_OPTIONS
from nemo_workflow.config.plan import Plan
from nemo_workflow.launch.slurm import script
from nemo_workflow.launch.slurm.cluster import Cluster
from nemo_workflow.run_dir import metrics
from tests.e2e.slurm import login
from tests.e2e.slurm.conftest import REPOSITORY, Runs, wait_for
from tests.e2e.slurm.daemons import Daemons
from tests.launch.slurm import plans
from tests.launch.slurm.test_script import made
from tests.waiting import LIMIT

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("limited")]


def steps_of(runs: Runs, name: str) -> list[int]:
    return [event["step"] for event in metrics.read(runs.out / name / metrics.FILE) if event["event"] == "step"]


def reach(runs: Runs, name: str, step: int) -> None:
    wait_for(lambda: step in steps_of(runs, name))


def ended(job_id: str) -> str:
    """The state's name when the job has ended."""
    return wait_for(lambda: (state := Cluster().job(job_id)) and state.ended and state.name)


# -- before anything is submitted -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", plans.VARIANTS)
def test_slurm_takes_the_golden_scripts(variant: str, slurm: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    text = made(variant, monkeypatch)
    answer = Cluster().ask("sbatch", "--test-only", text=text)
    assert answer.ok, answer.reason
    too_many = re.sub("--nodes=.*", "--nodes=3", text)
    assert not Cluster().ask("sbatch", "--test-only", text=too_many).ok


def test_every_option_of_this_sbatch_is_known(slurm: Daemons) -> None:
    """It names them all where a beginning of a name could be several."""
    found: set[str] = set()
    for letter in "abcdefghijklmnopqrstuvwxyz":
        answer = Cluster().ask("sbatch", "--test-only", f"--{letter}", text="#!/bin/sh\n")
        found.update(re.findall(r"'--([a-z-]{2,})'", answer.err))
    assert len(found) > 50
    assert {name.replace("-", "_") for name in found} <= set(SBATCH_OPTIONS)


REFUSED: list[tuple[list[str], list[str]]] = [
    (["-P", "nope"], ["--partition nope: no such partition on this cluster; there are: batch, closed,"]),
    (
        ["-P", "closed", "--accelerator", "gpu", "-G", "9", "-gbs", "72", "--qos", "nope"],
        [
            "--account a1: partition closed admits only others",
            "--num-gpus 9: 0 usable nodes of partition closed have that many GPUs",
            "--qos nope: account a1 may use normal",
        ],
    ),
    (
        ["-A", "nope", "-N", "3", "-gbs", "24"],
        [
            "--account nope: you are not a member; your accounts are: a1",
            "--num-nodes 3: partition batch has 2 usable nodes",
        ],
    ),
    (["--mem", "900G"], ["Requested node configuration is not available; see -N/--num-nodes"]),
    (["--slurm-arg", "frob=1"], ["unrecognized option '--frob=1'; see --slurm-arg"]),
]


def test_refusals(slurm: Daemons, runs: Runs, tmp_path: Path, under_way: Any) -> None:
    for flags, texts in REFUSED:
        done = runs.pretrain("x", *flags)
        assert (done.returncode, done.stdout) == (2, ""), done
        assert all(text in done.stderr for text in texts), done.stderr
        assert "Traceback" not in done.stderr
    words = [word for word in runs.words("x") if word != "--no-container"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 2
    assert "--container-image: this cluster's srun has no such option (the pyxis plugin is missing)" in done.stderr
    done = runs.pretrain("x", PATH=f"{Path(os.__file__).parents[2] / 'bin'}:{tmp_path}")
    assert done.returncode == 2
    assert "--executor slurm: sbatch can't be run on this machine" in done.stderr
    assert not runs.out.exists()
    assert slurm.run("squeue", "-h", "--name=x.train") == ""


# -- one job from beginning to end ------------------------------------------------------------------------------------


def test_submitted_as_shown_and_unaffected_by_later_changes(
    slurm: Daemons, runs: Runs, tmp_path: Path, under_way: Any
) -> None:
    """Detached; the script is the one that --dry-run shows; the environment arrives; GPUs are bound."""
    odd = "a b'\"$HOME;`x`\nsecond line"
    runs.repository = tmp_path / "clone"  # what the tests beside this one start and copy stays as it is
    ignore = shutil.ignore_patterns("*.pyc.*")
    shutil.copytree(REPOSITORY / "nemo_workflow", runs.repository / "nemo_workflow", ignore=ignore)
    shutil.copy(REPOSITORY / "pretrain_llm.py", runs.repository)
    new = runs.repository / "nemo_workflow" / "uncommitted.tmp"
    setup = tmp_path / "setup.sh"
    setup.write_text("export FROM_SETUP='c d'\n")
    new.write_text("travels too")
    variables = {"ODD": odd, "HF_TOKEN": "hf_secretOfTheTest", "SBATCH_PARTITION": "nope"}
    flags = ("--accelerator", "gpu", "-G", "2", "--setup-file", str(setup))
    (job,) = runs.stand_in(slurm, "one", *flags, variables=variables)
    new.unlink()
    assert (job.attempt / "code" / "nemo_workflow" / "uncommitted.tmp").read_text() == "travels too"
    plan = Plan.from_json((job.attempt / "plan.json").read_text())
    written = slurm.run("scontrol", "write", "batch_script", job.job_id, "-")
    assert written.strip() == script.job_script(plan, job.attempt).strip()
    assert ended(job.job_id) == "COMPLETED"
    assert steps_of(runs, "one") == list(range(1, 21))
    for rank in (0, 1):
        found = runs.found_by(rank)
        assert found["ODD"] == odd
        assert found["HF_TOKEN"] == "hf_secretOfTheTest"
        assert found["FROM_SETUP"] == "c d"
        assert found["CUDA_VISIBLE_DEVICES"] == "0,1"
        assert (found["RANK"], found["LOCAL_RANK"], found["WORLD_SIZE"]) == (str(rank), str(rank), "2")
    assert secrets_in(runs.out) == []
    done = runs.control("status", job.job_id)
    assert "COMPLETED" in done.stdout, done
    assert "step 20/20" in done.stdout
    assert runs.control("cancel", "one").returncode == 2


def secrets_in(folder: Path, secret: bytes = b"hf_secretOfTheTest") -> list[Path]:
    """Files that hold the test's token, in clear or as nemo_run packs its settings (base64 of zlib)."""
    import base64
    import zlib

    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for packed in re.findall(rb"[\w+/=-]{40,}", content):
                try:
                    content += zlib.decompress(base64.urlsafe_b64decode(packed))
                except (ValueError, zlib.error):
                    continue
            if secret in content:
                found.append(path)
    return found


def a_failing_rank(slurm: Daemons, runs: Runs) -> None:
    """Two nodes; --requeue brings a failed job back only as long as it had saved something new."""
    (job,) = runs.stand_in(slurm, "bad", "-N", "2", "--requeue", "3", save_at=4, fail_at=6, fail_rank=1)
    assert ended(job.job_id) == "FAILED"
    state = Cluster().job(job.job_id)
    assert state is not None
    assert (state.exit_code, state.restarts) == (1, 1)
    assert (job.exit_code(0), job.exit_code(1)) == (1, 1)
    done = runs.control("logs", "bad")
    assert "rank 1:\nValueError: made to fail at step 6" in done.stdout
    assert "rank 1 failed: ValueError: made to fail at step 6" in runs.control("status", "bad").stdout
    # a rank that srun ends for another's failure, and that saves nevertheless, makes no clean stop of it
    (job,) = runs.stand_in(slurm, "bad1", "-N", "2", fail_at=3, fail_rank=1, stubborn=True)
    assert ended(job.job_id) == "FAILED"
    assert job.exit_code(0) == 1
    done = runs.pretrain("bad2", "--wait", "--setup-file", str(broken_python(runs)))
    assert done.returncode == 1, done
    assert "FAILED (exit code 1)" in done.stderr
    assert "PYTHONHASHSEED" in done.stderr


def broken_python(runs: Runs) -> Path:
    """A setup file that lets no rank's Python start: a failure without training."""
    path = runs.how.with_name("setup.sh")
    path.write_text("export PYTHONHASHSEED=bad\n")
    return path


def cancel(slurm: Daemons, runs: Runs) -> None:
    """Ours saves and is not requeued; a second start is refused meanwhile; Slurm's scancel is told as what it is."""
    (job,) = runs.stand_in(slurm, "c", "--max-steps", "5000", "--requeue", "3")
    reach(runs, "c", 5)
    again = runs.pretrain("c")
    assert again.returncode == 2
    assert f"job {job.job_id} of it is running" in again.stderr
    done = runs.control("cancel", "c")
    assert done.returncode == 0, done
    assert re.search(r"step \d+ is saved", done.stdout)
    assert "cancelled by root with `runs cancel`" in runs.control("status", "c").stdout
    assert (ended(job.job_id), job.exit_code(0)) == ("FAILED", 75)
    (other,) = runs.stand_in(slurm, "d", "--max-steps", "5000", "--requeue", "3")
    reach(runs, "d", 5)
    slurm.run("scancel", other.job_id)
    assert ended(other.job_id) == "CANCELLED"
    # accounting hears of it later, and not at all while it is away
    wait_for(lambda: re.search(r"CANCELLED .*: cancelled by root\n", runs.control("status", "d").stdout))


def requeue(slurm: Daemons, runs: Runs) -> None:
    """SIGUSR1 to the ranks, scontrol requeue, and a lost node: each time the job comes back and goes on."""
    (job,) = runs.stand_in(slurm, "r", "-P", "lossy", "--requeue", "3", "--max-steps", "400")
    reach(runs, "r", 3)
    slurm.run("scancel", "--signal=USR1", job.job_id)
    _goes_on(runs, "r", 1)
    slurm.run("scontrol", "requeue", job.job_id)
    _goes_on(runs, "r", 2)
    slurm.lose_node(3)
    try:
        wait_for(lambda: (state := Cluster().job(job.job_id)) and state.restarts == 3)
        _hurry(runs)
    finally:
        slurm.start_node(3)
    assert ended(job.job_id) == "COMPLETED"
    # two clean stops lose no step; the lost node loses what was not saved
    steps = steps_of(runs, "r")
    assert steps[-1] == 400
    assert sorted(set(steps)) == list(range(1, 401))


def _hurry(runs: Runs) -> None:
    """Nothing more is done to a run in its next start."""
    runs.how.write_text('{"seconds": 0.005}')


def _goes_on(runs: Runs, name: str, restart: int) -> None:
    """Wait until a run has taken steps after a restart."""

    def stepping() -> bool:
        kinds = [event["event"] for event in metrics.read(runs.out / name / metrics.FILE)]
        return kinds.count("start") == restart + 1 and kinds[-3:] == ["step"] * 3

    wait_for(stepping)


def preemption(slurm: Daemons, runs: Runs) -> None:
    """A job of a higher partition takes the node; without --requeue the run has saved and is over."""
    (job,) = runs.stand_in(slurm, "p", "-P", "low", "-N", "2", "--max-steps", "5000")
    reach(runs, "p", 3)
    other = preempt(slurm)
    assert ended(job.job_id) == "FAILED"
    assert job.exit_code(0) == 75
    assert "(stopped when asked): preempted: another job took the nodes" in runs.control("status", "p").stdout
    assert ended(other) == "COMPLETED"


def preempt(slurm: Daemons) -> str:
    """Submit a short job that Slurm makes room for in partition `low`; returns its id."""
    words = ("-A", "a1", "-p", "high", "-N", "2", "-t", "1", "--mem=19500", "-o", "/dev/null", "--wrap", "sleep 1")
    return slurm.run("sbatch", "--parsable", *words).strip()


def through_ssh(slurm: Daemons, runs: Runs) -> None:
    """A machine without Slurm submits over ssh, follows, shows and cancels; its environment stays behind."""
    reason = login.missing()
    if reason:
        pytest.skip(reason)
    place = runs.out.parent
    secret, setup = place / "secret.sh", place / "setup.sh"
    secret.write_text("export HF_TOKEN=hf_secretOfTheTest\n")
    secret.chmod(0o600)
    setup.write_text(f". {secret}\n")
    node = login.Login(place, slurm.conf)
    try:
        runs.environment = node.environment
        done = runs.pretrain("far", HF_TOKEN="hf_otherSecret")
        assert (done.returncode, "sbatch can't be run on this machine" in done.stderr) == (2, True), done
        done = runs.pretrain("far", "--ssh", "nowhere.test")
        assert (done.returncode, "--ssh nowhere.test: ssh can't log in" in done.stderr) == (2, True), done
        flags = ("--ssh", login.HOST, "--setup-file", str(setup), "--slurm-arg", "hold", "--max-steps", "5000")
        process = runs.start("far", *flags, "--wait", HF_TOKEN="hf_otherSecret")
        (job,) = wait_for(lambda: runs.jobs("far"))
        assert "PENDING" in runs.control("status", "far").stdout
        runs.replace(slurm, "far")
        reach(runs, "far", 5)
        assert "stand-in at step 5\n" in runs.control("logs", "far").stdout
        done = runs.control("cancel", job.job_id)
        assert (done.returncode, "is saved" in done.stdout) == (0, True), done
        out, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 143, out
        assert "HF_TOKEN of this shell does not travel" in out
        assert "FAILED on n" in runs.control("status", "far").stdout
        assert runs.found_by(0)["HF_TOKEN"] == "hf_secretOfTheTest"
        assert secrets_in(runs.out) == []
        assert secrets_in(runs.out, b"hf_otherSecret") == []
        node.settings.write_text(f"Include {node.move_settings()}\n")
        done = runs.pretrain("other", "--ssh", login.HOST)  # OpenSSH gets in, paramiko reads no Include
        assert (done.returncode, "nemo_run's own client (paramiko) does not" in done.stderr) == (2, True), done
        assert not (runs.out / "other").exists()
    finally:
        node.stop()


def chain(slurm: Daemons, runs: Runs) -> None:
    """A link that saved and stopped lets the next begin; a failed one ends the chain."""
    first, second = runs.stand_in(slurm, "ch", "--chain", "2", "--max-steps", "400")
    reach(runs, "ch", 3)
    _hurry(runs)
    slurm.run("scancel", "--signal=USR1", first.job_id)
    assert ended(first.job_id) == "COMPLETED"
    assert first.exit_code(0) == 75
    assert ended(second.job_id) == "COMPLETED"
    assert steps_of(runs, "ch") == list(range(1, 401))
    first, second = runs.stand_in(slurm, "cf", "--chain", "2", fail_at=2)
    assert ended(first.job_id) == "FAILED"
    assert ended(second.job_id) == "CANCELLED"
    assert not (runs.out / "cf" / "attempts" / second.attempt.name / "begun-0").exists()


# -- the scenarios above wait more than they compute: each has a thread -----------------------------------------------

SCENARIOS = (a_failing_rank, cancel, requeue, preemption, chain, through_ssh)


@pytest.fixture(scope="module")
def under_way(
    slurm: Daemons, corpus: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[None]]]:
    """The scenarios that were selected, by name; all begin with the first test that asks."""
    selected = [item.name for item in request.session.items]
    chosen = [one for one in SCENARIOS if f"test_scenario[{one.__name__}]" in selected]
    with ThreadPoolExecutor(len(SCENARIOS)) as pool:
        yield {
            one.__name__: pool.submit(one, slurm, Runs(corpus, tmp_path_factory.mktemp(one.__name__)))
            for one in chosen
        }  # fmt: skip


def test_without_accounting(slurm: Daemons, runs: Runs, under_way: Any) -> None:
    slurm.end("slurmdbd")
    try:
        (job,) = runs.stand_in(slurm, "na")
        assert ended(job.job_id) == "COMPLETED"
        done = runs.pretrain("na2", "--wait", "--setup-file", str(broken_python(runs)))
        assert "sacct does not answer here" in done.stdout
        assert done.returncode == 1
        assert "FAILED (exit code 1)" in done.stderr
    finally:
        slurm.start_accounting()


def test_following(slurm: Daemons, runs: Runs, under_way: Any) -> None:
    """Ctrl-C asks once: detach leaves the job, cancel ends it. A job that Slurm has forgotten is told by its own code."""
    (job,) = runs.stand_in(slurm, "f", "--max-steps", "5000")
    code, text = _answer(runs, "f", "d")
    assert code == 130
    assert f"job {job.job_id} keeps running" in text
    state = Cluster().job(job.job_id)
    assert state is not None
    assert state.name == "RUNNING"
    code, text = _answer(runs, "f", "c")
    assert code == 143, text
    assert "is saved; the same command continues from there" in text


FOLLOW = """
import sys
from nemo_workflow.utils.errors import run_command
from nemo_workflow.config.checks.slurm import SBATCH_OPTIONS
from nemo_workflow.config.plan import Plan
from nemo_workflow.run_dir import slurm_jobs
from nemo_workflow.launch.slurm.follow import follow
from pathlib import Path
run = Path(sys.argv[1])
run_command(lambda: follow(Plan.from_json((run / "plan.json").read_text()), slurm_jobs.latest(run)))
"""


def _answer(runs: Runs, name: str, reply: str) -> tuple[int, str]:
    """Follow a run on a terminal, press Ctrl-C once it shows steps, and answer the question."""
    import sys

    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", FOLLOW, str(runs.out / name)],
        stdin=slave, stdout=slave, stderr=slave, cwd=REPOSITORY, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    text = ""

    def read_until(wanted: str) -> None:
        nonlocal text
        while wanted not in text:
            try:
                text += os.read(master, 1000).decode(errors="replace")  # a character may come in two parts
            except OSError:  # the other end is closed
                raise AssertionError(f"it ended without {wanted!r}: {text}") from None

    read_until("step ")
    process.send_signal(signal.SIGINT)
    read_until("ollowing?")
    os.write(master, f"{reply}\n".encode())
    with contextlib.suppress(AssertionError):
        read_until("\0")  # until its end
    os.close(master)
    return process.wait(LIMIT), text


@pytest.mark.parametrize("name", [scenario.__name__ for scenario in SCENARIOS])
def test_scenario(name: str, under_way: dict[str, Future[None]]) -> None:
    under_way[name].result()
