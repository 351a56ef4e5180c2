"""A config.json against itself and against the weights' headers: what a damaged or hand-made folder gets wrong."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_workflow.conversion import tensor_shapes
from nemo_workflow.conversion.hf_folder import TensorInfo
from nemo_workflow.models.families.base import Config, Family
from nemo_workflow.models.families.mapping import items
from nemo_workflow.utils.console import counted
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.folder_kinds import MERGE

# more than any model has; a larger number in a damaged file would have us count for hours
MOST = {"num_hidden_layers": 10_000, "num_experts": 10_000, "num_local_experts": 10_000, "n_routed_experts": 10_000}
MOST_NAMED = 20  # tensors in one refusal
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


DIVISORS = {"factor", "rope_theta", "original_max_position_embeddings", "partial_rotary_factor"}


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
        elif rope[key] is not None and key in DIVISORS and not rope[key] > 0:
            yield f"{name}'s {key} is {rope[key]}; a number above 0 is expected"
    low, high = rope.get("low_freq_factor"), rope.get("high_freq_factor")
    if _is_number(low) and _is_number(high) and not float(low or 0) < float(high or 0):
        yield f"{name}'s low_freq_factor {low} is not below its high_freq_factor {high}"


def check_heads(raw: Config, family: Family, path: Path) -> None:
    """Raise Refusal for numbers of heads that don't divide what they share."""
    common = {family.renamed.get(name, name): value for name, value in raw.items()}
    said = {family.renamed.get(name, name): name for name in raw}  # as the file calls them
    hidden, heads, groups = (common.get(f) for f in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    carried = {rule.hf: rule for rule in family.fields}
    follows = "head_dim" in carried and carried["head_dim"].default is None and not common.get("head_dim")
    if follows and hidden and heads and hidden % heads:
        raise Refusal(
            f"{path}: {said['hidden_size']} {hidden} is not a multiple of {said['num_attention_heads']} {heads}, and head_dim"
            " isn't given"
        )
    if "num_key_value_heads" in carried and heads and groups and heads % groups:
        raise Refusal(
            f"{path}: {said['num_attention_heads']} {heads} is not a multiple of {said['num_key_value_heads']} {groups}"
        )


def check_ranges(hf: Config, family: Family, path: Path) -> None:
    """Raise Refusal for numbers of a completed config.json that no model computes with."""
    problems = []
    for name in ("rope_theta", "rope_local_base_freq"):
        if hf.get(name) is not None and not hf[name] > 0:
            problems.append(f"{name} is {hf[name]}; a number above 0 is expected")
    rates = {rule.hf for rule in family.fields} | family.special_fields
    for name in sorted(name for name in rates if name.endswith(("dropout", "pdrop"))):
        rate = hf.get(name)
        if rate is not None and not (_is_number(rate) and 0 <= rate < 1):
            problems.append(f"{name} is {_short(rate)}; a rate from 0 to below 1 is expected")
    experts, chosen = family.experts(hf), hf.get("num_experts_per_tok")
    if experts and chosen is not None and chosen > experts:
        problems.append(f"num_experts_per_tok {chosen} of {experts} experts")
    groups, of_them = hf.get("n_group"), hf.get("topk_group")
    if experts and groups and (experts % groups or (of_them or 1) > groups):
        problems.append(f"{experts} experts in n_group {groups} groups, of which topk_group {of_them} are chosen")
    types, layers = hf.get("layer_types"), hf["num_hidden_layers"]
    if (
        "layer_types" in family.special_fields
        and types is not None
        and (not isinstance(types, list) or len(types) != layers)
    ):
        problems.append(f"layer_types is {_short(types)}; a list of one for each of {layers} layers is expected")
    if problems:
        raise Refusal([f"{path}: {problem}" for problem in problems])


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
        raise Refusal(
            f"the source lacks {counted(len(missing), 'tensor')} of a {family.architecture}, e.g. {missing[0]}{_why_missing(missing, tensors)}"
        )
    left = sorted(set(tensors) - carried - dropped)
    if left:
        raise Refusal(
            f"the source has {counted(len(left), 'tensor')} that NeMo's {family.model_class} has no place for, e.g. {left[0]}"
            f"{_why_left(left, hf)} (to lose {'it' if len(left) == 1 else 'them'}: {' '.join(f'--allow-lossy {name}' for name in left[:MOST_NAMED])})"
        )


def _why_left(left: list[str], hf: Config) -> str:
    """What the number of layers tells about tensors without a place."""
    layers = hf.get("num_hidden_layers")
    numbers = [int(found[1]) for name in left if (found := re.search(r"\.layers\.(\d+)\.", name))]
    if isinstance(layers, int) and numbers and min(numbers) >= layers:
        return f": the weights have {max(numbers) + 1} layers, and config.json says num_hidden_layers {layers}"
    return ""


def _why_missing(missing: list[str], tensors: dict[str, TensorInfo]) -> str:
    """What the tensors that are there tell about those that are not."""
    if any(".lora_A." in name for name in tensors):
        return f"; it holds an adapter's tensors (LoRA): {MERGE}"
    if missing == ["lm_head.weight"]:
        return (
            "; a model whose output layer is its embedding says so in config.json (tie_word_embeddings: true), another was not"
            " saved whole"
        )
    wrapped = [name for name in tensors if name.endswith(f".{missing[0]}")]
    if wrapped:
        prefix = wrapped[0].removesuffix(missing[0])
        return f"; it has {wrapped[0]}: save the model without what it was wrapped in ({prefix})"
    return "; config.json is another model's, or the model was not saved whole: download or save it again"


def check_shapes(hf: Config, tensors: dict[str, TensorInfo], path: Path) -> None:
    """Raise Refusal for weights of another shape than config.json says, as far as their names tell what they are."""
    wanted = {name: tensor_shapes.expected(name, hf) for name in tensors}
    wrong = [
        (name, info.shape, shape) for name, info in tensors.items() if (shape := wanted[name]) not in (None, info.shape)
    ]
    if wrong:
        name, found, shape = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise Refusal(
            f"{path}: {name} has the shape {list(found)} in the weights, and {list(shape)} by config.json{more};"
            " are config.json and the weights from the same model?"
        )
