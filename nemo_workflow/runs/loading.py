"""What sample and evaluate say while they load a model: seconds of imports, and minutes for a large model or a slow disk."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_workflow.models.foreign_code import flash_named
from nemo_workflow.models.tokenizer_files import json_of
from nemo_workflow.models.tokenizer_loading import first_line
from nemo_workflow.utils import machine
from nemo_workflow.utils.console import Meter, counted, human_time
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.folder_kinds import holds_weights

# what transformers' names of models for other tasks end with; it would load their weights as those of one that continues text
OTHER_TASKS = ("MaskedLM", "PreTraining", "Classification", "QuestionAnswering", "MultipleChoice", "SentencePrediction")
WORTH_SAYING = 5.0  # seconds, after which it is said how long it took


def load_model(folder: Path, dtype: Any) -> Any:
    """transformers' model of a folder, ready to be read, on the GPUs where there are any; raises Refusal where it can't be loaded."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    config = json_of(folder / "config.json")
    named, kind = config.get("architectures"), config.get("model_type")
    if other := [name for name in named or () if str(name).endswith(OTHER_TASKS)]:
        raise Refusal(
            f"--hf-model {folder}: its config.json names {other[0]}, which doesn't continue text: give a causal language model"
        )
    if kind and kind not in transformers.CONFIG_MAPPING:
        raise Refusal(
            f"--hf-model {folder}: transformers {transformers.__version__} doesn't know the model_type {kind} of its"
            " config.json: give a model that it knows"
        )
    if not holds_weights(folder):
        raise Refusal(f"--hf-model {folder}: no weights in it (*.safetensors): give the folder of a whole model")
    spread = {"device_map": "auto"} if torch.cuda.is_available() else {}
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, torch_dtype=dtype, trust_remote_code=False, output_loading_info=True, **spread
        )
    # a file that is missing, sizes that don't fit, a class it doesn't know, a package that quantized weights take
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        flash = flash_named(config) if isinstance(error, ImportError) else {}
        mend = f"; or take {' and '.join(flash)} out of its config.json" if flash else ""
        why = first_line(error, lines=3).rstrip(".")
        if found_bin := re.search(r"Unable to load weights from pytorch checkpoint file for '([^']+)'", why):
            why = f"{Path(found_bin[1]).name} is no file of PyTorch's, or damaged: copy or download the model again"
        raise Refusal(f"--hf-model {folder}: transformers can't load it: {why}{mend}") from None
    if missing := sorted(found["missing_keys"]):
        raise Refusal(
            f"--hf-model {folder}: its files lack {counted(len(missing), 'tensor')} of the model that its config.json names,"
            f" such as {missing[0]}, which would be random: give a whole causal language model"
        )
    return model.eval()


def check_ids(model: Any, ids: Any, whose: str) -> None:
    """Raise Refusal where a model has no row for a token. `ids`: int64, any shape; `whose` tokens they are, for the words."""
    rows = model.get_input_embeddings().num_embeddings
    if (most := int(ids.max())) >= rows:
        raise Refusal(f"--hf-model: {whose} has the token {most:,}, and the model {rows:,} rows: give its own model")


def longest_text(model: Any) -> int | None:
    """The tokens of a text that a model was made for, where its config.json says."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def most_positions(model: Any) -> int | None:
    """The tokens that a model with learned positions can read at once; None for one whose positions are computed."""
    import torch

    most = longest_text(model)
    others = (one for one in model.modules() if one is not model.get_input_embeddings())
    # OPT has two rows more
    learned = most and any(
        isinstance(one, torch.nn.Embedding) and 0 <= one.num_embeddings - most <= 2 for one in others
    )
    return most if learned else None


@contextlib.contextmanager
def loading(folder: Path, purpose: str = "") -> Iterator[None]:
    """Say what is loaded, on what, and for which purpose; at the end how long that took, where it was long."""
    meter, began = Meter(sys.stderr), time.monotonic()
    what = f"loading {folder} on the {'GPU' if machine.has_gpu() else 'CPU'}{purpose} …"
    meter.show(what, always=True)
    try:
        yield
        if (seconds := time.monotonic() - began) > WORTH_SAYING:
            meter.note(f"{what} done in {human_time(seconds)}")
    finally:
        meter.close()
