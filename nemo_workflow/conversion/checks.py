"""What must hold before anything is written. No torch here."""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from nemo_workflow.conversion import config_fields, hf_folder, supported
from nemo_workflow.conversion.hf_folder import TORCH_NAMES, HFReader, TensorInfo
from nemo_workflow.models.families import FAMILIES, wrappers
from nemo_workflow.models.families.base import Config, Family
from nemo_workflow.models.families.not_converted import refused
from nemo_workflow.utils.console import counted, human_bytes
from nemo_workflow.utils.errors import Failure, Refusal

# a table that older checkpoints hold, in fp32 whatever the weights are
ROTARY = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq")
LAYER = re.compile(r"model\.layers\.(\d+)\.")
LIBRARIES_BYTES = 1_300_000_000  # what torch, transformers, Megatron and NeMo take once imported


def model_name(name: str | None, family: Family) -> None:
    """--model-name must be the class that config.json asks for."""
    if name is None or name == family.model_class:
        return
    known = sorted({other.model_class for other in FAMILIES})
    if name not in known:
        raise Refusal(f"--model-name {name}: is not in supported_model.txt; for this source it is {family.model_class}")
    raise Refusal(f"--model-name {name}: the source is a {family.architecture}, which is NeMo's {family.model_class}")


def config_class(name: str | None, family: Family, hf: Config, nemo: Config) -> str:
    """The NeMo config class: the one named if it agrees with config.json, else the family's general one."""
    if name is None:
        return family.nemo_class(hf)
    owner, sizes = supported.family_of_config(name)
    if owner is None:
        close = difflib.get_close_matches(name, supported.config_names(), 1)
        hint = f"; did you mean {close[0]}" if close else ""
        raise Refusal(f"--model-config-name {name}: is not in supported_config.txt{hint}")
    if why := refused(owner.model_class, name):
        raise Refusal(f"--model-config-name {name}: is not converted: {why}")
    if owner.model_class != family.model_class:
        raise Refusal(
            f"--model-config-name {name}: is a config of {owner.model_class}; the source is a {family.model_class}"
        )
    contradictions = [
        f"--model-config-name {name}: its {field} is {value!r}, the source's config.json says {nemo[field]!r}"
        for field, value in sizes.items()
        if field in nemo and nemo[field] != value
    ]
    if contradictions:
        raise Refusal([*contradictions, "leave --model-config-name out: config.json decides"])
    general = family.nemo_class(hf)
    if general != family.config_class and not supported.is_variant(name, general):
        raise Refusal(f"--model-config-name {name}: this source needs {general} or one of its sizes (rope scaling)")
    return name


def losses(found: list[tuple[str, str]], allowed: list[str], tensors: dict[str, TensorInfo]) -> set[str]:
    """Refuse losses that --allow-lossy doesn't name; returns the tensors that are dropped with those that it does."""
    problems = [
        f"config.json {name}: {what} (to lose it: --allow-lossy {name})" for name, what in found if name not in allowed
    ]
    strange = sorted(set(allowed) - {name for name, _ in found} - set(tensors))
    problems += [f"--allow-lossy {name}: nothing of that name would be lost" for name in strange]
    if problems:
        raise Refusal(problems)
    biases = (
        {name for name in tensors if name.endswith(".bias")} if {"attention_bias", "mlp_bias"} & set(allowed) else set()
    )
    return biases | (set(allowed) & set(tensors))


def repeated(tensors: dict[str, TensorInfo], hf: Config) -> set[str]:
    """Names of tensors that should repeat others: rotary tables, and the output layer of a tied model."""
    found = {name for name in tensors if name.endswith(ROTARY)}
    return found | ({"lm_head.weight"} & set(tensors) if hf["tie_word_embeddings"] else set())


def text_tensors(tensors: dict[str, TensorInfo], folder: Path) -> tuple[dict[str, TensorInfo], set[str]]:
    """(the tensors under the names that a model of text has for them, names of those that are left out)."""
    if hf_folder.read_json(folder / "config.json").get("model_type") not in wrappers.WRAPPERS:
        return tensors, set()
    images = wrappers.of_images(tensors)
    return {wrappers.text_name(name): info for name, info in tensors.items() if name not in images}, images


