"""--max-restarts: the ranks come back by themselves from the newest checkpoint, and not for ever."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_workflow.config.settings import Settings
from nemo_workflow.launch import restarts as rules
from nemo_workflow.run_dir import metrics
from nemo_workflow.run_dir.checkpoints import write_manifest

TRACE = 'rank 0:\nTraceback (most recent call last):\n  File "x.py", line 1, in train\n    step()\n'


@pytest.mark.parametrize(
    ("failure", "worth"),
    [
        ("rank 1 was ended by SIGKILL; its log: /x/rank1.log", True),
        ("torchrun, which runs the ranks, was ended by SIGKILL; logs: /x", True),
        ("rank 0:\ncheckpoint step_00000006 could not be saved: a process that writes it was ended from outside (EOFError): was it out of memory?; the checkpoints before it are whole\nlog of rank 0: /x", True),
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


LOG = "; its log: /x/rank1.log"


@pytest.mark.parametrize(
    ("failure", "steps", "newest", "told"),
    [
        (f"rank 1 was ended by SIGKILL{LOG}", 0, None, "rank 1 was ended by SIGKILL, after step 0; restart 1 of 3 from the beginning"),
        (f"rank 1 was ended by SIGKILL{LOG}", 6, 4, "rank 1 was ended by SIGKILL, after step 6; restart 1 of 3 from step 4"),
        (f"{TRACE}RuntimeError: NCCL error\nlog of rank 0: /x", 6, 4, "rank 0, after step 6; restart 1 of 3 from step 4"),
        ("no step for 30 min; rank 1 was stopped", 6, 4, "no step for 30 min; rank 1 was stopped, after step 6; restart 1 of 3 from step 4"),
    ],
)  # fmt: skip
def test_a_restart_is_told_and_written_down(
    failure: str, steps: int, newest: int | None, told: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Real files: the newest whole checkpoint and the last step are read from the run's folder."""
    if newest is not None:
        folder = tmp_path / "checkpoints" / f"step_{newest:08d}"
        folder.mkdir(parents=True)
        write_manifest(folder, step=newest, consumed_samples=0, identity={})
    for step in range(1, steps + 1):
        metrics.event(tmp_path / metrics.FILE, "step", step=step)
    plan: Any = SimpleNamespace(folder=tmp_path, settings=Settings(max_restarts=3))
    monkeypatch.setattr(rules.time, "strftime", lambda form: {"%H:%M:%S": "12:34:56"}[form])
    assert rules.Restarts(plan).another(failure)
    assert capsys.readouterr().out == f"12:34:56 {told}\n"
    last = metrics.read(tmp_path / metrics.FILE)[-1]
    assert (last["event"], last["text"], last["step"]) == ("restart", f"12:34:56 {told}", newest or 0)


def test_the_cause_is_the_last_line_of_the_last_traceback() -> None:
    """An error of NCCL that the program went on from is in a line before it, or indented."""
    assert not rules.worth_another(f"{TRACE}    raise RuntimeError('NCCL error')\nValueError: mine\nlog of rank 0: /x")
    assert not rules.worth_another("NCCL error, but no traceback")


def test_why_there_is_no_further_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan: Any = SimpleNamespace(folder=tmp_path, settings=Settings(max_restarts=3))
    restarts = rules.Restarts(plan)
    assert restarts.another(f"rank 1 was ended by SIGKILL{LOG}")
    capsys.readouterr()
    assert not restarts.another(f"rank 1 was ended by SIGKILL{LOG}")
    said = "no further restart (--max-restarts 3): no checkpoint was saved since the last restart\n"
    assert capsys.readouterr().out == said
