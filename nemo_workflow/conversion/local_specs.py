"""Layers of Megatron's own for the families whose NeMo layers need Transformer Engine, so that a CPU can compute their logits.

They hold the same parameters and compute the same numbers; a conversion never writes them into a checkpoint.
"""

from __future__ import annotations

import copy
from typing import Any

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import ModuleSpec, TransformerLayer, TransformerLayerSubmodules
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.torch_norm import WrappedTorchNorm


class RowParallelLinearNorm(RowParallelLinear):
    """A row parallel layer with a norm on its output (Gemma 2 and 3)."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, **kwargs: Any):
        super().__init__(input_size, output_size, config=config, **kwargs)
        self.post_layernorm = WrappedTorchNorm(config, output_size, eps=config.layernorm_epsilon)

    def forward(self, x: Any) -> Any:
        output, bias = super().forward(x)
        return self.post_layernorm(output), bias


def _gemma(attention: type, core: type, qk_norm: type) -> ModuleSpec:
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=WrappedTorchNorm,
            self_attention=ModuleSpec(
                module=attention,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=ColumnParallelLinear,
                    core_attention=core,
                    linear_proj=RowParallelLinearNorm,
                    q_layernorm=qk_norm,
                    k_layernorm=qk_norm,
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=WrappedTorchNorm,
            mlp=ModuleSpec(
                module=MLP, submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinearNorm)
            ),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def gemma2(config: Any) -> ModuleSpec:
    from nemo.collections.llm.gpt.model.gemma2 import Gemma2DotProductAttention

    return _gemma(SelfAttention, Gemma2DotProductAttention, IdentityOp)


class Gemma3Attention(DotProductAttention):
    """A window on the local layers, as NeMo's Gemma3TEDotProductAttention sets it."""

    def __init__(self, config: Any, layer_number: int, *args: Any, **kwargs: Any):
        config = copy.copy(config)
        local = layer_number % sum(config.interleaved_attn_pattern) != 0
        config.window_size = (config.window_size, 0) if local else None
        super().__init__(config, layer_number, *args, **kwargs)


def gemma3(config: Any) -> ModuleSpec:
    from nemo.collections.llm.gpt.model.gemma3 import Gemma3SelfAttention

    class SelfAttentionOfThisMegatron(Gemma3SelfAttention):  # type: ignore[misc]
        """Megatron 0.15 hands on an argument that NeMo 2.7.3's class doesn't take (it is None but in inference)."""

        def forward(self, *args: Any, rotary_pos_cos_sin: Any = None, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    return _gemma(SelfAttentionOfThisMegatron, Gemma3Attention, WrappedTorchNorm)


class LatentDotProductAttention(DotProductAttention):
    """Keys and values of different widths, which Megatron's own attention takes no argument for (DeepSeek)."""

    def __init__(self, config: Any, *args: Any, k_channels: int = 0, v_channels: int = 0, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        if v_channels:  # the base class builds one without, then latent attention builds its own
            self.hidden_size_per_partition = v_channels * self.num_attention_heads_per_partition


def deepseek(config: Any) -> Any:
    block = get_gpt_decoder_block_spec(config, use_transformer_engine=False)
    for layer in block.layer_specs:
        layer.submodules.self_attention.submodules.core_attention = LatentDotProductAttention
    return block
