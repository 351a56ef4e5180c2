"""config.json in transformers 5's words -> in those of version 4, which the rules of the families speak.

Version 5 keeps all of the rotary positions in `rope_parameters`: theta, scaling, the part of a head that is rotated; where
layers differ, one for each kind of layer. transformers 4.57 doesn't read it. Version 5 reads version 4's words too.
"""

from __future__ import annotations

from typing import Any

from nemo_workflow.models.families.base import Config, Family
from nemo_workflow.utils.errors import Refusal

# what each kind of scaling reads (transformers' modeling_rope_utils); a key that is not here would be lost
READ = {
    "default": set(),
    "linear": {"factor"},
    "dynamic": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor"},
    "longrope": {"factor", "long_factor", "short_factor", "long_mscale", "short_mscale", "attention_factor"},
    "yarn": {"factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "truncate"},
}
EVERYWHERE = {"rope_type", "type", "original_max_position_embeddings"}
OUTSIDE = ("rope_theta", "partial_rotary_factor")  # version 4 has them beside rope_scaling
ROPE = ("rope_scaling", *OUTSIDE, "rope_local_base_freq")  # all that rope_parameters may say


def normal(raw: Config, family: Family) -> Config:
    """The same config.json in version 4's words. Raises Refusal for what says two things, or what no rule knows."""
    full = {**raw}
    for new, old in family.renamed5.items():
        if new in full:
            say(full, old, full.pop(new), f"{new} and {old}")
    parameters = full.pop("rope_parameters", None)
    if parameters is not None:
        for name, value in _flat(parameters, family).items():
            say(full, name, value, f"rope_parameters and {name}")
    scaling = full.get("rope_scaling")
    if isinstance(scaling, dict) and set(OUTSIDE) & set(scaling):
        full["rope_scaling"] = None
        for name, value in _split(scaling, "rope_scaling").items():
            say(full, name, value, f"rope_scaling and {name}")
    elif isinstance(scaling, dict) and _known(scaling, "rope_scaling") == "default":
        full["rope_scaling"] = None
    if full.get("partial_rotary_factor") == 1.0 and "partial_rotary_factor" not in {rule.hf for rule in family.fields}:
        del full["partial_rotary_factor"]
    return full


def say(full: Config, name: str, value: Any, both: str) -> None:
    """Set a field; raises Refusal where it is set to something else already (`both` are the two names of it)."""
    if full.get(name) not in (None, value):
        raise Refusal(
            f"config.json: {both} differ ({value!r}, {full[name]!r}); leave one, the one that the model was trained with"
        )
    full[name] = value


def _flat(parameters: Any, family: Family) -> Config:
    """rope_parameters as fields of version 4."""
    if not isinstance(parameters, dict):
        raise Refusal(f"config.json rope_parameters: an object is expected, {parameters!r} found")
    if not any(isinstance(value, dict) for value in parameters.values()):
        return _split(parameters, "rope_parameters")
    kinds = {kind: part for kind, part in parameters.items() if part is not None}
    strange = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if strange:
        raise Refusal(f"config.json rope_parameters.{strange[0]}: no rule knows this kind of layer")
    said = {kind: _split(part, f"rope_parameters.{kind}") for kind, part in kinds.items()}
    whole, local = said.get("full_attention"), said.get("sliding_attention")
    if whole is None or local is None or whole == local:
        return whole or local or {}
    if "rope_local_base_freq" not in family.special_fields:
        raise Refusal(
            f"config.json rope_parameters: NeMo's {family.model_class} has the same rotary positions in all layers; here"
            " those of full_attention and sliding_attention differ"
        )
    if local.keys() != {"rope_theta", "rope_scaling"} or local["rope_scaling"] is not None:
        raise Refusal(
            f"config.json rope_parameters.sliding_attention: NeMo's {family.model_class} computes only plain rotary"
            " positions in local layers"
        )
    return {**whole, "rope_local_base_freq": local["rope_theta"]}


def _split(parameters: Any, where: str) -> Config:
    """What stands together in version 5, or in a rope_scaling with a theta, apart."""
    if not isinstance(parameters, dict):
        raise Refusal(f"config.json {where}: an object is expected, {parameters!r} found")
    scaling = {name: value for name, value in parameters.items() if name not in OUTSIDE}
    kind = _known(scaling, where)
    said = {name: parameters[name] for name in OUTSIDE if parameters.get(name) is not None}
    return {"rope_scaling": None if kind == "default" else scaling, **said}


def _known(scaling: Config, where: str) -> str:
    """The kind of scaling; raises Refusal for a key that it doesn't read, under a name that transformers may yet come to read."""
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    known = READ.get(kind) if isinstance(kind, str) else None
    strange = sorted(set(scaling) - known - EVERYWHERE) if known is not None else []
    if strange:
        raise Refusal(
            f"config.json {where}.{strange[0]}: no rule knows this key of {kind!r} positions (value {scaling[strange[0]]!r})"
        )
    return str(kind)


def respelled(changed: Config, origin: Config, family: Family) -> Config:
    """`origin` with the fields in `changed`, in its own words where they say the same, in version 4's where they don't."""
    written = {**origin}
    rope = set(ROPE) & set(changed)
    if rope and "rope_parameters" in written:
        said = {name: value for name, value in normal(origin, family).items() if name in ROPE}
        del written["rope_parameters"]
        written |= said
    for new, old in family.renamed5.items():
        if new in written and old in changed:
            written[new] = changed[old]
            changed = {name: value for name, value in changed.items() if name != old}
    return {**written, **changed}
