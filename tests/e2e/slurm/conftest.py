"""The daemons, the corpus and the command line that the Slurm tests share."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.launch.slurm.cluster import Cluster
from nemo_workflow.run_dir import metrics, slurm_jobs
from nemo_workflow.run_dir.slurm_jobs import Job
from tests.e2e.slurm import daemons
from tests.waiting import LIMIT, until
from tools import demo

REPOSITORY = Path(__file__).resolve().parents[3]

STAND_IN = '''
"""A stand-in for training: writes the events, checkpoints and errors that training writes, a step each 0.1 s or as told."""
import json, os, signal, sys, time
from pathlib import Path
from nemo_workflow.config.plan import Plan

STOPPED = 75


def train(plan, attempt):
    plan, folder, rank = Plan.from_json(plan), Path(attempt), int(os.environ["RANK"])
    folder.mkdir(exist_ok=True)
    asked = []
    how = json.loads(Path("{how}").read_text())
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: how.get("deaf") or asked.append(number))
    saved = sorted(int(path.name[5:]) for path in plan.folder.glob("checkpoints/step_*"))
    begin = saved[-1] if saved else 0
    if rank == 0:
        _write(plan, {{"event": "start", "step": begin, "time": time.time(), "max_steps": plan.schedule.max_steps,
                      "setup_seconds": 0.0}})
    Path("{how}").with_name(f"rank{{rank}}.environment").write_text(json.dumps(dict(os.environ)))
    for step in range(begin + 1, plan.schedule.max_steps + 1):
        time.sleep(how.get("seconds", 0.1))
        (folder / f"at{{rank}}").write_text(str(step))
        for other in range(int(os.environ["WORLD_SIZE"])):  # in step, as collectives keep real ranks
            while not asked and _at(folder / f"at{{other}}") < step:
                time.sleep(0.01)
        if rank == 0:
            _write(plan, {{"event": "step", "step": step, "time": time.time(), "loss": 1.0, "lr": 1.0, "grad_norm": 1.0,
                          "seconds": 0.1, "tokens_per_second": 1.0, "memory_bytes": 1}})
            (folder / "heartbeat").touch()
            print(f"stand-in at step {{step}}", flush=True)
        while step == how.get("eat_at"):
            asked.append(bytearray(10_000_000))  # nothing takes it away again
        if step == how.get("fail_at") and rank == how.get("fail_rank", 0):
            (folder / f"rank{{rank}}.error").write_text(f"{{time.time()}}\\nValueError: made to fail at step {{step}}\\n")
            sys.exit(1)
        if asked and list(folder.glob("rank*.error")) and not how.get("stubborn"):
            os._exit(1)  # no collective can end without the rank that failed
        if step == how.get("save_at") or asked or step == plan.schedule.max_steps:
            if rank == 0:
                path = plan.folder / "checkpoints" / f"step_{{step:08d}}"
                path.mkdir(parents=True, exist_ok=True)
                (path / "manifest.json").write_text(json.dumps({{"files": {{}}}}))
        if asked:
            if rank == 0:
                _write(plan, {{"event": "end", "time": time.time(), "step": step, "reason": "stopped"}})
            os._exit(STOPPED)


def _at(path):
    try:
        return int(path.read_text() or 0)
    except FileNotFoundError:
        return 0


def _write(plan, event):
    with (plan.folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps(event) + "\\n")
'''


@pytest.fixture(scope="package")  # not session: no test of another folder shall find a Slurm
def slurm() -> Iterator[daemons.Daemons]:
    """Six nodes of 8 GPUs each and account `a1`; the partitions are in daemons.SLURM_CONF."""
    reason = daemons.missing()
    if reason:
        pytest.skip(reason)
    made = daemons.Daemons()
    before = {name: os.environ.get(name) for name in ("SLURM_CONF",)}
    try:
        made.start()
        os.environ["SLURM_CONF"] = str(made.conf)
        yield made
    finally:
        made.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@pytest.fixture(scope="package")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tokenizer/ and dataset/ made from the standard library's sources."""
    place = tmp_path_factory.mktemp("corpus")
    text = place / "data" / "stdlib.jsonl"
    text.parent.mkdir()
    demo.write_corpus(text, limit=1_000_000)
    demo.train_tokenizer(text, place / "tokenizer", vocabulary=1024)
    subprocess.run(
        ["bash", str(REPOSITORY / "preprocess_data.sh"), "--hf-tokenizer", str(place / "tokenizer"), "--data-prefix",
         "stdlib", "--input-dir", str(text.parent), "--output-dir", str(place / "dataset")],
        check=True, capture_output=True, env=dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}"),
    )  # fmt: skip
    return place


