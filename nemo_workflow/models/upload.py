"""Uploads to the Hugging Face Hub: what is refused before the work whose result they would take."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def problems(hub_id: str, token: bool) -> Iterator[str]:
    """What is wrong with --push-to-hub here, by the Hub's own rules of names; `token`: there is one, or it can't be told."""
    marks = any(part.startswith((".", "-")) or part.endswith((".", "-", ".git")) for part in hub_id.split("/"))
    if not HUB_ID.fullmatch(hub_id) or marks or "--" in hub_id or ".." in hub_id:
        yield f"--push-to-hub {hub_id}: not a valid name of a Hub model; give ORG/NAME of letters, digits and ._-"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield "--push-to-hub: HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it, or leave the flag out"
    if not token:
        yield (
            "--push-to-hub: no token; `hf auth login`, or export HF_TOKEN with one that may write (made on the Hub's"
            " settings page)"
        )


def token_here() -> bool:
    """Whether HF_TOKEN is set, or `hf auth login` has left a token on this machine."""
    from huggingface_hub import get_token  # a third of a second

    return bool(get_token())
