"""megatron-core 0.15.3: the norms of layers built without Transformer Engine."""

from __future__ import annotations

from typing import Any

import torch


class CpuNorm(torch.nn.Module):
    """LayerNorm or RMSNorm over the last dimension, computed in fp32 and returned in the input's type.

    Args:
        config: gives the type of the parameters, and whether their gradients are summed over the tensor parallel ranks
            (`sequence_parallel`).
        hidden_size: size of the last dimension.
        eps: added to the variance.
        zero_centered: the weight is stored minus one, as Gemma and Nemotron do.
        rms: RMSNorm (no mean, no bias) instead of LayerNorm.
    """

    def __init__(self, config: Any, hidden_size: int, eps: float, zero_centered: bool, rms: bool):
        super().__init__()
        self.eps = eps
        self.zero_centered = zero_centered
        self.weight = self._parameter(config, hidden_size, 0.0 if zero_centered else 1.0)
        self.register_parameter("bias", None if rms else self._parameter(config, hidden_size, 0.0))
        self.rms = rms

    @staticmethod
    def _parameter(config: Any, hidden_size: int, value: float) -> torch.nn.Parameter:
        parameter = torch.nn.Parameter(torch.full((hidden_size,), value, dtype=config.params_dtype))
        parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return parameter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.float() + 1.0 if self.zero_centered else self.weight.float()
        size = (x.shape[-1],)
        if self.rms:
            normed = torch.nn.functional.rms_norm(x.float(), size, weight, self.eps)
        else:
            normed = torch.nn.functional.layer_norm(x.float(), size, weight, self.bias.float(), self.eps)
        return normed.to(x.dtype)


def plain_norm(original: Any) -> Any:
    def new(
        cls: type,
        config: Any,
        hidden_size: int,
        eps: float = 1e-5,
        persist_layer_norm: bool = False,
        zero_centered_gamma: bool = False,
        normalization: str = "LayerNorm",
    ) -> torch.nn.Module:
        if config.normalization not in ("LayerNorm", "RMSNorm"):
            raise ValueError(f"normalization {config.normalization!r} is not supported on a CPU: LayerNorm or RMSNorm")
        zero_centered = config.layernorm_zero_centered_gamma or zero_centered_gamma
        return CpuNorm(config, hidden_size, eps, zero_centered, rms=config.normalization == "RMSNorm")

    return staticmethod(new)
