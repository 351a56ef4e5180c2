"""torch's compiler is loaded at the first call of a compiled function, and compiles the same then. Its code generator, and CUDA, are left out."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nemo_workflow import REPOSITORY
from nemo_workflow.backends.gpu.compiled_later import at_first_call
from nemo_workflow.backends.patching import changes
from nemo_workflow.backends.registry import find

IMPORTED = """
import json, sys, threading
sys.path.insert(0, "")
from nemo_workflow.backends.gpu import compiled_later
compiled_later.install()
from megatron.core import jit
from megatron.core.fusions import fused_bias_swiglu
from nemo.utils import export_utils
import torch
fused = fused_bias_swiglu.swiglu
seen = {"compiled": hasattr(fused, "_torchdynamo_inline"), "loaded": "torch._inductor.compile_fx" in sys.modules, "threads": threading.active_count()}
y = torch.linspace(-3, 3, 64).reshape(4, 16)
plain = torch.nn.functional.silu(y[:, :8]) * y[:, 8:]
torch._dynamo.reset()
seen["graphs"] = 0
def counting(graph, inputs):
    seen["graphs"] += 1
    return graph
inner = torch.compile(lambda x: x * 2, backend=counting)
outer = torch.compile(lambda x: inner(x) + 1, backend=counting)
seen["nested"] = bool(torch.equal(outer(y), y * 2 + 1))
seen["same"] = bool(torch.equal(torch.compile(fused._torchdynamo_inline, backend="eager")(y), plain))
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_megatron_is_imported_without_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    # one graph: a compiled function inside another is part of the other's
    assert seen == {
        "compiled": True,
        "loaded": False,
        "threads": 1,
        "nested": True,
        "graphs": 1,
        "same": True,
    }


def test_a_function_is_compiled_once_with_its_options_and_everything_else_at_once() -> None:
    calls = []

    def stock(model: object, **options: object) -> object:
        calls.append((model, options))
        return model

    def double(number: int) -> int:
        """Twice."""
        return 2 * number

    compile_ = at_first_call(stock)
    named, decorated = compile_(double, mode="reduce-overhead"), compile_(dynamic=True)(double)
    assert calls == [] and named.__doc__ == "Twice."
    assert [named(2), named(3), decorated(4)] == [4, 6, 8]
    assert calls == [(double, {"mode": "reduce-overhead"}), (double, {"dynamic": True})]
    assert compile_(3) == 3 and calls[-1] == (3, {})  # a module, in torch's case


@pytest.mark.slow
def test_it_fits_the_installed_torch() -> None:
    assert changes(find("backends.gpu.compiled_later:at_first_call")) == []
