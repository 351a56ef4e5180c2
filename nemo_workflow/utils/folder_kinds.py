"""What is at a path that a flag was given for something else, told by the names in it, and which flag or command takes it.

Every refusal of a folder says it in these words: `meant` is the one place that recognises folders.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemo_workflow.utils.files import script

PLAN = "plan.json"  # in a run's folder, and in that of each of its starts
OUTPUT_DIR = "nemo_experiments"  # where runs are written unless --output-dir says otherwise
ADAPTER = "adapter_config.json"
HF_MODEL = "it is a Hugging Face model"
MERGE = "merge it into its base model (peft: merge_and_unload, then save_pretrained) and convert that"
GGUF = "GGUF, llama.cpp's form, most often quantized: take the folder of safetensors that it was made from"
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
# pretrain_llm.py's own flags that take a folder: who typed one of them needn't be told whose the others are
OF_TRAINING = ("--hf-model-id", "--nemo-model", "--dataset-dir", "--validation-dir", "--blend", "--decay-from")
# what a flag wants; the refusal says what else the folder is
TOKENIZERS, DATA, TEXT, MODEL = "a tokenizer", "data", "text", "a Hugging Face model"
NEMO, BRANCH = "a NeMo 2 checkpoint", "a run's checkpoint"


def meant(place: str | Path, wanted: str, flag: str) -> str:
    """'; it is a run's folder: --nemo-model RUN/checkpoints/step_…' where what is at a path is known; else ''.

    `wanted`: one of the words above, `flag` is named in what can be typed instead. A run may be called by its name.
    """
    path = Path(place).expanduser()
    kinds = KINDS if path.exists() else ()
    found = next((words for words in (told(path, wanted, flag) for told in kinds) if words), "")
    if not found:
        found = _beside_others(path, wanted, flag)
    if not found and is_run(named := Path(OUTPUT_DIR) / path):
        found = _of_a_run(named, wanted, flag, "name")
    return f"; {found}" if found else ""


def quoted(path: str | Path) -> str:
    """A path as it is typed behind a flag."""
    return shlex.quote(str(path))


def _training(words: str, flag: str) -> str:
    """A flag of pretrain_llm.py with its value, and whose it is where another command's `flag` was typed."""
    return words if flag.startswith(OF_TRAINING) else f"{words} of pretrain_llm.py"


def checkpoint_in(folder: Path) -> Path | None:
    """The newest NeMo 2 checkpoint of a run's folder, or of its checkpoints/, that was written to its end."""
    found = [
        path
        for place in (folder / "checkpoints", folder)
        for path in sorted(place.glob("step_*"), reverse=True)
        if is_checkpoint(path) and not path.with_name(f"{path.name}-unfinished").exists()
    ]
    return found[0] if found else None


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder has the parts of a NeMo 2 checkpoint."""
    return (folder / "context").is_dir() and (folder / "weights").is_dir()


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds a Hugging Face model's weights, an adapter's not counted."""
    found = (path.name for pattern in WEIGHTS for path in folder.glob(pattern))
    return any(not name.startswith("adapter_model") for name in found)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return bool(_settings_of(folder))


def never_text(folder: Path) -> bool:
    """Whether a folder is a run's, a checkpoint, a model or an adapter: none of its files is text to learn from."""
    return not holds_data(folder) and any(told(folder, TEXT, "") for told in (_adapter, _run, _checkpoint, _model))


def holds_data(folder: Path) -> bool:
    """Whether preprocessing, or another maker of .bin/.idx pairs, has written into a folder."""
    return any(folder.glob("*.idx")) or any(folder.glob("preprocessed/**/*.idx"))


def _beside_others(path: Path, wanted: str, flag: str) -> str:
    """Of a checkpoint of a run that was removed, or whose save was interrupted, the newest that is whole."""
    if wanted not in (NEMO, BRANCH) or path.parent.name != "checkpoints" or is_checkpoint(path):
        return ""
    what = "its save did not come to its end; " if path.exists() else ""
    newest = checkpoint_in(path.parent)
    return f"{what}the newest whole one is {flag} {quoted(newest)}" if newest else what.removesuffix("; ")


def _gguf(path: Path, wanted: str, flag: str) -> str:
    files = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf"))
    return f"{files[0].name} is {GGUF}" if files else ""


def _adapter(path: Path, wanted: str, flag: str) -> str:
    folder = path.parent if path.name.startswith("adapter_") else path
    if not (folder / ADAPTER).is_file() or (folder / "config.json").is_file():
        return ""
    return f"{ADAPTER} says that it is an adapter, LoRA or the like: {MERGE}"


def beside_an_adapter(folder: Path) -> str:
    """What is wrong with a model's folder that holds an adapter too; '' where it holds none."""
    if not (folder / ADAPTER).exists():
        return ""
    return (
        f"holds a model and an adapter ({ADAPTER}), which transformers would put on another model, the adapter's base: move the"
        f" adapter's files out of the folder, or {MERGE}"
    )


