"""Optional speed-ups: one that fails in any way is left out, training continues without it, and the user is told once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from nemo_workflow.backends import patching
from nemo_workflow.backends.patching import Patch

FAR = 0.02  # of a result's norm; in bf16 0.002 to 0.003 are seen
LOG = logging.getLogger(__name__)
_said: set[str] = set()
_say: Callable[[str], None] | None = None


def tell(say: Callable[[str], None]) -> None:
    """Who passes a sentence on to the user's screen; before that, and always, it goes to the rank's log."""
    global _say
    _say = say


def left_out(name: str, reason: BaseException | str) -> None:
    """Say, once a process, that the speed-up `name` is not used."""
    if name in _said:
        return
    _said.add(name)
    if isinstance(reason, BaseException):
        lines = str(reason).strip().splitlines() or [""]
        reason = f"{type(reason).__name__}: {lines[0]}"
    text = f"{name} left out, training continues without it: {reason}"
    LOG.warning("%s", text)
    if _say is not None:
        _say(text)


def replace(name: str, patch: Patch, make: Callable[[Any], Any] | None = None) -> None:
    """Put a row of the registry in place; where the library has changed the speed-up is left out."""
    if not patching.replace(patch, make):
        left_out(name, "; ".join(patching.problems_of(patch)))


def optional(name: str, install: Callable[[], None]) -> None:
    """Call `install`; what it raises leaves the speed-up out."""
    try:
        install()
    except Exception as error:  # noqa: BLE001 - whatever it is, there is another way to train
        left_out(name, error)


class Proof:
    """Whether a kernel works on this machine, found out at its first use and remembered for each `kind` of call.

    Kernels are compiled where they run: a missing compiler, an untried GPU or a broken package shows only then.
    """

    def __init__(self, name: str, distance: Callable[..., float]):
        """`distance(*kind, device)` runs the kernel on random numbers and gives how far it is from plain PyTorch in fp32."""
        self.name, self.distance = name, distance
        self.known: dict[tuple[Any, ...], bool] = {}

    def holds(self, *kind: Any, device: torch.device) -> bool:
        if kind not in self.known:
            self.known[kind] = self._look(kind, device)
        return self.known[kind]

    def _look(self, kind: tuple[Any, ...], device: torch.device) -> bool:
        try:
            # under hooks of its own: those that offload activations would count the trial's tensors as the model's
            with torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):
                far = self.distance(*kind, device)
        except Exception as error:  # noqa: BLE001 - as above
            left_out(self.name, error)
            return False
        if not far < FAR:
            left_out(self.name, f"its results are {far:.3g} from PyTorch's")
        return far < FAR


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def random(device: torch.device) -> Callable[..., torch.Tensor]:
    """A source of normal numbers in bf16 that takes none of training's."""
    source = torch.Generator(device).manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=source, device=device).bfloat16()


def apart(ours: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """The largest distance of a tensor from the exact one, of the exact one's norm; NaN where there is one."""
    distances = [
        float((mine.float() - right.float()).norm() / right.float().norm())
        for mine, right in zip(ours, exact, strict=True)
    ]
    return max(distances, key=lambda far: float("inf") if far != far else far)
