"""megatron-core 0.15.3: the distributed optimizer over torch's own AdamW.

Without Transformer Engine or Apex the optimizer inside is torch.optim.AdamW, which keeps a scalar `step` a parameter. megatron-core
stores one `step` a parameter group and forgets the others in four places.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from nemo_workflow.backends.shard_queue import ShardQueue
from nemo_workflow.utils.processes import forks_keep_what_they_inherit


def _allocate_state(optimizer: torch.optim.Optimizer) -> None:
    """Give each parameter the state that AdamW has before its first step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def state_dict_before_the_first_step(original: Any) -> Any:
    @functools.wraps(original)
    def state_dict(self: Any) -> Any:
        if not self.optimizer.state:
            _allocate_state(self.optimizer)
        return original(self)

    return state_dict


def one_step_a_parameter(original: Any) -> Any:
    @functools.wraps(original)
    def load_state_dict(self: Any, state_dict: Any) -> None:
        original(self, state_dict)
        for state in self.optimizer.state.values():
            state["step"] = state["step"].clone()

    return load_state_dict


def leave_step_out(original: Any) -> Any:
    @functools.wraps(original)
    def get_main_param_and_optimizer_states(self: Any, model_param: Any) -> Any:
        return {key: value for key, value in original(self, model_param).items() if key != "step"}

    return get_main_param_and_optimizer_states


def keep_step(original: Any) -> Any:
    @functools.wraps(original)
    def set_main_param_and_optimizer_states(self: Any, model_param: Any, tensors: dict[str, Any]) -> None:
        group, order = self.model_param_group_index_map[model_param]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
        original(self, model_param, {"step": state["step"], **tensors})

    return set_main_param_and_optimizer_states


# Each needs Transformer Engine, Apex or a CUDA kernel; the results are those of the plain operations.
FUSIONS = (
    "apply_rope_fusion",
    "persist_layer_norm",
    "gradient_accumulation_fusion",
    "masked_softmax_fusion",
    "bias_dropout_fusion",
    "bias_activation_fusion",
    "cross_entropy_loss_fusion",
    "moe_permute_fusion",
    "moe_grouped_gemm",
    "moe_router_fusion",
)


def plain_operations(original: Any) -> Any:
    @functools.wraps(original)
    def post_init(self: Any) -> None:
        for fusion in FUSIONS:
            setattr(self, fusion, False)
        self.use_cpu_initialization = True
        original(self)

    return post_init


def no_te_matrix_product(original: Any) -> Any:
    return None


def split_sizes_as_numbers(original: Any) -> Any:
    def maybe_move_tensor_to_cpu(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        return tensor.numpy() if as_numpy and hasattr(tensor, "numpy") else tensor

    return maybe_move_tensor_to_cpu


def nothing_to_gather(original: Any) -> Any:
    @functools.wraps(original)
    def get_all_timers_string(self: Any, names: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not names and not self._timers:
            return None
        return original(self, names, *args, **kwargs)

    return get_all_timers_string


def forked_results_queue(original: Any) -> Any:
    forks_keep_what_they_inherit()
    return ShardQueue(torch.multiprocessing.get_context("fork"))