def _of_others(path: Path, wanted: str, flag: str) -> str:
    """Checkpoints of other tools, which nothing here reads."""
    if (path / "lit_model.pth").is_file():
        return "it holds LitGPT's weights (lit_model.pth): take the folder of the model as Hugging Face has it, or litgpt convert_from_litgpt"
    if (path / "latest_checkpointed_iteration.txt").is_file() or any(path.glob("iter_*/mp_rank_*")):
        return "it is a Megatron-LM checkpoint: take the model as Hugging Face has it"
    return ""


def _data(path: Path, wanted: str, flag: str) -> str:
    if wanted == DATA or not holds_data(path):
        return ""
    done = "what preprocessing has made of a text" if wanted == TEXT else "data"
    return f"it holds {done}, which goes with {_training('--dataset-dir', flag)}"


def _run(path: Path, wanted: str, flag: str) -> str:
    """Of a run's folder, or its checkpoints/."""
    run = path.parent if path.name == "checkpoints" else path
    return _of_a_run(run, wanted, flag, "folder") if is_run(run) else ""


def _of_a_run(run: Path, wanted: str, flag: str, called: str) -> str:
    settings, checkpoint, what = _settings_of(run), checkpoint_in(run), f"it is a run's {called}"
    if wanted == TOKENIZERS and settings.get("hf_model_id"):
        return f"{what}, and the run was trained with {flag} {quoted(settings['hf_model_id'])}"
    if wanted == DATA and settings.get("dataset_dir"):
        return f"{what}, and the run was trained with {flag} {shlex.join(settings['dataset_dir'])}"
    return _in_a_run(checkpoint, wanted, flag, what)


def _in_a_run(checkpoint: Path | None, wanted: str, flag: str, what: str) -> str:
    """What can be done with a run's newest checkpoint."""
    if wanted in (NEMO, BRANCH):
        return (
            f"{what}; did you mean {flag} {quoted(checkpoint)}?"
            if checkpoint
            else f"{what}, and has no whole checkpoint"
        )
    return (
        f"{what}; its newest checkpoint goes with {_training(f'--nemo-model {quoted(checkpoint)}', flag)}"
        if checkpoint
        else what
    )


def _settings_of(run: Path) -> dict[str, Any]:
    """The flags of a run's newest start; {} for what is no run's folder."""
    try:
        settings = json.loads((run / PLAN).read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _checkpoint(path: Path, wanted: str, flag: str) -> str:
    if path.name in ("context", "weights") and is_checkpoint(path.parent):
        path = path.parent
    if not is_checkpoint(path):
        inner = checkpoint_in(path)
        return _in_a_run(inner, wanted, flag, "it holds a run's checkpoints") if inner else ""
    if wanted == NEMO:
        return f"did you mean {flag} {quoted(path)}?"
    own = next((file.parent for name in TOKENIZER for file in sorted(path.glob(f"context/*/{name}"))), None)
    if wanted == TOKENIZERS:
        lacks = "and holds no tokenizer: give the one that its model was trained with"
        return f"it is a NeMo 2 checkpoint, {f'whose tokenizer is {flag} {quoted(own)}' if own else lacks}"
    return f"it is a NeMo 2 checkpoint, which goes with {_training(f'--nemo-model {quoted(path)}', flag)}"


def _model(path: Path, wanted: str, flag: str) -> str:
    if wanted == TOKENIZERS or not (path / "config.json").is_file() or not holds_weights(path):
        return ""
    if wanted in (DATA, TEXT):
        return f"it is a Hugging Face model: its tokenizer goes with {'--tokenizer' if wanted == TEXT else _training('--hf-model-id', flag)}"
    return f"{HF_MODEL}: {to_nemo(path)}"


def to_nemo(source: str | Path) -> str:
    """The command that makes a NeMo 2 checkpoint of a Hugging Face model, and the flag that starts from it."""
    target = quoted(f"{Path(source).name}-nemo")
    return (
        f"{script('ckpt_conversion/convert_from_hf_to_nemo2.py')} --source {quoted(source)} --output-path {target}, then --nemo-model"
        f" {target}"
    )


def _file_of_one(path: Path, wanted: str, flag: str) -> str:
    """A file of a model's or a tokenizer's folder, where the folder is wanted."""
    inside = path.is_file() and any((path.parent / name).is_file() for name in (*TOKENIZER, "config.json"))
    return f"did you mean {flag} {quoted(path.parent)}?" if inside and wanted in (TOKENIZERS, MODEL) else ""


def _tokenizer(path: Path, wanted: str, flag: str) -> str:
    if wanted == TOKENIZERS or not any((path / name).is_file() for name in TOKENIZER):
        return ""
    return f"it is a tokenizer, which goes with {'--tokenizer' if wanted == TEXT else _training('--hf-model-id', flag)}"


# the first that recognises a path counts
KINDS: tuple[Callable[[Path, str, str], str], ...] = (
    _gguf, _adapter, _of_others, _data, _run, _checkpoint, _model, _tokenizer, _file_of_one,
)  # fmt: skip
