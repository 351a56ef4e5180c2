"""--config FILE: flags of a YAML file, or every problem with it, each with its line or key and what to write there."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nemo_workflow import REPOSITORY
from nemo_workflow.config.flags import BY_ATTRIBUTE, COMMAND_ATTRIBUTES, TABLE
from nemo_workflow.config.synonyms import MEANINGS
from nemo_workflow.utils import pasted
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import from_here, from_here_if_below
from nemo_workflow.utils.meant import close_to, meant
from nemo_workflow.utils.text_coding import coding_of

EXAMPLES = REPOSITORY / "examples"  # of a checkout; pip installs none
WORKED_OUT = "worked-out"  # a key of a run's own config.yaml: the flags there that its plan worked out, by name
LINES = "lines `flag-name: value`"
A_KEY = re.compile(r"[\w.-]+:(\s.*)?")
NO_KEY = re.compile(
    r"-{0,2}([A-Za-z][\w.-]*)(?:\s*[=:]\s*|\s+)(\S.*)"
)  # what was meant for one: `lr 0.001`, lr=0.001, --lr 0.001
NULL = "tag:yaml.org,2002:null"
SHOWN = 8  # lines of a section that are shown flat


def read_config(path: str) -> dict[str, Any]:
    """The flags of a YAML file by attribute name; raises Refusal with every unknown key and wrong value."""
    return read_runs_config(path)[0]


def read_runs_config(path: str) -> tuple[dict[str, Any], frozenset[str]]:
    """The same, and those of them whose values a run's own config.yaml has from the run's plan; of a file of flags none."""
    loaded, keys, empty = _loaded(path)
    problems = [f"--config {path}: {problem}" for problem in _repeated(keys)]
    values: dict[str, Any] = {}
    for key, value in loaded.items():
        if key == WORKED_OUT:
            continue
        attribute = attribute_of(str(key))
        option = BY_ATTRIBUTE.get(attribute)
        if attribute in COMMAND_ATTRIBUTES:
            problems.append(f"--config {path}: {key}: stands on the command line only; take it out and give it there")
        elif isinstance(value, dict):
            problems.append(f"--config {path}: {_made_flat(str(key), value)}")
        elif option is None:
            problems.append(f"--config {path}: unknown key {key!r}{_meant(str(key))}")
        elif option.secret:
            problems.append(f"--config {path}: {key} is a secret; set {option.env} in the environment instead")
        elif key in empty:
            problems.append(
                f"--config {path}{line_of(path, attribute)}: {key}: no value; write it behind the colon, or take the line out"
            )
        else:
            try:
                values[attribute] = option.from_yaml(value)
            except ValueError as error:
                problems.append(f"--config {path}: {key}: {value!r}: {error}{_value_meant(option.name, value)}")
    if problems:
        raise Refusal(problems)
    given = {name: value for name, value in values.items() if value is not None}
    return given, frozenset(attribute_of(name) for name in worked_out_of(loaded)) & given.keys()


def worked_out_of(config: Mapping[Any, Any]) -> list[str]:
    """The names that a run's config.yaml has below WORKED_OUT."""
    return str(config.get(WORKED_OUT) or "").split()


def _loaded(path: str) -> tuple[dict[Any, Any], list[str], list[str]]:
    """The values of a file, its keys in their order, one that stands there twice twice, and those without a value. Raises Refusal.

    A `null` is a value: that of a flag that isn't given.
    """
    import yaml  # 30 ms that only --config needs

    from nemo_workflow.utils import yaml_text

    if Path(path).suffix == ".toml":
        raise Refusal(f"--config {path}: TOML, which is not read here; {_expected()}")
    text = _text(path)
    try:
        loaded, node = yaml_text.load(text), yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise Refusal(f"--config {path}{_mend(text, error)}") from None
    if node is None:
        raise Refusal(f"--config {path}: has no lines; {_expected()}")
    if not isinstance(loaded, dict):
        raise Refusal(f"--config {path}{_mend(text, None)}")
    if other := _other_file(path, loaded):
        raise Refusal(f"--config {path}: {other}")
    nothing = [str(key.value) for key, value in node.value if value.value == "" and value.tag == NULL]
    return loaded, [str(key.value) for key, _ in node.value], nothing


