"""The tokenizer of a Hub id, brought into the Hub's cache before anything is started."""

from __future__ import annotations

import sys

from nemo_workflow.models.pretrained import hf_folder
from nemo_workflow.models.tokenizer_files import KEPT, TOKENIZER
from nemo_workflow.utils.errors import Refusal

SECONDS = 15.0  # for the Hub to answer


def fetch_tokenizer(hub_id: str) -> bool:
    """Download what a tokenizer is read from, unless it is here; returns whether anything was downloaded. Raises Refusal."""
    if hf_folder(hub_id) is not None:
        return False
    from huggingface_hub import constants, snapshot_download  # a third of a second
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    by_hand = f"hf download {hub_id} --include '*token*' '*.json' --local-dir DIR, then --hf-model-id DIR"
    if constants.HF_HUB_OFFLINE:
        raise Refusal(
            f"--hf-model-id {hub_id}: not in the Hub's cache, and HF_HUB_OFFLINE is set; where there is a network: {by_hand}"
        )
    print(f"fetching the tokenizer of {hub_id} from the Hugging Face Hub", file=sys.stderr, flush=True)
    try:
        snapshot_download(hub_id, allow_patterns=[*TOKENIZER, *KEPT], etag_timeout=SECONDS)
    except GatedRepoError:
        raise Refusal(
            f"--hf-model-id {hub_id}: gated: accept its licence on its page at the Hub, then set HF_TOKEN or run `hf auth"
            " login`; Qwen/Qwen3-0.6B-Base, for one, is free to all"
        ) from None
    except RepositoryNotFoundError:
        raise Refusal(
            f"--hf-model-id {hub_id}: the Hub has no such model, or it is private and HF_TOKEN is not set; check the name"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise Refusal(
            f"--hf-model-id {hub_id}: not in the Hub's cache, and the Hub can't be reached ({why}); where there is a network:"
            f" {by_hand}"
        ) from None
    return True
