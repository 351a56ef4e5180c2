"""torch 2.13.0: what asks for a CUDA device gets the CPU.

megatron-core 0.15.3 and NeMo 2.7.3 name the device in three ways: `torch.cuda.current_device()`, the literal "cuda" (for example
`torch.tensor([0.0], device="cuda")` in optimizer/clip_grads.py) and the methods `.cuda()` and `.to("cuda")`.
"""

from __future__ import annotations

from typing import Any

import torch

from nemo_workflow.backends.patching import BUILTIN, PatchList

PATCHES = PatchList("torch")

FACTORIES = (
    "tensor",
    "zeros",
    "ones",
    "empty",
    "empty_like",
)  # those that megatron-core and NeMo call with the literal


def _is_cuda(device: Any) -> bool:
    return isinstance(device, str | torch.device) and str(device).startswith("cuda")


@PATCHES("torch.cuda:current_device", signature="")
def current_device(original: Any) -> Any:
    """The name of the CPU device: every caller hands it on as `device=`."""
    return lambda: "cpu"


@PATCHES("torch.cuda:synchronize", signature="device")
def synchronize(original: Any) -> Any:
    """CPU operations have ended when they return (called after each pipeline transfer)."""
    return lambda device=None: None


@PATCHES("torch.cuda:get_device_capability", signature="device")
def get_device_capability(original: Any) -> Any:
    """MegatronCommOverlapCallback asks; 8.0 (Ampere) leaves CUDA_DEVICE_MAX_CONNECTIONS to its older, plain rule."""
    return lambda device=None: (8, 0)


class CpuStream:
    """A stream on which everything has already run: nothing to wait for. It is its own event."""

    def __init__(self, device: Any = None, priority: int = 0, **kwargs: Any):
        pass

    def wait_stream(self, stream: Any) -> None:
        pass

    def wait_event(self, event: Any) -> None:
        pass

    def record_event(self, event: Any = None) -> Any:
        return self if event is None else event

    def synchronize(self) -> None:
        pass


@PATCHES("torch.cuda:Stream", signature="device, priority, **kwargs")
def stream_class(original: Any) -> Any:
    """NeMo sets data parallelism up on a side stream, and gradient buckets have one each."""
    return CpuStream


@PATCHES("torch.cuda:current_stream", signature="device")
def current_stream(original: Any) -> Any:
    """The one stream there is (the expert dispatcher waits for it)."""
    return lambda device=None: CpuStream()


@PATCHES(*(f"torch:{name}" for name in FACTORIES), signature=BUILTIN)
def factory(original: Any) -> Any:
    """`device="cuda"` makes a CPU tensor; `pin_memory` asks for memory that only a GPU reads, so it is dropped."""

    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        kwargs.pop("pin_memory", None)
        return original(*args, **kwargs)

    make.__name__ = make.__qualname__ = original.__name__
    return make


@PATCHES("torch:Tensor.cuda", signature=BUILTIN)
def tensor_cuda(original: Any) -> Any:
    """A tensor stays where it is (the batches of NeMo's GPT data step)."""
    return lambda self, *args, **kwargs: self


@PATCHES("torch:Tensor.to", signature=BUILTIN)
def tensor_to(original: Any) -> Any:
    """`.to("cuda")` stays on the CPU; any other `.to` is the original's (NeMo's logged values)."""

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and _is_cuda(args[0]):
            args = ("cpu", *args[1:])
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        return original(self, *args, **kwargs)

    return to


@PATCHES("torch:Tensor.type", signature=BUILTIN)
def tensor_type(original: Any) -> Any:
    """`.type()` says `torch.cuda.BFloat16Tensor`: megatron-core's mixed precision optimizers know the CUDA names only."""

    def type_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs:
            return original(self, *args, **kwargs)
        return original(self).replace("torch.", "torch.cuda.", 1)

    return type_
