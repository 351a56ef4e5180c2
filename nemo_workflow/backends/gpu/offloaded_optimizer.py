"""Checkpoints of an optimizer on the host that can be read again (megatron-core 0.15.3's HybridDeviceOptimizer)."""

from __future__ import annotations

from typing import Any

CLASSES = ("cpu_optimizer_cls", "gpu_optimizer_cls")


def without_classes(state_dict: Any) -> Any:
    """The optimizer itself finds its classes in its `defaults`."""

    def plain(optimizer: Any) -> dict[str, Any]:
        found: dict[str, Any] = state_dict(optimizer)
        groups = [{key: value for key, value in group.items() if key not in CLASSES} for group in found["param_groups"]]
        return {**found, "param_groups": groups}

    return plain


def weights_from_state(original: Any) -> Any:
    """Takes every parameter's weights, whether or not it has an fp32 copy."""

    def take(optimizer: Any) -> None:
        for parameter, state in optimizer.state.items():
            optimizer.param_to_inner_param[parameter].data.copy_(state["master_param"])

    return take


def unless_offloaded(move: Any) -> Any:
    """Moves no optimizer that is on the host."""
    from megatron.core.optimizer.cpu_offloading.hybrid_optimizer import HybridDeviceOptimizer

    def moved(optimizer: Any, device: Any) -> None:
        whole = getattr(optimizer, "mcore_optimizer", optimizer)
        parts = getattr(whole, "chained_optimizers", [whole])
        if not any(isinstance(part.optimizer, HybridDeviceOptimizer) for part in parts if hasattr(part, "optimizer")):
            move(optimizer, device)

    return moved
