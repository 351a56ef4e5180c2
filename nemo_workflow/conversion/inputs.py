"""What is at --source: a Hugging Face folder or Hub id, a NeMo 2 folder, or something else that is named in the refusal."""

from __future__ import annotations

from pathlib import Path

from nemo_workflow.conversion import folder_checks
from nemo_workflow.conversion.config_fields import complete
from nemo_workflow.conversion.hf_folder import read_json
from nemo_workflow.models import hub
from nemo_workflow.models.families import by_model_type
from nemo_workflow.models.families.base import Config, Family
from nemo_workflow.models.families.not_converted import why_not
from nemo_workflow.models.families.wrappers import text_part
from nemo_workflow.models.pretrained import is_hub_id, no_hub_id
from nemo_workflow.models.tokenizer_files import TOKENIZER
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import IN_FRONT, from_here, no_such_folder
from nemo_workflow.utils.folder_kinds import MODEL, NEMO, meant, quoted

UNFINISHED = "-unfinished"  # NeMo's marker beside a checkpoint that is being written
WEIGHTS = "*.safetensors"
WANTED = ("*.json", WEIGHTS, *TOKENIZER)

NULLABLE = ("q_lora_rank", "attn_logit_softcapping", "final_logit_softcapping")  # null is a value of theirs


def fetch(source: str, revision: str | None, token: str | None, flag: str = "--source", weights: bool = True) -> Path:
    """The folder of a Hub id, downloaded if need be (an interrupted download goes on), or the local folder itself."""
    if Path(source).exists():
        if revision is not None:
            raise Refusal(
                f"--revision {revision}: {flag} {source} is a folder here; a revision is of a Hub id. Leave it out"
            )
        return Path(source)
    if not is_hub_id(source):
        raise Refusal(no_hub_id(flag, source))
    wanted = [pattern for pattern in WANTED if weights or pattern != WEIGHTS]
    return hub.fetch(source, flag, wanted, flag == "--source", revision, token)


def read_hf(folder: Path) -> tuple[Family, Config]:
    """(family, completed config.json) of a Hugging Face folder."""
    if folder.is_file():
        kind = "a NeMo 1 file" if folder.suffix == ".nemo" else "a file"
        raise Refusal(
            f"--source {folder}: is {kind}, a Hugging Face folder is expected{meant(folder, MODEL, '--source')}"
        )
    check_no_nemo(folder)
    path = folder / "config.json"
    if not path.exists():
        raise Refusal(f"--source {folder}: {_what_it_is(folder)}")
    raw = text_part(read_json(path))
    family = _family(raw, path)
    _check_quantization(raw, folder)
    raw = folder_checks.checked_values(raw, family, path)
    folder_checks.check_heads(raw, family, path)
    with folder_checks.making_sense(path, family):
        full = _complete_or_raw(raw, family)
    own = {common: name for name, common in family.renamed.items()}
    without = [rule.hf for rule in family.fields if rule.default is None]
    lacking = [name for name in without if name not in full or (full[name] is None and name not in NULLABLE)]
    if lacking:
        raise Refusal(f"{path}: lacks {', '.join(dict.fromkeys(own.get(name, name) for name in lacking))}")
    with folder_checks.making_sense(path, family):
        full = complete(raw, family)
        folder_checks.check_ranges(full, family, path)
    return family, full


def _complete_or_raw(raw: Config, family: Family) -> Config:
    """`complete`, or `raw` where the fields that it works with are missing."""
    try:
        return complete(raw, family)
    except (KeyError, TypeError):
        return raw


