"""megatron-core 0.15.3: the distributed optimizer over torch's own AdamW.

Without Transformer Engine or Apex the optimizer inside is torch.optim.AdamW, which keeps a scalar `step` a parameter. megatron-core
stores one `step` a parameter group and forgets the others in four places.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from nemo_workflow.backends.patching import PatchList

PATCHES = PatchList("megatron-core")
_OPTIMIZER = "megatron.core.optimizer.distrib_optimizer:DistributedOptimizer"


def _allocate_state(optimizer: torch.optim.Optimizer) -> None:
    """Give each parameter the state that AdamW has before its first step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


@PATCHES(f"{_OPTIMIZER}.state_dict", signature="self")
def state_dict_before_the_first_step(original: Any) -> Any:
    """Loading asks a fresh optimizer for its state dict, and the original asserts that there is exactly one `step` in it."""

    @functools.wraps(original)
    def state_dict(self: Any) -> Any:
        if not self.optimizer.state:
            _allocate_state(self.optimizer)
        return original(self)

    return state_dict


@PATCHES(f"{_OPTIMIZER}.load_state_dict", signature="self, state_dict")
def one_step_a_parameter(original: Any) -> Any:
    """The original hands all parameters the same `step` tensor, and AdamW then counts every parameter's step in it."""

    @functools.wraps(original)
    def load_state_dict(self: Any, state_dict: Any) -> None:
        original(self, state_dict)
        for state in self.optimizer.state.values():
            state["step"] = state["step"].clone()

    return load_state_dict


@PATCHES(f"{_OPTIMIZER}._get_main_param_and_optimizer_states", signature="self, model_param")
def leave_step_out(original: Any) -> Any:
    """A checkpoint stores tensors of the parameter's size here; the scalar `step` breaks their sharding, and the group has it."""

    @functools.wraps(original)
    def get_main_param_and_optimizer_states(self: Any, model_param: Any) -> Any:
        return {key: value for key, value in original(self, model_param).items() if key != "step"}

    return get_main_param_and_optimizer_states


@PATCHES(f"{_OPTIMIZER}._set_main_param_and_optimizer_states", signature="self, model_param, tensors")
def keep_step(original: Any) -> Any:
    """The original copies every entry that the optimizer has out of the checkpoint, and `step` is not among those."""

    @functools.wraps(original)
    def set_main_param_and_optimizer_states(self: Any, model_param: Any, tensors: dict[str, Any]) -> None:
        group, order = self.model_param_group_index_map[model_param]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
        original(self, model_param, {"step": state["step"], **tensors})

    return set_main_param_and_optimizer_states