def notes_on(hf: Config, nemo: Config, family: Family, further: set[str]) -> list[str]:
    """What an import that is allowed should say: what is without effect, what is left out, and whether there is a way back."""
    notes = []
    unread = config_fields.unread(hf, family)
    if unread:
        notes.append(
            f"config.json fields that a {family.architecture} doesn't read are kept for the way back: {', '.join(unread)}"
        )
    if further:
        at = sorted({int(found[1]) for name in further if (found := LAYER.match(name))})
        notes.append(
            f"left out: {counted(len(further), 'tensor')} of model.layers.{', '.join(map(str, at))}, which predict further tokens"
            " (num_nextn_predict_layers); transformers passes over them too, and they don't come back"
        )
    if any(rule.kind == "vocab_unit" for rule in family.rules(hf)):
        notes.append(
            f"each row of the output layer is divided by its length, as a {family.architecture} does when it computes; NeMo's"
            " model doesn't, and the rows come back divided"
        )
    longest = family.exact_up_to(hf)
    if longest is not None and longest < hf["max_position_embeddings"]:
        notes.append(
            f"exact up to {longest} tokens (NeMo has the sliding window on other layers): train with --seq-length"
            f" {longest} at most"
        )
    lost = [name for name, _ in config_fields.to_nemo(hf, family)[1]]
    if lost:
        instead, gone = config_fields.come_back(nemo, hf, family)
        again = {name: value for name, value in {**hf, **instead}.items() if name not in gone}
        left = [name for name, _ in config_fields.to_nemo(config_fields.complete(again, family), family)[1]]
        flags = " ".join(f"--allow-lossy {name}" for name in left)
        if flags:
            notes.append(f"the way back, before and after training: convert_from_nemo2_to_hf.py {flags}")
        else:
            notes.append(f"on the way back config.json says of {', '.join(lost)} what NeMo's model computes")
    return notes


def further_layers(hf: Config, tensors: Iterable[str]) -> set[str]:
    """Tensors of DeepSeek's layers that predict further tokens (MTP). They stand behind the others, and transformers passes over them."""
    if not hf.get("num_nextn_predict_layers"):
        return set()
    return {name for name in tensors if (at := LAYER.match(name)) and int(at[1]) >= hf["num_hidden_layers"]}


def redundant(reader: HFReader, family: Family, hf: Config) -> set[str]:
    """Tensors that repeat others: rotary tables, and the output layer of a tied model, if it does repeat the embedding."""
    found = repeated(reader.tensors, hf)
    if "lm_head.weight" in found:
        import torch

        rules = {rule.nemo: rule.hf for rule in family.rules(hf)}
        (embedding,) = rules["embedding.word_embeddings.weight"]
        if not torch.equal(reader.read("lm_head.weight"), reader.read(embedding)):
            raise Refusal(
                "config.json tie_word_embeddings is true, but lm_head.weight differs from the embedding: set it to false"
            )
    return found


def no_strange_dtype(tensors: dict[str, TensorInfo], folder: Path) -> None:
    """Refuse weights of a dtype that no model computes with."""
    kinds = _dtypes(tensors)
    strange = sorted(set(kinds) - set(TORCH_NAMES))
    if strange:
        raise Refusal(
            f"{folder}: {kinds[strange[0]]} is {strange[0]}: the weights are quantized, or no model's; only"
            f" {', '.join(sorted(TORCH_NAMES.values()))} are converted"
        )


def dtype(tensors: dict[str, TensorInfo], folder: Path) -> str:
    """The one torch dtype of the weights."""
    no_strange_dtype(tensors, folder)
    kinds = _dtypes(tensors)
    if len(kinds) > 1:
        mixed = ", ".join(f"{kind} ({name})" for kind, name in sorted(kinds.items()))
        raise Refusal(f"{folder}: the weights have several dtypes, {mixed}; save the model in one")
    return TORCH_NAMES[next(iter(kinds))]


def _dtypes(tensors: dict[str, TensorInfo]) -> dict[str, str]:
    """Each dtype of the weights -> the first tensor that has it."""
    kinds: dict[str, str] = {}
    for name, info in tensors.items():
        # DeepSeek V3 keeps its bias in fp32 among bf16 weights, and so does NeMo; rotary tables are not carried
        if name.endswith(("e_score_correction_bias", *ROTARY)):
            continue
        kinds.setdefault(info.dtype, name)
    return kinds


def needs(total: int, largest: int) -> tuple[int, int]:
    """Bytes of (disk, memory) that a conversion of `total` bytes takes whose largest tensor has `largest`."""
    return total + total // 100 + 50_000_000, LIBRARIES_BYTES + 4 * largest


def resources(output: Path, total: int, largest: int) -> None:
    """Disk space for the output, memory for the largest tensors."""
    parent = output.resolve().parent
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    needed, wanted = needs(total, largest)
    problems = []
    if free < needed:
        problems.append(f"--output-path {output}: needs {human_bytes(needed)}, {human_bytes(free)} are free there")
    memory = memory_available()
    if memory is not None and memory < wanted:
        problems.append(f"memory: about {human_bytes(wanted)} are needed, {human_bytes(memory)} are available")
    if problems:
        raise Refusal(problems)


def memory_available() -> int | None:
    """Bytes that this process may still take: the machine's, or its control group's if that is less."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        group = Path("/sys/fs/cgroup")  # version 2, version 1
        with contextlib.suppress(OSError, ValueError):
            cached = sum(
                int(line.split()[1])
                for line in (group / limit).with_name("memory.stat").read_text().splitlines()
                if line.startswith(("inactive_file ", "active_file "))
            )
            found.append(int((group / limit).read_text()) - int((group / used).read_text()) + cached)
    return min(found) if found else None


@contextlib.contextmanager
def full_disk(output: Path) -> Iterator[None]:
    """A disk that fills up half way is a failure that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Failure(f"--output-path {output}: no space left on the disk; nothing was left behind") from error
        raise
