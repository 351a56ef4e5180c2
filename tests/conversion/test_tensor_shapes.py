"""Every tensor that a family carries has a shape by config.json, so that a wrong one is found before anything is written."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_workflow.conversion import tensor_shapes
from nemo_workflow.conversion.config_fields import complete
from nemo_workflow.models.families import FAMILIES
from nemo_workflow.models.families.base import Family
from nemo_workflow.models.families.mapping import items

SIZES = {
    "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 24, "max_position_embeddings": 32, "vocab_size": 11, "tie_word_embeddings": False, "n_routed_experts": 4,
    "moe_intermediate_size": 48, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_shared_experts": 2, "n_group": 1,
    "topk_group": 1, "num_experts": 4, "num_local_experts": 4, "rope_scaling": None, "attn_logit_softcapping": None, "final_logit_softcapping": None,
}  # fmt: skip


def config(family: Family, **changes: Any) -> dict[str, Any]:
    """A completed config.json of the family, with those of SIZES that it knows."""
    known = {rule.hf for rule in family.fields} | family.special_fields
    sizes = {name: value for name, value in SIZES.items() if name in known and name not in family.fixed}
    return complete({"model_type": family.model_type, "q_lora_rank": None, **sizes, **changes}, family)


@pytest.mark.parametrize("rank", [None, 16])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_tensor_has_a_shape(family: Family, rank: int | None) -> None:
    hf = config(family, q_lora_rank=rank)
    names = {name for item in items(family, hf) for name in item.hf}
    shapes = {name: tensor_shapes.expected(name, hf) for name in names}
    assert not [name for name, shape in shapes.items() if not shape or not all(shape)]


def test_sums_and_products_of_sizes() -> None:
    phi3, deepseek = (next(f for f in FAMILIES if f.name == name) for name in ("phi3", "deepseek_v2"))
    assert tensor_shapes.expected("model.layers.1.self_attn.qkv_proj.weight", config(phi3)) == ((4 + 2 * 2) * 24, 64)
    hf = config(deepseek, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=12, v_head_dim=20)
    assert tensor_shapes.expected("model.layers.1.self_attn.kv_b_proj.weight", hf) == (4 * (12 + 20), 16)
    assert tensor_shapes.expected("model.layers.1.mlp.shared_experts.up_proj.weight", hf) == (96, 64)
    assert tensor_shapes.expected("model.layers.1.mlp.experts.3.up_proj.weight", hf) == (48, 64)
    assert tensor_shapes.expected("model.somewhere.else", hf) is None
