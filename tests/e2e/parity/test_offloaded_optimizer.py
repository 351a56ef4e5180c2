"""What megatron-core saves of an optimizer on the host can be read again. tests/e2e/gpu/test_flags.py resumes such a run on a card."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
# without a GPU the optimizer finds nothing to move and can't step, but it is saved and loaded as on one
PROGRAM = """
import io, sys
sys.path.insert(0, sys.argv[1])
from nemo_workflow.backends import cpu as cpu_backend
cpu_backend.install()
import torch
from megatron.core.optimizer.cpu_offloading.hybrid_optimizer import HybridDeviceOptimizer
from nemo_workflow.backends import patching, registry
if "as it is" not in sys.argv:
    for name in ("unless_offloaded", "without_classes", "weights_from_state"):
        patching.replace(registry.find(f"backends.gpu.offloaded_optimizer:{name}"))
weights = torch.nn.Parameter(torch.zeros(4))
both = {"cpu_optimizer_cls": torch.optim.AdamW, "gpu_optimizer_cls": torch.optim.AdamW}
optimizer = HybridDeviceOptimizer([weights], offload_fraction=1.0, param_update_in_fp32=True, lr=0.1, **both)
file = io.BytesIO()
torch.save(optimizer.state_dict(), file)
file.seek(0)
saved = torch.load(file, weights_only=True)
saved["state"] = {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4), "exp_avg_sq": torch.ones(4)}}
saved["state"][0]["master_param"] = torch.full((4,), 5.0)
optimizer.load_state_dict(saved)
assert weights.tolist() == [5.0] * 4, weights
assert optimizer.param_groups[0]["lr"] == 0.1 and len(optimizer.sub_optimizers) == 1

from types import SimpleNamespace
from nemo.lightning.pytorch.strategies import megatron_strategy
part = SimpleNamespace(optimizer=optimizer)
whole = SimpleNamespace(mcore_optimizer=SimpleNamespace(chained_optimizers=[part]), state=optimizer.state)
megatron_strategy._optimizer_to_device(whole, torch.device("meta"))
assert {tensor.device.type for state in optimizer.state.values() for tensor in state.values()} == {"cpu"}
plain = torch.optim.AdamW([weights])
plain.state[weights] = {"exp_avg": torch.ones(4)}
whole = SimpleNamespace(mcore_optimizer=SimpleNamespace(chained_optimizers=[SimpleNamespace(optimizer=plain)]), state=plain.state)
megatron_strategy._optimizer_to_device(whole, torch.device("meta"))
assert plain.state[weights]["exp_avg"].device.type == "meta"
"""


@pytest.mark.e2e
@pytest.mark.thorough
def test_it_is_saved_so_that_it_can_be_loaded(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    assert subprocess.run([sys.executable, program, REPOSITORY], check=False).returncode == 0
    original = [sys.executable, program, REPOSITORY, "as it is"]
    ended = subprocess.run(original, capture_output=True, text=True, check=False)
    assert "Unsupported global" in ended.stderr  # else megatron-core is mended, and our part can go
