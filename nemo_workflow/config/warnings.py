"""What a user should know of a run that is allowed to start: a sentence each, added to the plan."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from nemo_workflow.config.card import PlannedCard
from nemo_workflow.config.checks.context import Run
from nemo_workflow.config.checks.outputs import wandb_logged_in
from nemo_workflow.config.flags import BY_ATTRIBUTE, TABLE
from nemo_workflow.data.dataset_stats import figures
from nemo_workflow.models.catalog import Recipe
from nemo_workflow.models.pretrained import Tokenizer


def add(run: Run) -> None:
    """Add every note that applies to `run.notes`."""
    _secrets(run)
    _wandb_key(run)
    if run.tokenizer is None:
        run.notes.append(f"the tokenizer of {run.settings.hf_model_id} is not on this machine, so it was not checked")
    else:
        _data_of_another_tokenizer(run, run.tokenizer)
    if run.recipe and run.nemo_model:
        _sizes_of_checkpoint(run, run.recipe)
    if run.settings.cpu_offloading_weights:
        run.notes.append("--cpu-offloading-weights: does nothing, Transformer Engine 2.9 offloads no weights any more")
    if run.schedule and not run.schedule.limit_val_batches:
        run.notes.append("no validation: --split leaves nothing for it")


def memory_note(total: int, card: PlannedCard) -> str | None:
    """What helps when the memory plan (bytes) exceeds the GPU, or None."""
    if total <= card.memory:
        return None
    return (
        f"the run needs about {total / 2**30:.0f} GiB per GPU, more than the {card}; --layout auto chooses a layout that fits:"
        " more GPUs, --tensor-model-parallel-size, --recompute-granularity full or a smaller --micro-batch-size help"
    )


def _secrets(run: Run) -> None:
    for option in TABLE:
        if option.secret and option.attribute in run.settings.given:
            run.notes.append(
                f"everyone on this machine can read --{option.name} in the list of processes; set"
                f" {BY_ATTRIBUTE[option.attribute].env} in the environment instead"
            )


def _wandb_key(run: Run) -> None:
    offline = os.environ.get("WANDB_MODE", "online") != "online"
    if run.settings.wandb and not run.settings.wandb_token and not offline and not wandb_logged_in():
        run.notes.append(
            "--wandb: no key, so the run is logged to files that `wandb sync` uploads later; with WANDB_API_KEY set,"
            " or after `wandb login`, it goes to the server"
        )


def _sizes_of_checkpoint(run: Run, recipe: Recipe) -> None:
    names = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups")
    differing = [f"{name} {run.sizes[name]}" for name in names if run.sizes.get(name) != recipe.sizes.get(name)]
    if differing:
        run.notes.append(f"sizes of the checkpoint instead of {recipe.name}'s: {', '.join(differing)}")


def _data_of_another_tokenizer(run: Run, tokenizer: Tokenizer) -> None:
    file = tokenizer.folder / "tokenizer.json"
    known = [(source.pair, figures(source.pair)) for source in run.sources]
    known = [(pair, found) for pair, found in known if found]
    for pair, found in known:
        if found.get("append_eod") is False:
            run.notes.append(f"{Path(pair.prefix).name} has no end-of-document tokens between its documents")
    hashes = {found["tokenizer_sha256"] for _, found in known if "tokenizer_sha256" in found}
    if not hashes or not file.is_file():
        return
    ours = hashlib.sha256(file.read_bytes()).hexdigest()
    for pair, found in known:
        if found.get("tokenizer_sha256") not in (None, ours):
            name = found.get("tokenizer_path") or found.get("tokenizer")
            run.notes.append(f"{Path(pair.prefix).name} was preprocessed with another tokenizer.json ({name})")
