"""What a --setup-file may do to the job script that it is read into: the script as bash runs it, and on real daemons."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.launch.slurm import script
from tests.launch.slurm import plans

SRUN = """#!/bin/bash
case "$*" in *hostname*) echo 10.0.0.5; exit ;; esac
env > "$ENVIRONMENT"
printf '%s\\n' "$@" > "$ENVIRONMENT.words"
exit ${RANKS_END_WITH:-0}
"""


class Script:
    """A job script with --setup-file, run by bash; srun and scontrol are stand-ins."""

    def __init__(self, place: Path):
        plan = plans.plan("no_container")
        self.plan = dataclasses.replace(plan, run_dir=str(place / "run"))
        self.attempt = place / "run" / "attempts" / plans.ATTEMPT
        self.attempt.mkdir(parents=True)
        self.environment = place / "environment"
        for name, text in (("srun", SRUN), ("scontrol", "#!/bin/bash\necho n1\n")):
            path = place / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        self.variables = {
            **os.environ,
            "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "12",
            "SLURMD_NODENAME": "n1",
            "ENVIRONMENT": str(self.environment),
        }

    def run(self, setup: str, **variables: str) -> subprocess.CompletedProcess[str]:
        (self.attempt / script.SETUP).write_text(setup)
        text = script.job_script(self.plan, self.attempt)
        return subprocess.run(
            ["bash", "-s"], input=text, capture_output=True, text=True, check=False, env=self.variables | variables
        )

    @property
    def left(self) -> str:
        return (self.attempt / "exit-0").read_text().strip()


@pytest.fixture
def job(tmp_path: Path) -> Script:
    return Script(tmp_path)


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        ("exit 0\n", "--setup-file ended the job with exit code 0 before anything was trained"),
        ("exit 4\n", "--setup-file ended the job with exit code 4 before anything was trained"),
        ("return 3\n", "--setup-file ended the job with exit code 3"),
        ("# modules\n\nls /no/such\n", "exit code 2 before anything was trained: line 3, ls /no/such"),
        ("no-such-command x", "exit code 127 before anything was trained: line 1, no-such-command x"),
        ("f() {\n  return 5\n}\nf\n", "exit code 5 before anything was trained: line 4, return 5"),
        ("set -eu\nls /no/such\ntrue\n", "exit code 2 before anything was trained: line 2, ls /no/such"),
        ("if true; then\n", "exit code 2"),
        ("trap 'echo bye' EXIT\nfalse\n", "exit code 1 before anything was trained: line 2, false"),
    ],
)
def test_a_setup_file_that_ends_the_job_is_told_with_its_line(setup: str, said: str, job: Script) -> None:
    done = job.run(setup)
    assert done.returncode not in (0, 75), done
    assert said in done.stderr
    assert job.left == str(done.returncode)
    assert not job.environment.exists()


@pytest.mark.parametrize(
    "setup",
    [
        "",
        "export A=1",
        "[ -f /no/such ] && . /no/such\n",
        "no-such-command\n[ -f /no/such ] && . /no/such\n",
        "set -eu\n[ -f /no/such ] && . /no/such\n",
        "ls /no/such\ntrue\n",
        "set -euo pipefail; set -f; IFS=:; umask 077; cd /\n",
        "trap 'echo bye' EXIT; trap '' TERM ERR DEBUG\n",
        "cat <<END\nhello\nEND",
        "return 0\n",
        "run=wiki attempt=x python=y requeue=9 after_stop=0 restarts=7 begun=b logs=l told=yes code=3 again=yes exitcode=5\n",
        "export head_node= head_node_ip= nodes= address=\nstopped() { false; }; finish() { exit 8; }; saved() { true; }\n",
    ],
)
def test_a_setup_file_that_is_none_of_the_scripts_business(setup: str, job: Script) -> None:
    """The ranks start, and the job ends as they do."""
    done = job.run(setup)
    assert (done.returncode, job.left) == (0, "0"), done
    words = Path(f"{job.environment}.words").read_text().splitlines()
    assert words[-3:] == [sys.executable, f"{job.attempt}/code/rank.py", str(job.attempt)]
    assert "MASTER_ADDR=10.0.0.5\n" in job.environment.read_text()
    assert job.run(setup, RANKS_END_WITH="7").returncode == 7
    assert job.left == "7"
    (job.attempt / "stopped-0").touch()
    assert job.run(setup, RANKS_END_WITH="1").returncode == 75


def test_the_setup_file_reaches_the_ranks_and_python_keeps_its_docstrings(job: Script) -> None:
    job.run('export OF_SETUP="a b" PYTHONOPTIMIZE=2 TOKENIZERS_PARALLELISM=true WHERE=$attempt\n')
    found = job.environment.read_text().splitlines()
    assert {"OF_SETUP=a b", "TOKENIZERS_PARALLELISM=true", f"WHERE={job.attempt}"} <= set(found)
    assert not any(line.startswith("PYTHONOPTIMIZE") for line in found)