def _expected() -> str:
    example = f", as in {from_here_if_below(EXAMPLES / 'laptop.yaml')}" if EXAMPLES.is_dir() else ""
    return f"{LINES} are expected there{example}"


def _text(path: str) -> str:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise Refusal(
            f"--config {path}: no such file{from_here(path)}; {_example_meant(path) or _expected()}"
        ) from None
    except IsADirectoryError:
        inside = Path(path) / "config.yaml"
        said = f"the file in it is --config {shlex.quote(str(inside))}" if inside.is_file() else _expected()
        raise Refusal(f"--config {path}: a folder, not a file; {said}") from None
    except OSError as error:
        raise Refusal(f"--config {path}: cannot be read: {error.strerror}; {_expected()}") from None
    if coding := coding_of(data[:4096]):
        raise Refusal(
            f"--config {path}: {coding}; convert it first: iconv -f {coding} -t UTF-8 {shlex.quote(path)} > NEW.yaml"
        )
    if b"\0" in data:
        raise Refusal(f"--config {path}: not a text file; {_expected()}")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Refusal(
            f"--config {path}, line {line}: byte 0x{data[error.start]:02x} is no UTF-8; if the file is Latin-1, convert it:"
            f" iconv -f LATIN1 -t UTF-8 {shlex.quote(path)} > NEW.yaml"
        ) from None


def _example_meant(path: str) -> str:
    """The checkout's example of this name, or one that is spelled like it, as it is typed from here."""
    examples = {example.stem: example for example in EXAMPLES.glob("*.yaml")}
    close = close_to(Path(path).stem, examples, cutoff=0.8)
    return f"did you mean --config {from_here_if_below(examples[close[0]])}?" if close else ""


def _other_file(path: str, loaded: Mapping[Any, Any]) -> str:
    """What a file is that holds other things than flags, and the one that was meant; empty for any other."""
    what = "plan" if {"settings", "schedule"} <= loaded.keys() else "summary" if "final_loss" in loaded else ""
    if what:
        config = Path(path).with_name("config.yaml")
        place = shlex.quote(str(config)) if config.is_file() else "the config.yaml of the run's folder"
        return f"a run's {what}; its flags are in {place}"
    if "model_type" in loaded or "architectures" in loaded:
        return f"a model's {Path(path).name}; --hf-model-id {shlex.quote(str(Path(path).parent))} takes its folder"
    if "tokenizer_class" in loaded or "added_tokens" in loaded:
        return f"a tokenizer's {Path(path).name}; --hf-model-id {shlex.quote(str(Path(path).parent))} takes its folder"
    return ""


def _mend(text: str, error: Any) -> str:
    """', line N: …' for a text that is no YAML of ours: what is wrong in that line, and the line as it should be.

    `error` is yaml's, or None where the text is YAML without keys.
    """
    if hasattr(error, "reason"):  # a sign that no YAML may hold
        line = text.count("\n", 0, error.position) + 1
        return f", line {line}: the sign U+{ord(text[error.position]):04X}, which YAML doesn't take; take it out"
    marks = [getattr(error, name, None) for name in ("context_mark", "problem_mark")]
    named = [mark.line + 1 for mark in marks if mark]
    if "another document" in (getattr(error, "problem", None) or ""):
        return f", line {named[-1]}: a second document begins (---); keep one"
    lines = dict(enumerate(text.splitlines(), 1))
    for number in [*named, *lines]:
        if wrong := _wrong_line(lines.get(number, "")):
            return f", line {number}: {wrong}"
    problem = getattr(error, "problem", None) or f"no key: {_expected()}"
    where = f", line {named[-1]}" if named else ""
    found = re.fullmatch(r"\s*([\w.-]+): *(\S.*)", lines.get(named[0], "")) if named else None
    if found and "'" not in found[2] and '"' not in found[2]:
        return f", line {named[0]}: {problem}; put the value in quotes: `{found[1]}: '{found[2]}'`"
    if "quoted" in (getattr(error, "context", None) or ""):
        return f", line {named[0]}: {problem}; close the quotes"
    return f"{where}: {problem}{f'; {_expected()}' if error else ''}"


