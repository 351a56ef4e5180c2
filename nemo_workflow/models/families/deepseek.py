"""DeepSeek V2 and V3: latent attention, first layers dense, then experts with shared ones. Layers differ, so none are stacked."""

from __future__ import annotations

import math
from typing import Any

from nemo_workflow.models.families.base import Config, Family, Field, Rule
from nemo_workflow.models.families.dense import HF_LAYER, LAYER, PLAIN_DECODER, RMS_NORM, SILU, UNTIED, embedding_rules
from nemo_workflow.models.families.moe import expert_rules

ATTENTION = f"{LAYER}self_attention."
HF_ATTENTION = f"{HF_LAYER}self_attn."


def latent_attention_rules(hf: Config) -> list[Rule]:
    """Queries and keys/values projected down and up again; the small models project queries at once."""
    pairs = {
        "linear_proj.weight": "o_proj.weight",
        "linear_kv_down_proj.weight": "kv_a_proj_with_mqa.weight",
        "linear_kv_up_proj.weight": "kv_b_proj.weight",
    }
    norms = {"kv": "kv_a_layernorm"}
    if hf["q_lora_rank"]:
        pairs |= {"linear_q_down_proj.weight": "q_a_proj.weight", "linear_q_up_proj.weight": "q_b_proj.weight"}
        norms["q"] = "q_a_layernorm"
    else:
        pairs["linear_q_proj.weight"] = "q_proj.weight"
    rules = [Rule("copy", f"{ATTENTION}{nemo}", (f"{HF_ATTENTION}{name}",)) for nemo, name in pairs.items()]
    for side, name in norms.items():  # Transformer Engine fuses the norm into the projection after it
        fused, own = f"{ATTENTION}linear_{side}_up_proj.layer_norm_weight", f"{ATTENTION}{side}_layernorm.weight"
        rules.append(Rule("copy", fused, (f"{HF_ATTENTION}{name}.weight",), alias=own))
    rules.append(Rule("copy", f"{LAYER}input_layernorm.weight", (f"{HF_LAYER}input_layernorm.weight",)))
    return rules


def dense_layers(hf: Config) -> range:
    return range(hf["first_k_dense_replace"])


def moe_layers(hf: Config) -> range:
    return range(hf["first_k_dense_replace"], hf["num_hidden_layers"])


def dense_mlp_rules() -> list[Rule]:
    """The MLP of the first layers."""
    gate_up = (f"{HF_LAYER}mlp.gate_proj.weight", f"{HF_LAYER}mlp.up_proj.weight")
    return [
        Rule("gate_up", f"{LAYER}mlp.linear_fc1.weight", gate_up, layers=dense_layers),
        Rule("copy", f"{LAYER}mlp.linear_fc2.weight", (f"{HF_LAYER}mlp.down_proj.weight",), layers=dense_layers),
        Rule(
            "copy",
            f"{LAYER}mlp.linear_fc1.layer_norm_weight",
            (f"{HF_LAYER}post_attention_layernorm.weight",),
            alias=f"{LAYER}pre_mlp_layernorm.weight",
            layers=dense_layers,
        ),
    ]


def shared_expert_rules() -> list[Rule]:
    shared = f"{HF_LAYER}mlp.shared_experts."
    gate_up = (f"{shared}gate_proj.weight", f"{shared}up_proj.weight")
    return [
        Rule("gate_up", f"{LAYER}mlp.shared_experts.linear_fc1.weight", gate_up),
        Rule("copy", f"{LAYER}mlp.shared_experts.linear_fc2.weight", (f"{shared}down_proj.weight",)),
    ]


def deepseek_rules(hf: Config) -> list[Rule]:
    moe = expert_rules("mlp", "gate", "gate_proj", "up_proj", "down_proj") + shared_expert_rules()
    if hf["model_type"] == "deepseek_v3":
        bias = f"{HF_LAYER}mlp.gate.e_score_correction_bias"
        moe.append(Rule("copy", f"{LAYER}mlp.router.expert_bias", (bias,)))
    moe = [Rule(rule.kind, rule.nemo, rule.hf, rule.alias, moe_layers) for rule in moe]
    return embedding_rules(hf) + latent_attention_rules(hf) + dense_mlp_rules() + moe


