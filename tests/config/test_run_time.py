"""Times of a whole run that no card has a part in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nemo_workflow.config import run_time
from nemo_workflow.config.schedule import Schedule
from nemo_workflow.utils import machine
from tests.config.measured_runs import job

TINY = job("llama_tiny", 8, 16, 256, words=4096)
# of a run without validations, whose length has no part in a step's time
SCHEDULE = Schedule(100, 0, 0, 1e-3, 1e-4, 50, 50, 0)


@pytest.mark.parametrize(("flags", "rate"), [("fpu avx2 avx512_bf16 amx_bf16 amx_tile", 100e9), ("fpu avx2", 36e9)])
def test_a_cpus_rate_follows_its_instructions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, rate: float
) -> None:
    """/proc/cpuinfo as two kinds of processor have it: a file of the test's own."""
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    machine.CPUINFO.write_text(f"model name\t: Some CPU\nflags\t\t: {flags}\n\nflags\t\t: {flags}\n")
    tokens = 16 * 256
    found = run_time.of_cpu_run(TINY, SCHEDULE, 1.0)
    wanted = found["step_seconds"] * rate * machine.facts()["cores"]
    assert 15e6 < wanted / tokens < 60e6  # operations a token of a model of four million parameters
    exact = run_time.of_cpu_run(replace(TINY, precision="32"), SCHEDULE, 1.0)
    assert exact["step_seconds"] == pytest.approx(wanted / 36e9 / machine.facts()["cores"])


def test_a_machine_that_tells_no_instructions_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    assert machine.instructions() == frozenset()
