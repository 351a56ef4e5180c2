"""Tensors that are mapped, given again, or filled only where they are used."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nemo_workflow.utils.libraries import collector_paused
from tests.later import later

torch, buffers = later("torch"), later("nemo_workflow.conversion.buffers")


@pytest.mark.parametrize(("begin", "count"), [(0, 10), (5, 9000), (4096, 4096), (8191, 2), (9999, 1), (7, 0)])
def test_a_part_of_a_file_is_mapped(begin: int, count: int, tmp_path: Path) -> None:
    data = bytes(torch.randint(256, (10_000,), dtype=torch.uint8).tolist())
    (tmp_path / "shard").write_bytes(data)
    found = buffers.mapped(tmp_path / "shard", begin, count)
    assert bytes(found.tolist()) == data[begin : begin + count]
    assert found.untyped_storage().nbytes() == count  # what torch.save would write
    found.zero_()
    assert (tmp_path / "shard").read_bytes() == data


def test_only_the_rows_asked_for_are_widened() -> None:
    table = torch.randn(50, 8).bfloat16()
    wide = buffers.only_rows(table, torch.tensor([[3, 49, 3]]))
    assert wide.dtype == torch.float32 and wide.shape == table.shape
    assert torch.equal(wide[[3, 49]], table[[3, 49]].float())
    assert wide.abs().sum(1).nonzero().flatten().tolist() == [3, 49]


def test_scratch_gives_its_memory_again() -> None:
    scratch = buffers.Scratch()
    first, second = scratch.take(torch.Size([4, 8])), scratch.take(torch.Size([3]))
    first.fill_(1.0)
    second.fill_(2.0)
    assert first.eq(1).all()
    scratch.clear()
    assert scratch.take(torch.Size([2, 5])).data_ptr() == first.data_ptr()
    larger = scratch.take(torch.Size([7]))
    assert larger.numel() == 7 and larger.data_ptr() != second.data_ptr()


def test_the_collector_rests_during_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = gc.get_freeze_count()
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            pass
        assert not gc.isenabled()  # the inner block found it at rest
        assert gc.get_freeze_count() == frozen  # nothing was imported in it
        monkeypatch.setitem(sys.modules, "imported_here", ModuleType("imported_here"))
    assert gc.isenabled() and gc.get_freeze_count() > frozen
    gc.unfreeze()
