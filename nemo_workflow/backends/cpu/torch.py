"""torch 2.13.0: what asks for a CUDA device gets the CPU.

megatron-core 0.15.3 and NeMo 2.7.3 name the device in three ways: `torch.cuda.current_device()`, the literal "cuda" (for example
`torch.tensor([0.0], device="cuda")` in optimizer/clip_grads.py) and the methods `.cuda()` and `.to("cuda")`.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import torch

from nemo_workflow.backends.deferral import has_run


def _is_cuda(device: Any) -> bool:
    return isinstance(device, str | torch.device) and str(device).startswith("cuda")


def current_device(original: Any) -> Any:
    return lambda: "cpu"


def synchronize(original: Any) -> Any:
    return lambda device=None: None


def get_device_capability(original: Any) -> Any:
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


def stream_class(original: Any) -> Any:
    return CpuStream


def current_stream(original: Any) -> Any:
    return lambda device=None: CpuStream()


def factory(original: Any) -> Any:
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        kwargs.pop("pin_memory", None)
        return original(*args, **kwargs)

    make.__name__ = make.__qualname__ = original.__name__
    return make


def tensor_cuda(original: Any) -> Any:
    return lambda self, *args, **kwargs: self


def tensor_to(original: Any) -> Any:
    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and _is_cuda(args[0]):
            args = ("cpu", *args[1:])
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        return original(self, *args, **kwargs)

    return to


def tensor_type(original: Any) -> Any:
    def type_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs:
            return original(self, *args, **kwargs)
        return original(self).replace("torch.", "torch.cuda.", 1)

    return type_


def disable_compile(original: Any) -> Any:
    os.environ["TORCH_COMPILE_DISABLE"] = "1"  # for whoever asks the compiler itself, which reads it at import
    if has_run("torch._dynamo"):  # what was compiled before
        torch._dynamo.config.disable = True

    @functools.wraps(original)
    def as_it_is(model: Any = None, **options: Any) -> Any:
        return (lambda function: function) if model is None else model

    return as_it_is
