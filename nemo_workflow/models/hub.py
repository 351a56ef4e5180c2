"""Models and tokenizers of the Hugging Face Hub: brought into its cache before anything is started, or refused with the commands that do it."""

from __future__ import annotations

import functools
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from nemo_workflow.models.pretrained import hf_folder, is_hub_id, lacking_here
from nemo_workflow.models.tokenizer_files import KEPT, TOKENIZER, half_of, has_tokenizer
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import from_here, no_such_folder
from nemo_workflow.utils.folder_kinds import MODEL, TOKENIZERS, WEIGHTS, holds_weights, meant
from nemo_workflow.utils.scratch import scratch_folder

LICENCE = "accept the licence at https://huggingface.co/{}, then `hf auth login`"
SECONDS = 15.0  # for the Hub to answer
# known to be gated, where the Hub can't be asked (GatedRepoError)
GATED = re.compile(r"meta-llama/.+|google/(code|pali|shield|med)?gemma.*|bigcode/starcoder(base.*|plus)?")
# what a tokenizer is read from. As names, which `hf` of huggingface_hub 0.36 to 2 takes as patterns where there are several: of --include
# that of 0.36 takes the last, those of 1 and 2 one value each
TOKENIZER_ALONE = " '*.json' '*.model' '*.tiktoken' '*.txt' '*.jinja'"


def by_hand(hub_id: str, flag: str, whole: bool = False) -> str:
    """The commands that bring a model, or its tokenizer alone, to a machine without a network. Every refusal says it so."""
    gated = f"; it is gated: {LICENCE.format(hub_id)}" if GATED.fullmatch(hub_id) else ""
    only, why = ("", "") if whole else (TOKENIZER_ALONE, " (the tokenizer's files, no weights)")
    return f"`hf download {hub_id}{only} --local-dir DIR`{why} where there is a network, then {flag} DIR{gated}"


def fetch(
    hub_id: str,
    flag: str,
    patterns: Sequence[str],
    whole: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> Path:
    """The folder in the Hub's cache that holds a model's files; what is not there yet is downloaded. Raises Refusal.

    `whole`: the weights are wanted, not the tokenizer alone. `token` None: HF_TOKEN, or that of `hf auth login`.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    named = f"{flag} {hub_id}"
    try:
        found, complete = _snapshot(hub_id, patterns, whole, revision, token)
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise Refusal(f"{named}: {_why_not(error, hub_id, revision, by_hand(hub_id, flag, whole))}") from None
    if not complete and not whole:  # of a model the caller tells what there is instead
        half = half_of(found)
        what = f"half a tokenizer on the Hub, {half}" if half else "no tokenizer files on the Hub"
        raise Refusal(f"{named}: has {what}; give the id of a model that has them, or a folder with tokenizer.json")
    return found


def _snapshot(
    hub_id: str, patterns: Sequence[str], whole: bool, revision: str | None, token: str | None
) -> tuple[Path, bool]:
    """A model's folder in the cache, and whether all that is wanted is there. Raises what huggingface_hub does."""
    from huggingface_hub import snapshot_download  # a third of a second

    download = functools.partial(snapshot_download, hub_id, revision=revision, token=token, etag_timeout=SECONDS)
    found = Path(download(allow_patterns=list(patterns)))
    if complete := _is_complete(found, patterns, whole):
        return found, complete
    # where the Hub gives no answer its client takes whatever the cache has; of an empty cache it says why
    with scratch_folder() as empty:
        download(allow_patterns=[], cache_dir=empty)
    return found, False


def _why_not(error: Exception, hub_id: str, revision: str | None, download: str) -> str:
    """Why the Hub and its cache gave no model, and the fix; `download`: the commands that bring it by hand."""
    from huggingface_hub import constants, errors

    mistyped = lacking_here(hub_id)
    no_folder = f"{mistyped}; as a Hub id: " if mistyped else "" if "/" in hub_id else f"{no_such_folder(hub_id)}, and "
    if isinstance(error, errors.HFValidationError):
        return f"is neither a folder{from_here(hub_id)} nor a Hub id (organisation/name)"
    if isinstance(error, errors.GatedRepoError):
        return f"gated: {LICENCE.format(hub_id)} (or set HF_TOKEN); Qwen/Qwen3-0.6B-Base, for one, is free to all"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{no_folder}the Hub has no such model, or it is private: check the name, or `hf auth login` (or set HF_TOKEN)"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {revision or 'main'}: take a branch, tag or commit that https://huggingface.co/{hub_id} has"
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    if isinstance(cause, errors.DisabledRepoError):
        return "the Hub has disabled this model; use another"
    if constants.HF_HUB_OFFLINE:
        return f"{no_folder}not in the Hub's cache, and HF_HUB_OFFLINE is set; {download}"
    response = cause.response if isinstance(cause, errors.HfHubHTTPError) else None
    if response is not None and response.status_code in (401, 403) and not GATED.fullmatch(hub_id):
        download += f"; if it is gated, {LICENCE.format(hub_id)}"
    why = "the Hub can't be reached" if response is None else "the Hub answers with an error"
    return f"{no_folder}not in the Hub's cache, and {why}; {download} (the Hub's client says: {_short(cause or error)})"


def _is_complete(found: Path, patterns: Sequence[str], whole: bool) -> bool:
    """Whether a snapshot has what is wanted: a reading of the config alone leaves one in the cache that hasn't."""
    if not whole:
        return has_tokenizer(found)
    weights = any(pattern in patterns for pattern in WEIGHTS)
    return (found / "config.json").exists() and (holds_weights(found) or not weights)


def reason(error: BaseException) -> str:
    """Why an upload failed: the first line of the Hub's answer, or that there was none."""
    said = str(error).strip()
    # an answer of the Hub has a response
    if getattr(error, "response", None) is None and re.search(r"Max retries|timed? ?out|Connection", said):
        return f"the Hub can't be reached ({'no answer' if 'imed' in said else _short(error)})"
    return (said.splitlines() or [type(error).__name__])[0]


def no_folder(flag: str, folder: Path, whole: bool = False) -> str:
    """'no such folder …' for a flag that takes a folder alone, and how to get one where the name can be a Hub id."""
    if folder.is_absolute() or not is_hub_id(str(folder)) or ("/" in str(folder) and folder.parent.is_dir()):
        return f"{no_such_folder(folder)}{meant(folder, MODEL if whole else TOKENIZERS, flag)}"
    download = by_hand(str(folder), flag, whole)
    return f"{no_such_folder(folder)}; {flag} takes a folder, no Hub id: {download}"


def _short(error: BaseException) -> str:
    """The first sentence of what a library says, for behind our own words; of nested errors that of the system alone."""
    if found := re.search(r"\[Errno -?\d+\] (\w[\w ]+)", str(error)):
        return found[1]
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return textwrap.shorten(re.split(r"(?<=[a-z]{3})\. ", line, maxsplit=1)[0], 120, placeholder=" …").rstrip(".")


def fetch_tokenizer(hub_id: str) -> bool:
    """Download what a tokenizer is read from, unless it is here; returns whether anything was downloaded. Raises Refusal."""
    if hf_folder(hub_id) is not None:
        return False
    from huggingface_hub import constants  # a third of a second

    if not constants.HF_HUB_OFFLINE:
        print(f"fetching the tokenizer of {hub_id} from the Hugging Face Hub", file=sys.stderr, flush=True)
    fetch(hub_id, "--hf-model-id", [*TOKENIZER, *KEPT])
    return True
