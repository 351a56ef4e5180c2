"""The optimizer's state in a checkpoint, gathered when it is written: real ranks over gloo, real buffers, real files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.waiting import LIMIT

HERE = Path(__file__).resolve().parent


@pytest.mark.e2e
@pytest.mark.thorough
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_checkpoint_holds_what_the_optimizer_has(tmp_path: Path, ranks: int) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.backends.gather_ranks", str(rank), str(ranks), str(tmp_path)],
            cwd=HERE.parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    for process in started:
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0 and b"the same" in out, err.decode()[-3000:]


def test_a_load_gets_memory_that_nobody_has_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read goes there, whole: test_changes.py of e2e/run has the losses. A load by gloo, or on one rank alone, is the original's."""
    import torch

    from nemo_workflow.backends import optimizer_gather

    monkeypatch.setattr(torch, "zeros", None)  # the original fills all of it with them
    buffer = SimpleNamespace(numel=96, numel_unpadded=90)
    optimizer = SimpleNamespace(gbuf_ranges=[{("bf16", "fp32"): []}], buffers=[buffer])
    gather = optimizer_gather.without_storage(lambda *given: given)
    state = gather(optimizer, use_gloo_comm=False, empty_data=True, return_on_all_ranks=True)
    found = state[0][("bf16", "fp32")]
    assert found.pop("numel_unpadded") == 90 and set(found) == set(optimizer_gather.KEYS)
    assert all(t.device.type == "cpu" and t.shape == (96,) and t.dtype == torch.float32 for t in found.values())
    assert optimizer_gather._waiting == []
    assert gather(optimizer, True, True, True) == (optimizer, True, True, True)
    assert gather(optimizer, False, True, False) == (optimizer, False, True, False)
