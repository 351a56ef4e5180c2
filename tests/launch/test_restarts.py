"""--max-restarts: the ranks come back by themselves from the newest checkpoint, and not for ever."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_workflow.config.settings import Settings
from nemo_workflow.launch import restarts as rules
from nemo_workflow.run_dir import metrics

TRACE = 'rank 0:\nTraceback (most recent call last):\n  File "x.py", line 1, in train\n    step()\n'


@pytest.mark.parametrize(
    ("failure", "worth"),
    [
        ("rank 1 was ended by SIGKILL; its log: /x/rank1.log", True),
        ("torchrun, which runs the ranks, was ended by SIGKILL; logs: /x", True),
        ("no step for 30 min; rank 1 was stopped (SIGSTOP); all ranks' stacks are in /x/rank*.log", True),
        (f"{TRACE}torch.AcceleratorError: CUDA error: an illegal memory access was encountered\nlog of rank 0: /x", True),
        (f"{TRACE}torch.distributed.DistBackendError: NCCL error in: /p/ProcessGroupNCCL.cpp:2000\nlog of rank 0: /x", True),
        (f"{TRACE}OSError: [Errno 12] Cannot allocate memory\nlog of rank 0: /x", True),
        (f"{TRACE}ValueError: a bug of the user's\nlog of rank 0: /x/NCCL/CUDA error/rank0.log", False),
        (f"{TRACE}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.\nlog of rank 0: /x", False),
        ("rank 1:\nstep 3: a gradient is NaN or infinite on rank 1, before the update\nlog of rank 1: /x", False),
        ("rank 0:\ncheckpoint step_00000008 could not be saved: no space left on device\nlog of rank 0: /x", False),
        ("the ranks ended without an error before the last step; logs: /x", False),
    ],
)  # fmt: skip
def test_only_what_the_machine_did_is_worth_a_restart(failure: str, worth: bool) -> None:
    assert rules.worth_another(failure) == worth


def test_a_failure_without_progress_and_one_too_many_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan: Any = SimpleNamespace(folder=tmp_path, settings=Settings(max_restarts=2))
    newest: list[int] = [0]
    monkeypatch.setattr(rules, "newest_whole", lambda folder: (SimpleNamespace(step=newest[0]), []))
    killed = "rank 1 was ended by SIGKILL; its log: /x/rank1.log"
    restarts = rules.Restarts(plan)
    assert restarts.another(killed) and not restarts.another(killed)  # nothing was saved in between
    assert "no checkpoint was saved since the last restart" in capsys.readouterr().out
    newest[0] = 4
    assert not restarts.another("rank 0:\na gradient is NaN")
    assert restarts.another(killed)
    assert "rank 1 was ended by SIGKILL, after step 0; restart 2 of 2 from step 4" in capsys.readouterr().out
    newest[0] = 8
    assert not restarts.another(killed)
    assert "no further restart (--max-restarts 2): all used" in capsys.readouterr().out
    assert [e["step"] for e in metrics.read(tmp_path / metrics.FILE)] == [0, 4]
    plan.settings.max_restarts = 0
    assert not rules.Restarts(plan).another(killed)
