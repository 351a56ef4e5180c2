"""megatron-core's memory pool is compiled by no command: torch's CUDA build can't without a GPU, and the import would fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
# as torch's CUDA build does on a machine without a GPU: an error that megatron-core doesn't expect
CUDA_BUILD = """
import functools

from torch.utils import cpp_extension


@functools.wraps(cpp_extension.load_inline)
def load_inline(*_, **__):
    raise IndexError("list index out of range")


cpp_extension.load_inline = load_inline
"""


@pytest.mark.e2e
@pytest.mark.thorough
@pytest.mark.parametrize(
    ("call", "fails"),
    [
        ("from nemo_workflow.runs import evaluate; evaluate.sample_order()", False),
        ("from nemo_workflow.conversion import supported; supported.from_nemo()", False),
        ("import megatron.core", True),  # the stand-in does what it says
    ],
    ids=["evaluate", "supported", "as it is"],
)
def test_a_cuda_build_without_a_gpu_imports(call: str, fails: bool) -> None:
    words = [sys.executable, "-c", f"{CUDA_BUILD}\n{call}"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode != 0, "list index out of range" in done.stderr) == (fails, fails), done.stderr