@dataclass(frozen=True)
class Boxed:
    """Flags and variables of a job whose ranks Apptainer starts: the stand-in of tests/launch/slurm, told in its head."""

    flags: tuple[str, ...]
    variables: dict[str, str]
    log: Path

    @classmethod
    def make(cls, place: Path) -> Boxed:
        """The image's python is this one, which the job's PATH does not lead to."""
        program, image, log = place / "bin" / "apptainer", place / "nemo.sif", place / "apptainer.log"
        program.parent.mkdir()
        shutil.copy(REPOSITORY / "tests" / "launch" / "slurm" / "apptainer_stand_in.py", program)
        image.write_text(f"PATH={Path(sys.executable).parent}:/usr/bin:/bin\n")
        path = f"{program.parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin"
        return cls(
            ("--container-runtime", "apptainer", "-I", str(image)), {"PATH": path, "APPTAINER_LOG": str(log)}, log
        )


@pytest.fixture(scope="package")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Boxed:
    return Boxed.make(tmp_path_factory.mktemp("boxed"))


class Runs:
    """The command as a user types it, with an output folder of the test's own."""

    def __init__(self, corpus: Path, place: Path, environment: dict[str, str] | None = None):
        self.corpus, self.out, self.repository = corpus, place / "out", REPOSITORY
        self.environment = environment or dict(os.environ)
        self.how = place / "how.json"  # read by the stand-in
        self.how.write_text("{}")

    def words(self, name: str, *flags: str) -> list[str]:
        return [
            sys.executable, str(self.repository / "pretrain_llm.py"), "--executor", "slurm", "--accelerator", "cpu",
            *(() if "--container-runtime" in flags else ("--no-container",)), "-A", "a1", "-P", "batch", "-M", "llama_tiny", "-G", "1", "-E", name,
            "--hf-model-id", str(self.corpus / "tokenizer"), "--dataset-dir", str(self.corpus / "dataset"),
            "--output-dir", str(self.out), "-gbs", "16", "-mbs", "8", "--max-steps", "20", "--save-every", "5",
            "--val-check-interval", "10", "--log-every", "1", *flags,
        ]  # fmt: skip

    def pretrain(self, name: str, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(name, *flags), capture_output=True, text=True, timeout=LIMIT, check=False,
            env=self.environment | variables,
        )  # fmt: skip

    def found_by(self, rank: int) -> dict[str, str]:
        """What the stand-in of a rank found in its environment."""
        return json.loads(self.how.with_name(f"rank{rank}.environment").read_text())

    def start(self, name: str, *flags: str, **variables: str) -> subprocess.Popen[str]:
        """The command in the background, as with --wait."""
        return subprocess.Popen(
            self.words(name, *flags), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=self.environment | variables,
        )  # fmt: skip

    def control(self, *words: str) -> subprocess.CompletedProcess[str]:
        """python -m nemo_workflow.runs."""
        command = [sys.executable, "-m", "nemo_workflow.runs", "--output-dir", str(self.out), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False, cwd=REPOSITORY,
                              env=self.environment)  # fmt: skip

    def jobs(self, name: str) -> list[Job]:
        return slurm_jobs.jobs_of(self.out / name)

    def stand_in(
        self, slurm: daemons.Daemons, name: str, *flags: str, variables: dict[str, str] | None = None, **how: Any
    ) -> list[Job]:
        """Submit held jobs, put the stand-in into the code that was submitted, and let them go."""
        done = self.pretrain(name, "--slurm-arg", "hold", *flags, **variables or {})
        assert done.returncode == 0, done.stderr
        return self.replace(slurm, name, **how)

    def replace(self, slurm: daemons.Daemons, name: str, **how: Any) -> list[Job]:
        """Put the stand-in into the held jobs of a run, and let them go."""
        self.how.write_text(json.dumps(how))
        submitted = slurm_jobs.latest(self.out / name)
        for job in submitted:
            worker = job.attempt / "code" / "nemo_workflow" / "training" / "worker.py"
            worker.write_text(STAND_IN.format(how=self.how))
        for job in submitted:
            slurm.run("scontrol", "release", job.job_id)
        return submitted


