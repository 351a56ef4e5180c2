"""What a run's folder knows of its Slurm jobs: attempts/<start>/slurm.json, written at submission."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from nemo_workflow.utils.files import write_json

FILE = "slurm.json"
TASK = "train"  # nemo_run's name of the one task of a job


@dataclass(frozen=True)
class Job:
    """One submitted job of a run. `link` of `chain` counts from 1."""

    attempt: Path
    job_id: str
    experiment_id: str
    host: str | None
    submitted: float  # seconds since the epoch by Slurm's clock; by ours where Slurm did not tell
    link: int = 1
    chain: int = 1
    # what else tells the job from a later one of the same number
    name: str = ""
    uid: int | None = None
    cluster: str = ""  # empty where Slurm did not tell

    def folder(self, restart: int) -> Path:
        """Where the ranks of a restart (0: the first start) write their logs."""
        return restart_folder(self.attempt, restart)

    def logs(self) -> list[Path]:
        """What the ranks said before their own logs began, one file per restart; the job script's log where there is none."""
        logs = sorted(self.attempt.glob("log-*.out"), key=lambda path: int(path.stem.rpartition("_")[2]))
        return logs or self.script_logs()

    def script_logs(self) -> list[Path]:
        """The log of the job script, which all restarts add to."""
        return sorted(self.attempt.glob("sbatch_*.out"))

    @property
    def restarts(self) -> int:
        """Times that Slurm started the job again, from what its script left; older Slurms' accounting doesn't tell."""
        return max((int(path.name.partition("-")[2]) for path in self.attempt.glob("begun-*")), default=0)

    def exit_code(self, restart: int) -> int | None:
        """What the job script left as it ended; None where it was killed or has not ended."""
        try:
            return int((self.attempt / f"exit-{restart}").read_text())
        except (OSError, ValueError):
            return None


def hung_mark(attempt: Path, restart: int) -> Path:
    """The file that the nodes' watchers write where a start's ranks have hung: a line a node, which says what was found."""
    return attempt / f"hung-{restart}"


def stopped_mark(attempt: Path, restart: int) -> Path:
    """The file of a rank that stopped because it was asked to, where no metrics tell."""
    return attempt / f"stopped-{restart}"


def done_mark(attempt: Path, restart: int) -> Path:
    """The file that says that all work is done, however single ranks ended: preprocessing goes on without a lost node."""
    return attempt / f"done-{restart}"


def cancelled_mark(attempt: Path) -> Path:
    """The file that holds the name of who cancelled a job with `runs cancel`."""
    return attempt / "cancelled"


def restart_folder(attempt: Path, restart: int) -> Path:
    """The folder of a job's logs: the attempt's own, and one beside it for each time that Slurm started it again."""
    return attempt.with_name(f"{attempt.name}-restart{restart}") if restart else attempt


def record(job: Job) -> None:
    """Write slurm.json."""
    values = asdict(job)
    del values["attempt"]
    write_json(job.attempt / FILE, values)


def jobs_of(run: Path) -> list[Job]:
    """The jobs of a run, in the order of submission."""
    found = [_read(run, path) for path in run.glob(f"attempts/*/{FILE}")]
    return sorted(found, key=lambda job: (job.submitted, job.link))


def _read(run: Path, path: Path) -> Job:
    """A job's record; the name and the owner of one that was written without them are those of its folder and file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values.setdefault("name", job_name(run.name))
    if values.get("uid") is None and not values["host"]:
        values["uid"] = path.stat().st_uid
    return Job(attempt=path.parent, **values)


def job_name(experiment: str) -> str:
    """Slurm's name of a run's jobs."""
    return f"{experiment}.{TASK}"


def latest(run: Path) -> list[Job]:
    """The jobs of the last submission: one, or the links of a chain."""
    jobs = jobs_of(run)
    return jobs[-jobs[-1].chain :] if jobs else []
