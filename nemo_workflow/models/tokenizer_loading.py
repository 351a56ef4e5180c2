"""transformers' tokenizer of a folder: the class that its own files name, or a refusal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nemo_workflow.models.tokenizer_files import (
    CONFIG,
    check_class_named,
    check_has_tokenizer,
    check_ids,
    copy_for_nemo,
    in_older_words,
    json_of,
)
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.scratch import scratch_folder

LONGEST = 160  # characters of a library's words in a message


def load(folder: Path, trust_remote_code: bool = False) -> Any:
    """AutoTokenizer.from_pretrained; raises Refusal, naming the folder, where transformers can't load it."""
    check_class_named(folder, trust_remote_code)
    check_ids(folder)
    config = json_of(folder / CONFIG)
    if trust_remote_code or in_older_words(config) == config:
        return _load(folder, folder, trust_remote_code)
    with scratch_folder() as scratch:
        copy_for_nemo(folder, scratch / "copy")
        return _load(scratch / "copy", folder, False)


def _load(place: Path, folder: Path, trust_remote_code: bool) -> Any:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(place), trust_remote_code=trust_remote_code)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a tokenizer's file or code raises; a panic in Rust is no Exception
        said = first_line(error)
        if json_of(folder / CONFIG).get("auto_map") and not trust_remote_code:
            why = "" if "custom code" in said else f" ({said})"
            raise Refusal(
                f"{folder}: the tokenizer can't be loaded without code of its own (auto_map in {CONFIG}), which is not run{why};"
                " give a folder with a tokenizer.json; preprocessing alone runs such code, with --trust-remote-code"
            ) from None
        check_has_tokenizer(folder)
        raise Refusal(
            f"{folder}: transformers can't load the tokenizer; save it again with transformers 4.57, or give another folder"
            f" ({said})"
        ) from None


def first_line(error: BaseException, lines: int = 1) -> str:
    """What an error says, or the first `lines` of it, short enough for a message."""
    said = (str(error).strip() or type(error).__name__).splitlines()[:lines]
    return " ".join(line.strip() for line in said)[: LONGEST * lines]
