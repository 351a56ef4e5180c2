"""What a start on this machine hands to its ranks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow import REPOSITORY
from nemo_workflow.utils.errors import Refusal
from tests.places import Place
from tests.waiting import LIMIT


@pytest.mark.slow
def test_a_rank_takes_its_share_of_the_cores_unless_the_user_says_how_many(
    shared: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemo_workflow.launch.ranks import worker_environment

    plan = shared.plan()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert worker_environment(plan, Path("code"))["OMP_NUM_THREADS"] == str(len(os.sched_getaffinity(0)))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert worker_environment(plan, Path("code"))["OMP_NUM_THREADS"] == "7"


REFUSED = """
import sys
from pathlib import Path
from nemo_workflow.config.plan import Plan
from nemo_workflow.launch.local import run_local
from nemo_workflow.utils.errors import run_command
run_command(lambda: run_local(Plan.from_json(Path(sys.argv[1]).read_text())))
"""


def test_an_interface_that_is_not_there_is_refused(shared: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a cluster's login script sets it: torch says that it finds no address, and not who wants one."""
    from nemo_workflow.launch import local, ranks

    plan = shared.plan(experiment="no-interface")
    monkeypatch.setenv(ranks.INTERFACE, "lo,ib0")
    with pytest.raises(Refusal, match=r"^GLOO_SOCKET_IFNAME=ib0: this machine has no such interface, but lo.*; unset"):
        local.run_local(plan)
    assert not plan.folder.exists()
    for usual in ("lo", ""):
        monkeypatch.setenv(ranks.INTERFACE, usual)
        assert [*ranks.without_network()] == []


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root, for a machine without network"
)
def test_a_machine_whose_loopback_is_down_is_refused(shared: Place, tmp_path: Path) -> None:
    """torch would try for two minutes, and end in a traceback."""
    plan = shared.plan(experiment="no-loopback")
    written = tmp_path / "plan.json"
    written.write_text(plan.to_json())
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", REFUSED, written],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=LIMIT,
    )  # fmt: skip
    if "unshare failed" in done.stderr:
        pytest.skip("this root may not take its network away")
    assert (done.returncode, done.stderr) == (
        2, "-c: error: 127.0.0.1: Network is unreachable; the ranks meet there: ip link set lo up, as root\n",
    )  # fmt: skip
    assert not plan.folder.exists()