def _family(raw: Config, path: Path) -> Family:
    """The family of a config.json."""
    model_type = raw.get("model_type")
    family = by_model_type(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise Refusal(f"{path}: model_type {model_type!r} is not converted: {why_not(raw)}")
    if why := family.refuses(raw):
        raise Refusal(f"{path}: {why}")
    architectures = raw.get("architectures") or [family.architecture]
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise Refusal(
            f"{path}: architectures is {architectures!r}; a list such as ['{family.architecture}'] is expected"
        )
    if not {family.architecture, *family.other_architectures} & set(architectures):
        raise Refusal(
            f"{path}: architecture {architectures[0]} is not converted, {family.architecture} is: save the model as one, with the output layer of a language model"
        )
    return family


def _what_it_is(folder: Path) -> str:
    """What a folder without a config.json is, for the refusal."""
    if (folder / "params.json").exists():
        return (
            "has no config.json; it holds a model in its maker's own form (params.json): take the one for transformers"
        )
    # a checkpoint's folder in a trainer's, or a snapshot in the Hub's cache
    places = ("*", "snapshots/*", "models--*/snapshots/*")
    inner = [path.parent for place in places for path in sorted(folder.glob(f"{place}/config.json"))]
    inner_one = f"; did you mean {quoted(inner[0])}?" if inner else ""
    return f"has no config.json, so it is not a Hugging Face model folder{meant(folder, MODEL, '--source')}{inner_one}"


def check_no_nemo(folder: Path, output: Path | None = None) -> None:
    """Raise Refusal for what the other script takes."""
    if (folder / "context").is_dir() and (folder / "weights").is_dir():
        swapped = _swapped(output is not None and (output / "config.json").is_file(), output)
        way = "convert_from_nemo2_to_hf.py goes the other way"
        raise Refusal(f"--source {folder}: is a NeMo 2 folder already; {swapped or way}")


def _swapped(is_source: bool, output: Path | None) -> str:
    """The question where what lies at --output-path is what --source wants; or nothing."""
    return f"--output-path {output} is what --source wants: are the two swapped?" if is_source else ""


def check_swapped(source: str, output: Path, overwrite: bool) -> None:
    """Raise Refusal where nothing is at --source and a model, which may not be replaced, at --output-path."""
    a_model = (output / "config.json").is_file() or (output / "weights").is_dir()
    known = Path(source).exists() or meant(source, NEMO, "--source")  # a run's name, a checkpoint that was removed
    if a_model and not known and not (overwrite and is_hub_id(source)):
        raise Refusal(
            f"--source {source}: {no_such_folder(source)}, and --output-path {output} is a model: are the two swapped?"
        )


def _check_quantization(raw: Config, folder: Path) -> None:
    """Raise Refusal for a model that says that its weights are quantized."""
    for name in ("quantization_config", "compression_config", "quantization"):
        said = raw.get(name)
        if said:
            method = said.get("quant_method") or name if isinstance(said, dict) else said
            raise Refusal(
                f"{folder}/config.json: the weights are quantized ({method}); convert the model in bf16, fp16 or fp32"
            )


def find_nemo(source: str, output: Path | None = None) -> Path:
    """The NeMo 2 folder at `source`; raises Refusal, which asks whether `output` and it are swapped."""
    folder = Path(source)
    if not folder.exists():
        hub = "; a model of the Hugging Face Hub goes to convert_from_hf_to_nemo2.py" if is_hub_id(str(source)) else ""
        raise Refusal(
            f"--source {source}: there is no such folder{from_here(source)}{meant(source, NEMO, '--source') or hub}"
        )
    if folder.is_file():
        if folder.suffix == ".nemo":
            raise Refusal(
                f"--source {source}: is a NeMo 1 file; this project reads NeMo 2 folders (context/ and weights/). "
                "Convert it with the scripts of a NeMo 1 release"
            )
        raise Refusal(
            f"--source {source}: is a file; a NeMo 2 folder with context/ and weights/ is expected{meant(folder, NEMO, '--source')}"
        )
    folder = folder.absolute()
    if folder.resolve() == Path("/"):  # whose files would all be looked through
        raise Refusal(f"--source {source}: no NeMo 2 folder; {IN_FRONT}")
    if folder.name in ("weights", "context") and (folder.parent / "weights").is_dir():
        folder = folder.parent
    if folder.with_name(folder.name + UNFINISHED).exists():
        raise Refusal(
            f"--source {source}: is still being written, or its run died while writing; take an older checkpoint"
        )
    parts = [name for name in ("context", "weights") if not (folder / name).is_dir()]
    if parts:
        inner = sorted({path.parent for path in folder.glob("**/weights") if (path.parent / "context").is_dir()})
        hint = f"; did you mean {quoted(inner[-1])}?" if inner else meant(source, NEMO, "--source")
        if (folder / "config.json").exists():
            swapped = _swapped(output is not None and (output / "weights").is_dir(), output)
            way = "convert_from_hf_to_nemo2.py goes the other way"
            hint = f"; it looks like a Hugging Face folder: {swapped or way}"
        raise Refusal(
            f"--source {source}: has no {' and no '.join(parts)} folder, so it is not a NeMo 2 checkpoint{hint}"
        )
    if not (folder / "weights" / ".metadata").is_file():
        raise Refusal(
            f"--source {source}: weights/.metadata is missing or not a regular file: the checkpoint was not written to its end"
        )
    return folder
