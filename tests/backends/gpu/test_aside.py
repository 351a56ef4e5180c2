"""Each optional speed-up, broken: training continues without it, and the user is told once.

The broken packages are fakes: a broken compiler, driver or wheel can't be had at will.
"""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.backends import gpu
from tests.later import later

torch = later("torch")
aside, attention = later("nemo_workflow.backends.gpu.aside"), later("nemo_workflow.backends.gpu.attention")
weight_gradient = later("nemo_workflow.backends.gpu.weight_gradient")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sentences that reach the user."""
    sentences: list[str] = []
    monkeypatch.setattr(aside, "_said", set())
    monkeypatch.setattr(aside, "_say", None)
    aside.tell(sentences.append)
    return sentences


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Any]:
    """Writes a package below a folder on sys.path, which only then is there; of what was imported of it nothing stays."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.syspath_prepend(tmp_path)
    written: set[str] = set()

    def write(name: str, text: str) -> None:
        *parents, last = name.split(".")
        folder = tmp_path
        for part in parents:
            folder = folder / part
            folder.mkdir(exist_ok=True)
            (folder / "__init__.py").touch()
        (folder / f"{last}.py").write_text(text)
        written.add(parents[0])
        for known in [key for key in sys.modules if key.partition(".")[0] in written]:
            monkeypatch.delitem(sys.modules, known)

    yield write
    for name in [key for key in sys.modules if key.partition(".")[0] in written]:
        del sys.modules[name]
    monkeypatch.undo()


@pytest.mark.parametrize(
    "error", ["RuntimeError('No CTK flavor installed')", "ImportError('x')", "OSError('libcute.so')"]
)
def test_a_broken_flash_attention_is_left_out(
    error: str, package: Any, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package("flash_attn.cute.interface", f"raise {error}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert not attention.available()
    assert not attention.available()
    assert len(told) == 1
    assert told[0].startswith("flash-attn-4")
    assert error[:7] in told[0]


@pytest.mark.parametrize("capability", [(7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (10, 0), (12, 0)])
def test_a_gpu_that_flash_attention_is_untried_on_keeps_transformer_engines(
    capability: tuple[int, int], package: Any, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package("flash_attn.cute.interface", "raise RuntimeError('must not be imported')")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert not attention.available()
    assert told == []


def test_a_broken_transformer_engine_leaves_the_fused_weight_gradient_out(package: Any, told: list[str]) -> None:
    package(
        "transformer_engine.pytorch.cpp_extensions", "raise OSError('libcudnn.so.9: cannot open shared object file')"
    )
    gpu.install()
    assert weight_gradient.NAME not in sys.modules
    assert len(told) == 1
    assert "libcudnn.so.9" in told[0]


@pytest.mark.parametrize("module", sorted(gpu.SPEED_UPS))
def test_a_kernel_that_can_not_be_loaded_is_left_out(
    module: str, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in gpu.SPEED_UPS:
        working = types.SimpleNamespace(install=lambda **more: None)
        monkeypatch.setitem(sys.modules, f"nemo_workflow.backends.gpu.{name}", working)

    def broken(**more: bool) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")

    monkeypatch.setitem(sys.modules, f"nemo_workflow.backends.gpu.{module}", types.SimpleNamespace(install=broken))
    gpu.speed_up(told.append, types.SimpleNamespace(fp8=True, fp8_output_layer=False))
    assert len(told) == 1
    assert told[0].startswith(gpu.SPEED_UPS[module])
    assert "C compiler" in told[0]


@pytest.mark.parametrize("fault", ["raises", "wrong", "nan"])
def test_a_kernel_is_tried_once_and_left_out_for_good(
    fault: str, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def distance(width: int, device: Any) -> float:
        tried.append(width)
        if fault == "raises":
            raise RuntimeError("no kernel image is available for execution on the device\nmore lines")
        return 0.3 if fault == "wrong" else float("nan")

    proof = aside.Proof("the kernel", distance)
    with caplog.at_level(logging.WARNING):
        assert not any(proof.holds(64, device=torch.device("cpu")) for _ in range(3))
    assert not proof.holds(128, device=torch.device("cpu"))
    assert tried == [64, 128]
    assert len(told) == len(caplog.records) == 1
    assert "more lines" not in told[0]


def test_a_trial_is_kept_from_hooks_that_offload_activations(told: list[str]) -> None:
    offloaded: list[Any] = []

    def distance(device: Any) -> float:
        with torch.enable_grad():
            leaf = torch.ones(2, device=device, requires_grad=True)
            torch.autograd.grad((leaf * leaf).sum(), leaf)
        return 0.0

    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: offloaded.append(tensor) or tensor, lambda tensor: tensor
    ):
        assert aside.Proof("the kernel", distance).holds(device=torch.device("cpu"))
    assert offloaded == []


def test_a_kernel_that_works_is_used_and_nothing_is_said(told: list[str]) -> None:
    assert aside.Proof("the kernel", lambda device: 0.003).holds(device=torch.device("cpu"))
    assert told == []


def test_trainings_random_numbers_stay() -> None:
    before = torch.get_rng_state()
    aside.random(torch.device("cpu"))(4, 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_nan_is_farther_than_anything() -> None:
    one = torch.ones(2)
    assert aside.apart([one, one], [one, one]) == 0
    assert not aside.apart([one * float("nan"), one], [one, one]) < aside.FAR
    assert not aside.apart([one, one * float("nan")], [one, one]) < aside.FAR


KERNELS = ["activation", "rotary", "output_layer"]


@pytest.mark.gpu
@pytest.mark.parametrize("module", KERNELS)
def test_the_kernels_prove_themselves(module: str) -> None:
    pytest.importorskip("triton")
    from tests.backends.gpu.interpreted import DEVICE

    found = __import__(f"nemo_workflow.backends.gpu.{module}", fromlist=["distance"])
    kind = (2, 3, 64) if module == "rotary" else ()
    assert found.distance(*kind, torch.device(DEVICE)) < aside.FAR / 2
