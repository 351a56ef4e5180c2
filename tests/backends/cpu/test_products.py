"""Half-precision products on CPUs with and without instructions for them. The old CPU is this one, told to be old."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.run.faults.old_cpu import AVX2_ONLY
from tests.later import later

torch, products = later("torch"), later("nemo_workflow.backends.cpu.products")

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def old_cpu() -> Any:
    if platform.machine() != "x86_64":
        pytest.skip("only an x86-64 CPU can be told to be an old one")
    done = subprocess.run(
        [sys.executable, "-m", "tests.backends.cpu.products_worker"],
        cwd=REPOSITORY, env=os.environ | AVX2_ONLY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_without_the_instructions_half_precision_is_found_to_be_slow(old_cpu: Any) -> None:
    assert old_cpu["slow"].keys() == {"bf16", "fp16"}
    assert min(old_cpu["slow"].values()) > products.SLOW


@pytest.mark.slow
def test_every_product_then_takes_a_fraction_of_the_time(old_cpu: Any) -> None:
    """By 3 to 50 times, less where another takes its part of a core meanwhile: three quarters are for one that is left as it was."""
    late = {
        f"{product} of {name}": times
        for name, rows in old_cpu["times"].items()
        for product, times in rows.items()
        if times[1] > times[0] * 0.75
    }
    assert late == {}


@pytest.mark.slow
def test_they_are_fp32s_rounded_once_and_fp32_stays_as_it_was(old_cpu: Any) -> None:
    assert old_cpu["wrong"] == []


@pytest.mark.slow
@pytest.mark.parametrize(("late", "waits", "slow"), [(0.0, 0.0, set()), (0.015, 0.0, {"bf16"}), (0.0, 0.03, set())])
def test_a_measurement_chooses_and_no_name_of_a_cpu(
    late: float, waits: float, slow: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On x86-64 and arm64 alike: torch's product stands in for a CPU with fast products, for one where bf16 is late,
    and for one whose cores others have just then."""
    product = torch.mm

    def stand_in(a: Any, b: Any) -> Any:
        half = a.dtype is torch.bfloat16
        end = time.thread_time() + 0.005 + (late if half else 0)
        while time.thread_time() < end:
            pass
        time.sleep(waits if half else 0)
        return product(a, b) if a.dtype is torch.float32 else product(a.float(), b.float()).to(a.dtype)

    monkeypatch.setattr(products, "_replaced", set())
    monkeypatch.setattr(torch, "mm", stand_in)
    for name in ("machine", "processor", "uname"):
        monkeypatch.delattr(platform, name)
    assert products.slow_types().keys() == slow


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 through fp32, whatever this machine's CPU is, for one test."""
    monkeypatch.setattr(products, "_library", None)
    monkeypatch.setattr(products, "_replaced", set())
    products.compute_in_fp32(["bf16"])


def test_what_torch_refuses_stays_refused(replaced: None) -> None:
    a, b = torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(3, 4, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="same dtype"):
        torch.mm(a, b.float())
    with pytest.raises(RuntimeError, match="dtype"):
        torch.mm(a, b, out=torch.empty(2, 4))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        torch.mm(a, a)


def test_a_result_is_written_where_it_is_asked_for(replaced: None) -> None:
    a, b = torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(3, 4, dtype=torch.bfloat16)
    small, wide = torch.empty(0, dtype=torch.bfloat16), torch.zeros(4, 4, dtype=torch.bfloat16)
    assert torch.mm(a, b, out=small) is small and small.tolist() == [[3.0] * 4] * 2
    torch.mm(a, b, out=wide[::2])  # every second row of another
    assert wide[:, 0].tolist() == [3.0, 0.0, 3.0, 0.0]
    row = wide[1:3]
    assert row.addmm_(a, b) is row and wide[:, 0].tolist() == [3.0, 3.0, 6.0, 0.0]


def test_types_that_are_fast_are_left_alone(replaced: None) -> None:
    for dtype in (torch.float16, torch.float64, torch.int64):
        a = torch.arange(6).view(2, 3).to(dtype)
        assert torch.mm(a, a.t()).dtype is dtype and torch.mm(a, a.t()).tolist() == [[5, 14], [14, 50]]
