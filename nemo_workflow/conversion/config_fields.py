"""config.json <-> NeMo config fields, by the family's table. No torch here."""

from __future__ import annotations

from typing import Any

from nemo_workflow.models.families import transformers5
from nemo_workflow.models.families.base import WITHOUT_EFFECT, Config, Family
from nemo_workflow.models.families.reads import without_effect


def complete(hf: Config, family: Family) -> Config:
    """`hf` in transformers 4's words, with the defaults that it would fill in, so that every carried field has a value."""
    full = common_names(transformers5.normal(hf, family), family)
    for rule in family.fields:
        if full.get(rule.hf) is None and rule.default is not None:
            full[rule.hf] = rule.default(full) if callable(rule.default) else rule.default
    names = {rule.hf for rule in family.fields}
    if "num_key_value_heads" in names and full.get("num_key_value_heads") is None:
        full["num_key_value_heads"] = full["num_attention_heads"]
    if "head_dim" in names and full.get("head_dim") is None:
        full["head_dim"] = full["hidden_size"] // full["num_attention_heads"]
    full.setdefault("tie_word_embeddings", False)
    return full


def common_names(raw: Config, family: Family) -> Config:
    """A config.json's fields under the names that most families have for them. Raises Refusal where it has both, and they differ."""
    full = dict(raw)
    for own, common in family.renamed.items():
        value = full.pop(own, None)
        if value is not None:
            transformers5.say(full, common, value, f"{own} and {common}")
    return full


def to_nemo(hf: Config, family: Family) -> tuple[Config, list[tuple[str, str]]]:
    """NeMo fields for a completed config.json, and what would be lost: (config.json field, what) pairs."""
    carried = {rule.nemo: hf[rule.hf] for rule in family.fields}
    special, losses = family.special(hf)
    for name, allowed in family.fixed.items():
        if name in hf and hf[name] not in allowed:
            wanted = " or ".join(map(repr, allowed))
            losses.append((name, f"NeMo's {family.model_class} computes only {name}={wanted}, here it is {hf[name]!r}"))
    losses += [(name, f"no rule carries this field (value {value!r})") for name, value in unknown(hf, family)]
    return {**carried, **special}, losses


def unknown(hf: Config, family: Family) -> list[tuple[str, Any]]:
    """Fields of a config.json that no rule speaks of, that are set to something, and that the model may read."""
    return [(name, value) for name, value in _strange(hf, family) if not without_effect(name, hf, family)]


def unread(hf: Config, family: Family) -> list[str]:
    """Fields that no rule speaks of and that the model doesn't read: they change nothing, whatever put them there."""
    return [name for name, _ in _strange(hf, family) if without_effect(name, hf, family)]


def _strange(hf: Config, family: Family) -> list[tuple[str, Any]]:
    known = {rule.hf for rule in family.fields} | set(family.fixed) | WITHOUT_EFFECT | family.special_fields
    known |= set(family.renamed)
    return [(name, value) for name, value in hf.items() if name not in known and value not in (None, False, [], {})]


def to_hf(nemo: Config, family: Family) -> tuple[Config, list[str]]:
    """config.json fields for the fields of a NeMo config, and the problems: what the Hugging Face model can't compute."""
    problems = []
    for name, wanted in family.nemo_fixed.items():
        value = target(nemo.get(name, wanted))
        if value != wanted:
            problems.append(f"{name} is {value!r}; {family.architecture} computes only {wanted!r}")
    hf: Config = {}
    for rule in family.fields:
        if rule.nemo in nemo:
            value = nemo[rule.nemo]
            # two NeMo fields may carry one: the longest context, and the length that the model was trained with
            hf[rule.hf] = max(hf[rule.hf], value) if rule.hf in hf else value
    if hf.get("num_key_value_heads", 0) is None:
        hf["num_key_value_heads"] = hf["num_attention_heads"]
    if "head_dim" in hf and hf["head_dim"] is None:
        hf["head_dim"] = hf["hidden_size"] // hf["num_attention_heads"]
    hf.update(family.special_back(nemo))
    return hf, problems


def come_back(nemo: Config, before: Config, family: Family) -> tuple[Config, set[str]]:
    """What replaces fields of the config.json that the model came with, which an import lost with permission.

    Returns ({field: what NeMo's model computes instead}, fields to leave out); `before` is that config.json, completed.
    """
    back = family.special_back(nemo)
    kept = {rule.hf for rule in family.fields} | family.special_fields
    instead, gone = {}, set()
    for name, _ in to_nemo(before, family)[1]:
        if name in family.fixed:
            instead[name] = family.fixed[name][-1]
        elif name in back:
            instead[name] = back[name]
        elif name not in kept:
            gone.add(name)
    return instead, gone


def target(value: Any) -> Any:
    """A function in model.yaml is {_target_: name, _call_: False}: its name."""
    if isinstance(value, dict) and value.get("_call_") is False:
        return value.get("_target_")
    return value


def computed(nemo: Config, family: Family) -> Config:
    """The fields of a model.yaml that decide what the model computes, as values to build a config with."""
    names = {rule.nemo for rule in family.fields} | set(family.nemo_fixed) | set(family.special_nemo)
    values = {name: nemo[name] for name in names if name in nemo}
    return {name: value for name, value in values.items() if not isinstance(value, dict)}
