"""A config.json against itself and against the weights' headers: what a damaged or hand-made folder gets wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_workflow.conversion.hf_folder import TensorInfo
from nemo_workflow.models.families.base import Config, Family
from nemo_workflow.models.families.mapping import items
from nemo_workflow.utils.errors import Refusal

# more than any model has; a larger number in a damaged file would have us count for hours
MOST = {"num_hidden_layers": 10_000, "num_experts": 10_000, "num_local_experts": 10_000, "n_routed_experts": 10_000}
# fields without a default of their own kind that may have a fraction
FRACTIONS = {"attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"}
ROPE = ("rope_scaling", "rope_parameters")
ROPE_NEEDS = {
    "linear": ("factor",), "dynamic": ("factor",), "yarn": ("factor",), "longrope": ("long_factor", "short_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}  # fmt: skip
ROPE_NUMBERS = {
    *ROPE_NEEDS["llama3"], "rope_theta", "partial_rotary_factor", "attention_factor", "beta_fast", "beta_slow", "mscale",
    "mscale_all_dim",
}  # fmt: skip


def checked_values(raw: Config, family: Family, path: Path) -> Config:
    """A config.json with 512.0 as 512 where a whole number belongs; raises Refusal for values that its fields can't have."""
    own = {common: name for name, common in family.renamed.items()}
    values, problems = dict(raw), []
    for rule in family.fields:
        name = own[rule.hf] if own.get(rule.hf) in raw else rule.hf
        value = raw.get(name)
        if value is None:
            continue
        if isinstance(rule.default, bool):
            wrong = None if isinstance(value, bool) else "true or false is expected"
        elif isinstance(rule.default, float) or rule.hf in FRACTIONS:
            wrong = None if _is_number(value) else "a number is expected"
        else:
            most = MOST.get(rule.hf, 2**31 - 1)
            fits = _is_number(value) and value == int(value) and 0 < value <= most
            wrong = None if fits else f"a whole number from 1 to {most} is expected"
            values[name] = int(value) if fits else value
        if wrong:
            problems.append(f"{path}: {name} is {_short(value)}; {wrong}")
    problems += [f"{path}: {problem}" for name in ROPE for problem in _rope_problems(name, raw.get(name))]
    if problems:
        raise Refusal(problems)
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30  # not of NaN


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _rope_problems(name: str, rope: Any) -> Iterator[str]:
    """What is wrong with rope_scaling, or with rope_parameters, which may hold one for every kind of layer."""
    if rope is None:
        return
    if not isinstance(rope, dict):
        yield f"{name} is {_short(rope)}; an object such as {{'rope_type': 'linear', 'factor': 4.0}}, or null, is expected"
        return
    inner = {key: value for key, value in rope.items() if isinstance(value, dict)}
    for key, value in inner.items():
        yield from _rope_problems(f"{name}.{key}", value)
    kind = rope.get("rope_type", rope.get("type"))
    if kind is not None and not isinstance(kind, str):
        yield f"{name}'s rope_type is {_short(kind)}; a name is expected"
        return
    if kind is None and name == "rope_scaling":
        yield f"{name} names no rope_type; add it, or write null for a model without scaling"
        return
    lacking = [key for key in ROPE_NEEDS.get(kind or "", ()) if rope.get(key) is None]
    if lacking:
        yield f"{name} of type {kind!r} lacks {', '.join(lacking)}"
    for key in sorted(ROPE_NUMBERS & set(rope)):
        if rope[key] is not None and not _is_number(rope[key]):
            yield f"{name}'s {key} is {_short(rope[key])}; a number is expected"


def check_heads(raw: Config, family: Family, path: Path) -> None:
    """Raise Refusal for numbers of heads that don't divide what they share."""
    common = {family.renamed.get(name, name): value for name, value in raw.items()}
    hidden, heads, groups = (common.get(f) for f in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    carried = {rule.hf: rule for rule in family.fields}
    follows = "head_dim" in carried and carried["head_dim"].default is None and not common.get("head_dim")
    if follows and hidden and heads and hidden % heads:
        raise Refusal(
            f"{path}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and head_dim isn't given"
        )
    if "num_key_value_heads" in carried and heads and groups and heads % groups:
        raise Refusal(f"{path}: num_attention_heads {heads} is not a multiple of num_key_value_heads {groups}")


@contextlib.contextmanager
def making_sense(path: Path, family: Family) -> Iterator[None]:
    """Whatever a family's rules stumble over in a config.json is a refusal that names it."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise Refusal(
            f"{path}: its values don't make a {family.architecture} ({what[:200]}); take the config.json that the model came with"
        ) from error


def check_names(family: Family, hf: Config, tensors: dict[str, TensorInfo], dropped: set[str]) -> None:
    """Raise Refusal for a tensor that is missing, or that no rule carries and `dropped` doesn't name."""
    carried = {name for item in items(family, hf) for name in item.hf}
    missing = sorted(carried - set(tensors))
    if missing:
        raise Refusal(f"the source lacks {len(missing)} tensors of a {family.architecture}, e.g. {missing[0]}")
    left = sorted(set(tensors) - carried - dropped)
    if left:
        raise Refusal(
            f"the source has {len(left)} tensors that NeMo's {family.model_class} has no place for, e.g. {left[0]} "
            f"(to lose them: --allow-lossy {left[0]})"
        )


def _sizes(hf: Config) -> dict[str, tuple[int, ...]]:
    """Ends of tensors' names -> the shape that a completed config.json gives them, in the words that most families share."""
    hidden, vocabulary, inner = hf["hidden_size"], hf["vocab_size"], hf.get("intermediate_size")
    sizes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "lm_head.weight": (vocabulary, hidden),
        ".input_layernorm.weight": (hidden,),
        "model.norm.weight": (hidden,),
    }
    if isinstance(inner, int):
        sizes |= {
            ".mlp.gate_proj.weight": (inner, hidden),
            ".mlp.up_proj.weight": (inner, hidden),
            ".mlp.down_proj.weight": (hidden, inner),
        }
    if isinstance(hf.get("head_dim"), int) and "kv_lora_rank" not in hf:
        query, key = hf["num_attention_heads"] * hf["head_dim"], hf["num_key_value_heads"] * hf["head_dim"]
        sizes |= {
            ".self_attn.q_proj.weight": (query, hidden),
            ".self_attn.k_proj.weight": (key, hidden),
            ".self_attn.v_proj.weight": (key, hidden),
            ".self_attn.o_proj.weight": (hidden, query),
        }
    return sizes


def check_shapes(hf: Config, tensors: dict[str, TensorInfo], path: Path) -> None:
    """Raise Refusal for weights of another shape than config.json says, as far as their names tell what they are."""
    sizes = _sizes(hf)
    wrong = []
    for name, info in tensors.items():
        wanted = next((shape for end, shape in sizes.items() if name.endswith(end)), info.shape)
        if info.shape != wanted:
            wrong.append((name, info.shape, wanted))
    if wrong:
        name, found, wanted = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise Refusal(
            f"{path}: {name} has the shape {list(found)} in the weights, and {list(wanted)} by config.json{more};"
            " are config.json and the weights of the same model?"
        )
