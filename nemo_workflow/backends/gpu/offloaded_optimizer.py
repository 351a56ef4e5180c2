"""Checkpoints of an optimizer on the host that can be read again (megatron-core 0.15.3's HybridDeviceOptimizer)."""

from __future__ import annotations

from typing import Any

CLASSES = ("cpu_optimizer_cls", "gpu_optimizer_cls")


def install() -> None:
    from megatron.core.optimizer.cpu_offloading.hybrid_optimizer import HybridDeviceOptimizer
    from nemo.lightning.pytorch.strategies import megatron_strategy

    megatron_strategy._optimizer_to_device = _unless_offloaded(megatron_strategy._optimizer_to_device)

    HybridDeviceOptimizer.state_dict = _without_classes(HybridDeviceOptimizer.state_dict)
    HybridDeviceOptimizer._update_fp32_params_by_new_state = _take_weights_from_state


def _without_classes(state_dict: Any) -> Any:
    """The original's groups hold two optimizer classes, and a checkpoint is read with `weights_only=True`, which refuses classes.

    The run could not be resumed, nor its weights converted. The optimizer itself finds its classes in its `defaults`.
    """

    def plain(optimizer: Any) -> dict[str, Any]:
        found: dict[str, Any] = state_dict(optimizer)
        groups = [{key: value for key, value in group.items() if key not in CLASSES} for group in found["param_groups"]]
        return {**found, "param_groups": groups}

    return plain


def _take_weights_from_state(optimizer: Any) -> None:
    """After a load. The original knows only parameters that have an fp32 copy, and a model in fp32 has none."""
    for parameter, state in optimizer.state.items():
        optimizer.param_to_inner_param[parameter].data.copy_(state["master_param"])


def _unless_offloaded(move: Any) -> Any:
    """NeMo moves what it has loaded to the GPU, and the optimizer on the host could not make its next step."""
    from megatron.core.optimizer.cpu_offloading.hybrid_optimizer import HybridDeviceOptimizer

    def moved(optimizer: Any, device: Any) -> None:
        whole = getattr(optimizer, "mcore_optimizer", optimizer)
        parts = getattr(whole, "chained_optimizers", [whole])
        if not any(isinstance(part.optimizer, HybridDeviceOptimizer) for part in parts if hasattr(part, "optimizer")):
            move(optimizer, device)

    return moved