FIELDS = (
    Field("num_hidden_layers", "num_layers"),
    Field("hidden_size", "hidden_size"),
    Field("intermediate_size", "ffn_hidden_size"),
    Field("num_attention_heads", "num_attention_heads"),
    Field("num_key_value_heads", "kv_channels"),  # as NeMo's importer has it; latent attention doesn't use it
    Field("max_position_embeddings", "seq_length"),
    Field("max_position_embeddings", "max_position_embeddings"),
    Field("initializer_range", "init_method_std", 0.02),
    Field("vocab_size", "vocab_size"),
    Field("rope_theta", "rotary_base", 10000.0),
    Field("attention_dropout", "attention_dropout", 0.0),
    RMS_NORM,
    UNTIED,
    Field("q_lora_rank", "q_lora_rank"),
    Field("kv_lora_rank", "kv_lora_rank", 512),
    Field("qk_nope_head_dim", "qk_head_dim", 128),
    Field("qk_rope_head_dim", "qk_pos_emb_head_dim", 64),
    Field("v_head_dim", "v_head_dim", 128),
    Field("n_routed_experts", "num_moe_experts"),
    Field("moe_intermediate_size", "moe_ffn_hidden_size"),
    Field("num_experts_per_tok", "moe_router_topk"),
)
YARN = {
    "factor": "rotary_scaling_factor",
    "original_max_position_embeddings": "original_max_position_embeddings",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "mscale": "mscale",
    "mscale_all_dim": "mscale_all_dim",
}
YARN_DEFAULTS = {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.0}


