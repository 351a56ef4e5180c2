"""`runs average` holds a few tensors at a time, whatever the model's size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TENSORS, NUMBERS = 20, 8 << 20  # 16 MiB each in bf16
MIB = 1 << 20
PROGRAM = f"""
import resource, sys
from pathlib import Path
import torch
from nemo_workflow.conversion.nemo_folder import Chunk, NemoReader, write_weights
from nemo_workflow.run_dir.checkpoints import Checkpoint
from nemo_workflow.runs.average import write_average

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

place = Path(sys.argv[1])
for step in (1, 2):
    shape = ({NUMBERS},)
    make = lambda: torch.full(shape, float(step), dtype=torch.bfloat16)
    chunks = [Chunk(f"module.t{{n}}", shape, (0,), shape, torch.bfloat16, make) for n in range({TENSORS})]
    (place / f"step_{{step}}" / "context").mkdir(parents=True)
    write_weights(place / f"step_{{step}}" / "weights", chunks, [])
before = peak()
chosen = [Checkpoint(place / f"step_{{step}}", step) for step in (1, 2)]
size = write_average(chosen, [0.5, 0.5], place / "mean", False)
print(size, peak() - before)
read = NemoReader(place / "mean" / "weights")
assert len(read.tensors) == {TENSORS} and float(read.read(sorted(read.tensors)[3]).float().mean()) == 1.5
"""


@pytest.mark.e2e
def test_the_mean_of_a_model_takes_the_memory_of_some_tensors(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    size, more = map(int, done.stdout.split()[-2:])
    assert size == TENSORS * NUMBERS * 2
    print(f"{size / MIB:.0f} MiB averaged, {more / MIB:.0f} MiB more at the peak")
    # nine tensors' worth were seen: one in bf16 and its sum in fp32, their copies, the writer's; the models together are 40
    assert more < 11 * NUMBERS * 2