def _wrong_line(line: str) -> str:
    """What is wrong with a line that ought to be a flag's, and how it is written; empty where nothing is seen."""
    bare = line.partition(" #")[0].rstrip()
    plain = " ".join(bare.replace("\t", " ").split())
    if not plain or (plain[0] in "#-[]{}" and not plain.startswith("--")):
        return ""
    if blanks := [sign for sign in bare if sign in pasted.BLANKS]:
        return f"holds {pasted.named(blanks)}, as text programs put it; write `{plain}`"
    if "\t" in bare:
        return f"a tab, which YAML doesn't take; write `{plain}` with blanks"
    if A_KEY.fullmatch(plain):
        return f"blanks before the key; write `{plain}`" if line[0] == " " else ""
    found = NO_KEY.fullmatch(plain)
    if found and _is_known(found[1]):
        return f"`{plain}` is no `flag-name: value`; write `{found[1]}: {found[2]}`"
    return ""


def _is_known(key: str) -> bool:
    return attribute_of(key) in BY_ATTRIBUTE or f"--{key.replace('_', '-')}" in MEANINGS


def _made_flat(key: str, section: Mapping[Any, Any]) -> str:
    """What to write instead of a section: litgpt's, torchtitan's and NeMo's own files have some, ours is flat."""
    lines, unknown = [], []
    for name, value in _leaves(key, section):
        ours = _name_of(name)
        if ours:
            written = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else value
            lines.append(f"`{ours}: {written}`")
        else:
            unknown.append(name)
    shown = f": {', '.join(lines[:SHOWN])}{' …' if len(lines) > SHOWN else ''}" if lines else ""
    left = f"; no flag is called {', '.join(unknown[:SHOWN])}" if unknown else ""
    return f"{key}: a section, and this file is flat: each flag is a line of its own{shown}{left}"


def _leaves(key: str, section: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(f"{key}.{name}", value)
        else:
            yield f"{key}.{name}", value


def _name_of(dotted: str) -> str:
    """The flag of a name within sections: under its whole name or its last part, ours or another tool's."""
    last = dotted.rpartition(".")[2]
    if option := BY_ATTRIBUTE.get(attribute_of(last)):
        return option.name
    said = (MEANINGS.get(f"--{name.replace('_', '-')}", "") for name in (dotted, last))
    found = (re.fullmatch(r"did you mean --([\w-]+)\?", one) for one in said)
    return next((one[1] for one in found if one), "")


def line_of(path: str, attribute: str) -> str:
    """', line 9': where a file of --config sets a flag; empty where it can't be told."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            key, colon, _ = line.partition(":")
            if colon and attribute_of(key.strip().strip("'\"")) == attribute:
                return f", line {number}"
    return ""


def _repeated(keys: list[str]) -> Iterator[str]:
    """A problem for each flag that stands in a file more than once, under whatever names: YAML would take the last."""
    names: dict[str, list[str]] = {}
    for key in keys:
        names.setdefault(attribute_of(key), []).append(key)
    for found in names.values():
        if len(found) > 1:
            yield f"{' and '.join(dict.fromkeys(found))}: given {len(found)} times; keep one"


def attribute_of(key: str) -> str:
    attribute = key.lstrip("-").replace("-", "_")
    for option in TABLE:
        if attribute in [alias.replace("-", "_") for alias in option.aliases]:
            return option.attribute
    return attribute


def _value_meant(name: str, value: object) -> str:
    """'; did you mean X?' for a value that other tools give to the flag, or nothing."""
    said = MEANINGS.get(f"--{name} {str(value).lower()}", "")
    return f"; {said.replace(f'--{name} ', '')}" if said else ""


def _meant(name: str) -> str:
    """'; did you mean X?' for a key of another tool, or one that looks like a flag, or nothing."""
    known = [f"--{option.name}" for option in TABLE if option.attribute not in COMMAND_ATTRIBUTES and not option.secret]
    flag = f"--{name.lstrip('-').replace('_', '-')}"
    said = meant(flag, known, MEANINGS)
    return f"; {said.replace(' --', ' ') if said.startswith('did you mean') else said}" if said else ""