SMALL = ("-gbs", "4", "-mbs", "2", "--seq-length", "64")


def slow_steps(runs: Runs, more: str = "") -> tuple[str, str]:
    """Flags that make a real training take half a second a step: asleep, so that the tests beside it have the cores."""
    setup = runs.how.with_name("setup.sh")
    faults = shlex.quote(str(REPOSITORY / "tests" / "e2e" / "run" / "faults"))
    setup.write_text(f'export SLOW=0.5 RANK= PYTHONPATH={faults}:"$attempt/code"\n{more}')
    return "--setup-file", str(setup)


@pytest.fixture
def runs(corpus: Path, tmp_path: Path) -> Runs:
    return Runs(corpus, tmp_path)


def wait_for(condition: Callable[[], Any]) -> Any:
    """The first true value of `condition()`."""
    return until(condition, 0.1)


def history(runs: Runs, name: str) -> list[dict[str, Any]]:
    """The metrics events of a run."""
    return metrics.read(runs.out / name / metrics.FILE)


def losses(runs: Runs, name: str) -> dict[int, tuple[float, float, int]]:
    """Loss, gradient norm and consumed samples by step, of the history that counts."""
    return {
        event["step"]: (event["loss"], event["grad_norm"], event["consumed_samples"])
        for event in metrics.effective(history(runs, name))
        if event["event"] == "step"
    }


@pytest.fixture(scope="package")
def limited(
    slurm: daemons.Daemons, corpus: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Runs, subprocess.Popen[str]] | None]:
    """A real training behind all other tests, for Slurm looks at limits twice a minute.

    Its time limit stops it; it comes back and takes some steps; its node is lost; it comes back, and is cancelled.
    """
    if "test_time_limit_and_lost_node" not in [item.name for item in request.session.items]:
        yield None
        return
    runs = Runs(corpus, tmp_path_factory.mktemp("limited"))
    setup = slow_steps(runs, "renice -n 5 $$ >/dev/null\n")  # the tests in front come first
    process = runs.start(
        "limit", "--wait", "-P", "spare", "--time", "20", "--stop-before", "20", "--requeue", "2", "--max-steps", "5000",
        "--save-every", "5000", "--val-check-interval", "5000", *SMALL, *setup,
    )  # fmt: skip
    watcher = threading.Thread(target=_lead, args=(slurm, runs), daemon=True)
    watcher.start()
    yield runs, process
    watcher.join(LIMIT)
    process.kill()
    process.communicate()


@pytest.fixture(scope="package")
def out_of_time(
    slurm: daemons.Daemons, corpus: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Runs | None:
    """Two jobs of one minute behind all other tests: `late` saves at the limit's SIGTERM, `deaf` takes no notice of it."""
    if "test_a_time_limit_without_a_warning_is_told" not in [item.name for item in request.session.items]:
        return None
    runs = Runs(corpus, tmp_path_factory.mktemp("out_of_time"))
    for name in ("late", "deaf"):
        flags = ("--time", "1", "--stop-before", "0", "--max-steps", "5000")
        runs.stand_in(slurm, name, *flags, deaf=name == "deaf")
        wait_for(lambda: any(event["event"] == "step" for event in history(runs, name)))  # noqa: B023 - called here
    return runs


def _lead(slurm: daemons.Daemons, runs: Runs) -> None:
    def steps_since(start: int) -> bool:
        starts = [event["step"] for event in history(runs, "limit") if event["event"] == "start"]
        return len(starts) > start and max(losses(runs, "limit"), default=0) >= starts[start] + 2

    wait_for(lambda: steps_since(0))
    (job,) = runs.jobs("limit")
    begun = (job.attempt / "begun-0").stat().st_mtime
    minutes = int(time.time() - begun + 40) // 60 + 1  # some 40 to 100 s are left from now
    slurm.run("scontrol", "update", f"JobId={job.job_id}", f"TimeLimit={minutes}")
    wait_for(lambda: (state := Cluster().job(job.job_id)) and state.restarts == 1)
    slurm.run("scontrol", "update", f"JobId={job.job_id}", "TimeLimit=20")
    wait_for(lambda: steps_since(1))
    slurm.lose_node(4)
    try:
        wait_for(lambda: (state := Cluster().job(job.job_id)) and state.restarts == 2)
    finally:
        slurm.start_node(4)
    wait_for(lambda: steps_since(2))
    runs.control("cancel", "limit")
