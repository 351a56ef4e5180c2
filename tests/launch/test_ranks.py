"""What a start on this machine hands to its ranks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.places import Place


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
