"""What is in memory of a model that is written or averaged, whatever its size; and the mean itself, of pieces laid in any way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.run_dir.checkpoints import Checkpoint
from nemo_workflow.runs import average
from nemo_workflow.utils.errors import Refusal
from tests.later import later

torch, nemo_folder = later("torch"), later("nemo_workflow.conversion.nemo_folder")
pytestmark = pytest.mark.e2e
MIB = 1 << 20
LARGE, SMALL, TENSORS = 64 << 20, 4 << 20, 20  # numbers in bf16: 128 MiB, and 20 times 8 MiB
PROGRAM = f"""
import sys
from pathlib import Path
import torch
from nemo_workflow.conversion.nemo_folder import Chunk, NemoReader, write_weights
from nemo_workflow.run_dir.checkpoints import Checkpoint
from nemo_workflow.runs.average import write_average

def memory(what):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) << 10

def chunk(name, size, step):
    make = lambda: torch.full((1, size), float(step), dtype=torch.bfloat16)
    return Chunk(name, (1, size), (0, 0), (1, size), torch.bfloat16, make)

def write(weights, count):
    write_weights(weights, [chunk(f"t{{n}}", {SMALL}, 1) for n in range(count)], [])

place = Path(sys.argv[2])
write(place / "first" / "weights", 1)  # what a first use takes is no tensor
Path("/proc/self/clear_refs").write_text("5")  # the peak is this moment's: imports took more for a while
before = memory("VmRSS")
if sys.argv[1] == "write":
    write(place / "all" / "weights", {TENSORS})
else:
    chosen = [Checkpoint(place / f"step_{{step}}", step) for step in (1, 2)]
    print(write_average(chosen, [0.5, 0.5], place / "mean", False))
print(memory("VmHWM") - before)
"""


def more_memory(what: str, place: Path) -> list[int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, what, str(place)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_a_checkpoint_is_written_a_tensor_at_a_time(tmp_path: Path) -> None:
    (more,) = more_memory("write", tmp_path)
    print(f"{TENSORS * SMALL * 2 / MIB:.0f} MiB written, {more / MIB:.0f} MiB more at the peak")
    assert more < 4 * SMALL * 2


@pytest.mark.thorough
def test_the_mean_takes_the_memory_of_its_largest_tensor(tmp_path: Path) -> None:
    for step in (1, 2):
        write(tmp_path, step, {"large": torch.full((1, LARGE), float(step), dtype=torch.bfloat16)})
    size, more = more_memory("average", tmp_path)
    print(f"{size / MIB:.0f} MiB averaged of two, {more / MIB:.0f} MiB more at the peak")
    assert size == LARGE * 2
    assert more < LARGE * 2 + 80 * MIB  # the bands, 32 to 53 MiB seen; a second tensor would be 128 more
    assert bool(nemo_folder.NemoReader(tmp_path / "mean" / "weights").read("large").eq(1.5).all())


def write(place: Path, step: int, tensors: dict[str, Any], cut: int | None = None) -> Checkpoint:
    """A checkpoint of these tensors, whole or each in two along dimension `cut`."""
    folder = place / f"step_{step}"
    (folder / "context").mkdir(parents=True)
    chunks = []
    for key, tensor in tensors.items():
        parts = [tensor] if cut is None else tensor.tensor_split(2, cut)
        at = 0
        for part in parts:
            offsets = tuple(at if dim == cut else 0 for dim in range(tensor.dim()))
            chunks.append(
                nemo_folder.Chunk(
                    key, tuple(tensor.shape), offsets, tuple(part.shape), tensor.dtype, lambda part=part: part
                )
            )
            at += part.shape[cut or 0]
    nemo_folder.write_weights(folder / "weights", chunks, [])
    return Checkpoint(folder, step)


@pytest.mark.parametrize("cuts", [(None, None, None), (1, 1, 1), (None, 1, 2), (2, None, 1), (0, 2, 1)])
@pytest.mark.parametrize("band", [1000, average.BAND])
def test_the_mean_is_the_same_bit_for_bit_however_the_pieces_lie_and_are_read(
    cuts: tuple[int | None, ...], band: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against whole tensors added in fp32."""
    monkeypatch.setattr(average, "BAND", band)
    shares = [0.1, 0.3, 0.6]
    torch.manual_seed(0)
    models = [
        {"a": torch.randn(2, 61, 37).bfloat16(), "b": torch.randn(3, 7, 41), "n": torch.full((2, 2, 2), step)}
        for step in range(3)
    ]
    chosen = [write(tmp_path, *one) for one in zip(range(3), models, cuts, strict=True)]
    average.write_average(chosen, shares, tmp_path / "mean", False)
    mean = nemo_folder.NemoReader(tmp_path / "mean" / "weights")
    for key in ("a", "b"):
        total = torch.zeros_like(models[0][key], dtype=torch.float32)
        for model, share in zip(models, shares, strict=True):
            total.add_(model[key], alpha=share)
        assert torch.equal(mean.read(key), total.to(models[0][key].dtype))
    assert torch.equal(mean.read("n"), models[2]["n"])  # no weight: the newest's
    assert mean.pieces("a") == nemo_folder.NemoReader(chosen[2].path / "weights").pieces("a")


def test_a_checkpoint_that_lacks_a_piece_is_refused(tmp_path: Path) -> None:
    model = {"a": torch.ones(1, 8)}
    chosen = [write(tmp_path, 1, model, cut=1), write(tmp_path, 2, model)]
    reader = nemo_folder.NemoReader(chosen[0].path / "weights")
    del reader.tensors["a"].chunks[0]
    with pytest.raises(Refusal, match="step_1/weights: a is not whole in this checkpoint"):
        [chunk] = average._chunks([reader, nemo_folder.NemoReader(chosen[1].path / "weights")], [0.5, 0.5], "a")
        chunk.make()
