"""What sample and evaluate say while they load a model: seconds of imports, and minutes for a large model or a slow disk."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_workflow.models.tokenizer_loading import first_line
from nemo_workflow.utils import machine
from nemo_workflow.utils.console import Meter, human_time
from nemo_workflow.utils.errors import Refusal

WORTH_SAYING = 5.0  # seconds, after which it is said how long it took


def load_model(folder: Path, dtype: Any) -> Any:
    """transformers' model of a folder, ready to be read, on the GPUs where there are any; raises Refusal where it can't be loaded."""
    import torch
    from transformers import AutoModelForCausalLM

    spread = {"device_map": "auto"} if torch.cuda.is_available() else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=dtype, trust_remote_code=False, **spread)
    # a file that is missing, sizes that don't fit, a class it doesn't know
    except (OSError, RuntimeError, ValueError) as error:
        raise Refusal(f"--hf-model {folder}: transformers can't load it: {first_line(error, lines=3)}") from None
    return model.eval()


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