def rope(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    scaling = hf.get("rope_scaling")
    if not scaling:
        return {"rope_type": "rope", "rotary_scaling_factor": 1.0}, []
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind != "yarn":
        plain = {"rope_type": "rope", "rotary_scaling_factor": 1.0}
        return plain, [("rope_scaling", f"NeMo's model has no {kind!r} rope scaling")]
    given = {name: value for name, value in scaling.items() if value is not None}
    values = {"original_max_position_embeddings": hf["max_position_embeddings"], **YARN_DEFAULTS, **given}
    losses = [
        ("rope_scaling", f"NeMo's yarn has no {name} (value {scaling[name]!r})")
        for name in ("attention_factor", "truncate")
        if scaling.get(name) is not None
    ]
    if not values["mscale_all_dim"]:
        values["mscale"] = 1.0  # which counts with the other only
    elif not values["mscale"]:
        losses.append(("rope_scaling", "NeMo's yarn has no mscale_all_dim without mscale"))
    return {"rope_type": "yarn", **{nemo: values[name] for name, nemo in YARN.items()}}, losses


def rope_back(nemo: Config) -> Config:
    if nemo["rope_type"] == "rope":
        return {"rope_scaling": None}
    return {"rope_scaling": {**{name: nemo[field] for name, field in YARN.items()}, "type": "yarn"}}


def shared_special(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    fields, losses = rope(hf)
    dense, layers = hf["first_k_dense_replace"], hf["num_hidden_layers"]
    fields["moe_layer_freq"] = [0] * dense + [1] * (layers - dense)
    fields["moe_shared_expert_intermediate_size"] = hf["moe_intermediate_size"] * hf["n_shared_experts"]
    fields["moe_aux_loss_coeff"] = hf.get("aux_loss_alpha", 0.001)
    return fields, losses


def shared_back(nemo: Config) -> Config:
    frequency = nemo["moe_layer_freq"]
    dense = frequency.index(1) if 1 in frequency else len(frequency)
    return {
        **rope_back(nemo),
        "first_k_dense_replace": dense,
        "n_shared_experts": nemo["moe_shared_expert_intermediate_size"] // nemo["moe_ffn_hidden_size"],
        "aux_loss_alpha": nemo.get("moe_aux_loss_coeff", 0.001),
    }


def _ranked_alike(hf: Config, best: int) -> bool:
    """Whether Megatron chooses this model's groups of experts; `best` is the number of experts by which a group is ranked here.

    Megatron ranks by num_experts_per_tok / topk_group (group_limited_topk in megatron-core's moe_utils). Where all groups
    are chosen, such as the only one, nothing is ranked.
    """
    groups, chosen = hf.get("n_group") or 1, hf.get("topk_group") or 1
    return bool(chosen == groups or hf["num_experts_per_tok"] == best * chosen)


def v3_special(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    fields, losses = shared_special(hf)
    if not _ranked_alike(hf, best=2):
        what = "NeMo ranks a group by its best num_experts_per_tok / topk_group experts, this model by its best two"
        losses.append(("topk_group", what))
    return {**fields, "moe_router_score_function": "sigmoid", "moe_router_enable_expert_bias": True}, losses


def v2_special(hf: Config) -> tuple[Config, list[tuple[str, str]]]:
    fields, losses = shared_special(hf)
    if (hf.get("topk_method") or "greedy") != "greedy" and (hf.get("n_group") or 1) > 1:
        fields |= {"moe_router_num_groups": hf["n_group"], "moe_router_group_topk": hf["topk_group"]}
        if not _ranked_alike(hf, best=1):
            what = "NeMo ranks a group by the sum of its best experts' scores, this model by its best one"
            losses.append(("topk_method", what))
    return {**fields, "moe_router_score_function": "softmax", "moe_router_enable_expert_bias": False}, losses


def v2_back(nemo: Config) -> Config:
    groups = nemo.get("moe_router_num_groups") or 1
    if groups == 1:
        return {**shared_back(nemo), "topk_method": "greedy"}
    chosen = nemo["moe_router_group_topk"]
    return {**shared_back(nemo), "topk_method": "group_limited_greedy", "n_group": groups, "topk_group": chosen}


def scale_attention(model: Any, hf: Config) -> None:
    """Scale the attention of transformers 4's DeepSeek V2 by yarn's mscale_all_dim, which it forgets.

    The model's own code does (modeling_deepseek.py), and so do transformers 5 and NeMo.
    """
    scaling = hf.get("rope_scaling") or {}
    if scaling.get("mscale_all_dim"):
        mscale = 0.1 * scaling["mscale_all_dim"] * math.log(scaling["factor"]) + 1.0
        for layer in model.model.layers:
            layer.self_attn.scaling *= mscale**2


NEMO: Config = {
    name: value
    for name, value in PLAIN_DECODER.items()
    if name not in ("num_moe_experts", "multi_latent_attention", "qk_layernorm")
} | {"multi_latent_attention": True, "qk_layernorm": True, "activation_func": SILU, "moe_router_pre_softmax": True}
SPECIAL_NEMO = frozenset(
    {
        *YARN.values(),
        "rope_type",
        "moe_layer_freq",
        "moe_shared_expert_intermediate_size",
        "moe_aux_loss_coeff",
        "moe_router_score_function",
        "moe_router_enable_expert_bias",
        "moe_router_num_groups",
        "moe_router_group_topk",
    }
)
SPECIAL_HF = frozenset(
    {
        "rope_scaling",
        "first_k_dense_replace",
        "n_shared_experts",
        "aux_loss_alpha",
        "num_nextn_predict_layers",
        "seq_aux",
    }
    | {"ep_size", "head_dim", "qk_head_dim"}
)


def _family(version: int, title: str, **rest: object) -> Family:
    return Family(
        name=f"deepseek_v{version}",
        title=title,
        model_type=f"deepseek_v{version}",
        architecture=f"DeepseekV{version}ForCausalLM",
        module="deepseek",
        model_class="DeepSeekModel",
        config_class="DeepSeekConfig",
        rules=deepseek_rules,
        nemo_fixed=NEMO,
        special_fields=SPECIAL_HF | ({"n_group", "topk_group", "topk_method"} if version == 2 else set()),
        special_nemo=SPECIAL_NEMO,
        special_training=frozenset({"aux_loss_alpha"}),
        experts=lambda hf: hf["n_routed_experts"],
        stacked=lambda hf: False,
        local_spec="deepseek",
        **rest,  # type: ignore[arg-type]
    )


DEEPSEEK_V2 = _family(
    2,
    "DeepSeek V2 Lite, DeepSeek V2 where its groups of experts are ranked alike",
    fields=(*FIELDS, Field("routed_scaling_factor", "moe_router_topk_scaling_factor", 1.0)),
    fixed={
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "norm_topk_prob": (False,),
        "moe_layer_freq": (None, 1),
        "scoring_func": (None, "softmax"),
    },
    special=v2_special,
    special_back=v2_back,
    mend_reference=scale_attention,
)
DEEPSEEK_V3 = _family(
    3,
    "DeepSeek V3 and R1 in bf16",
    fields=(
        *FIELDS,
        Field("routed_scaling_factor", "moe_router_topk_scaling_factor", 2.5),
        Field("n_group", "moe_router_num_groups", 8),
        Field("topk_group", "moe_router_group_topk", 4),
    ),
    fixed={
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "norm_topk_prob": (True,),
        "rope_interleave": (True,),
        "moe_layer_freq": (None, 1),
        "scoring_func": (None, "sigmoid"),
        "topk_method": (None, "noaux_tc"),
    },
    special=v3_special,
    special_back=shared_back,
)

FAMILIES = (DEEPSEEK_V2, DEEPSEEK_V3)
