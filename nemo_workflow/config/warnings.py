"""What a user should know of a run that is allowed to start: a sentence each, added to the plan."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from nemo_workflow.config import containers
from nemo_workflow.config.card import PlannedCard
from nemo_workflow.config.checks.context import Run
from nemo_workflow.config.checks.data import (
    made_before_it_changed,
    maker_of,
    named,
    names_of,
    of_another_end,
    of_another_tokenizer,
)
from nemo_workflow.config.checks.hardware import (
    LONG_STEP_SECONDS,
    cores_short_of,
    cpu_libraries,
    cpu_step_seconds,
    ranks_that_fit,
)
from nemo_workflow.config.checks.outputs import wandb_logged_in
from nemo_workflow.config.flags import BY_ATTRIBUTE, TABLE
from nemo_workflow.config.plan import Plan
from nemo_workflow.data.dataset_stats import figures
from nemo_workflow.models import catalog, hub
from nemo_workflow.models.catalog import Recipe
from nemo_workflow.models.convertible import why_not_converted
from nemo_workflow.models.tokenizer_identity import MAKER, end_named
from nemo_workflow.utils import libraries
from nemo_workflow.utils.console import and_more, counted, human_time
from nemo_workflow.utils.files import IN_FRONT
from nemo_workflow.utils.folder_kinds import checkpoint_in, holds_weights, to_nemo

BUSY_TOKENS = 4096  # per GPU and micro batch: CP2 at 4,096 keeps 89 % of one H200's speed, CP4 at 2,048 half of it
SMALLER = 8  # times smaller than the batch used: a recipe's own batch is worth a word
USEFUL_EPOCHS = 4  # of the same text: up to there nearly as good as new text
WORTH = 0.02  # of a GPU's memory


def add(run: Run) -> None:
    """Add every note that applies to `run.notes`."""
    _secrets(run)
    _wandb_key(run)
    if run.tokenizer is None:
        _no_tokenizer_yet(run)
    else:
        _no_end_of_documents(run)
        _maker_unknown(run)
        _made_with_another(run)
        _documents_end_otherwise(run)
    if run.recipe and run.nemo_model:
        _sizes_of_checkpoint(run, run.recipe)
    if run.settings.cpu_offloading_weights:
        run.notes.append("--cpu-offloading-weights: has no effect: Transformer Engine 2.9 no longer offloads weights")
    _nemo_of_the_ranks(run)
    _batch_of_the_guide(run)
    _more_processes_than_cores(run)
    _long_steps(run)
    _end_of_branch(run)
    _often_seen(run)
    _longer_than_trained(run)
    _weights_not_used(run)
    _without_effect(run)
    _new_at_the_root(run)
    if run.schedule and not run.schedule.limit_val_batches:
        run.notes.append("no validation: --split leaves nothing for it")


def _no_tokenizer_yet(run: Run) -> None:
    """What can't be known before the tokenizer is here, and what the data tells of theirs."""
    named = run.settings.hf_model_id
    whose = "the recipe's usual tokenizer" if run.vocab_from == "recipe" else run.vocab_from
    run.notes.append(
        f"the tokenizer of {named} is not on this machine: vocabulary, parameters and all that follows from them are those of"
        f" {whose}, and it was not checked; the run fetches it. If the run has no network:"
        f" {hub.by_hand(named, '--hf-model-id')}"
    )
    others = {
        Path(source.pair.prefix).name: str(made_with)
        for source in run.every_source
        if (made_with := figures(source.pair).get("tokenizer")) not in (None, named)
    }
    if others:
        run.notes.append(
            f"{and_more(list(others))}: preprocessed with {and_more(list(dict.fromkeys(others.values())))}; whether that is the"
            f" tokenizer of {named} is compared when it has been fetched, and data of another is refused then"
        )


def _maker_unknown(run: Run) -> None:
    """Pairs of other tools, beside which nothing names their tokenizer: only an id that is too large would show another."""
    kept = ("tokenizer", *MAKER)
    unknown = [one.pair.prefix for one in run.every_source if not any(map(figures(one.pair).get, kept))]
    if unknown:
        names = and_more(list(dict.fromkeys(Path(prefix).name for prefix in unknown)))
        run.notes.append(
            f"{names}: nothing beside it says which tokenizer made it; if it wasn't --hf-model-id's, the model learns nothing of use:"
            f" python -m nemo_workflow.dataset {shlex.quote(unknown[0])} --tokenizer {shlex.quote(run.settings.hf_model_id)} shows a text of it"
        )


def _made_with_another(run: Run) -> None:
    """What --allow-change tokenizer lets through."""
    if others := of_another_tokenizer(run):
        maker = "this tokenizer before it changed" if made_before_it_changed(run, others[0]) else "another tokenizer"
        run.notes.append(
            f"--allow-change tokenizer: {named(run, others)}: made with {maker}"
            f" ({maker_of(others[0])}); unless its ids are the same, the model learns nothing of use, and the loss means nothing"
        )


def _documents_end_otherwise(run: Run) -> None:
    """What --eod-token chose, older figures leave open, or --allow-change tokenizer lets through: training itself looks for no end."""
    if run.tokenizer is None:
        return
    ours = end_named(run.tokenizer.eos, run.tokenizer.eos_id)
    for end, pairs in of_another_end(run).items():
        run.notes.append(
            f"the documents of {named(run, pairs)} end with {end}, and the tokenizer of --hf-model-id ends one with {ours}: the model"
            f" learns to end with the first, and what generates with this tokenizer stops at the second alone"
        )


def _longer_than_trained(run: Run) -> None:
    """A checkpoint's own length, which its positions were trained up to: those behind it are new to it."""
    trained = run.nemo_model.sizes.get("seq_length") if run.nemo_model else None
    if isinstance(trained, int) and run.seq_length > trained:
        run.notes.append(
            f"--seq-length {run.seq_length:,}: the checkpoint of --nemo-model was made for {trained:,} tokens; it has to learn"
            f" the positions behind them first, and its loss may begin higher"
        )


def _weights_not_used(run: Run) -> None:
    """A model's folder, taken for its tokenizer: the run doesn't begin with its weights, as who names a model may think."""
    settings, folder = run.settings, run.hf_folder
    own = checkpoint_in(Path(settings.output_dir).expanduser() / settings.experiment)
    if settings.nemo_model or settings.decay_from or own or folder is None or not holds_weights(folder):
        return
    why_not = why_not_converted(folder)
    way = f"It can't begin with them: {why_not}" if why_not else f"To begin with them: {to_nemo(settings.hf_model_id)}"
    run.notes.append(
        f"--hf-model-id {settings.hf_model_id}: holds a model's weights, which are not used: the run begins with random ones. {way}"
    )


def _new_at_the_root(run: Run) -> None:
    """`--output-dir "$PLACE/runs"` with a PLACE that is unset."""
    folder = Path(run.settings.output_dir).expanduser()
    if folder.parent == Path("/") and not folder.exists():
        run.notes.append(f"--output-dir {folder}: a new folder in /; {IN_FRONT}")


def _without_effect(run: Run) -> None:
    """Flags that change nothing in this plan, though they would in another with the same file."""
    if run.layout and run.layout.nodes == 1 and run.settings.suggest is None and run.given("node_bandwidth"):
        run.notes.append("--node-bandwidth: has no effect on one node: nothing is sent between nodes")
    if run.hf_folder and run.given("hf_token") and not run.settings.push_to_hub:
        where = "a folder of this machine" if Path(run.settings.hf_model_id).expanduser().is_dir() else "here already"
        run.notes.append(
            f"--hf-token: has no effect: the tokenizer of --hf-model-id is {where}, and nothing is downloaded"
        )
    if (
        run.schedule
        and not run.schedule.limit_val_batches
        and run.given("val_check_interval")
        and "val_check_interval" not in run.settings.from_file
    ):
        run.notes.append("--val-check-interval: has no effect, since --split leaves nothing for a validation")


def _end_of_branch(run: Run) -> None:
    """A --config file of the run that a branch leaves has that run's --max-steps."""
    schedule, asked = run.schedule, run.settings.max_steps
    if run.branch and schedule and asked not in (None, schedule.max_steps):
        run.notes.append(f"--max-steps {asked}: --decay-steps ends the branch after step {schedule.max_steps}")


def _often_seen(run: Run) -> None:
    """Sources that repeat so often that they teach less and less."""
    if run.schedule is None or not run.seq_length:
        return
    drawn = run.schedule.max_steps * run.settings.global_batch_size
    names = names_of(run)
    epochs = {
        names[source.pair.prefix]: drawn * source.weight / max(1, parts[0].samples(run.seq_length))
        for source, parts in zip(run.sources, run.parts, strict=True)
    }
    often = [f"{name} ({count:,.1f} times)" for name, count in epochs.items() if count > USEFUL_EPOCHS]
    remedy = f"--max-epochs-per-source {USEFUL_EPOCHS} gives the rest to other sources"
    if len(often) == len(epochs):  # nothing is left to give it to
        remedy = "more text, or a smaller --max-steps, makes better use of the time"
    if often:
        run.notes.append(
            f"seen more than {USEFUL_EPOCHS} times: {and_more(often)}; repeated further, text teaches less and less"
            f" (arXiv 2305.16264): {remedy}"
        )


def _long_steps(run: Run) -> None:
    """What a CPU is asked for, where a step takes longer than anybody waits silently."""
    seconds = cpu_step_seconds(run) if run.accelerator == "cpu" and run.settings.executor == "local" else None
    if seconds is not None and seconds > LONG_STEP_SECONDS:
        run.notes.append(f"on this machine's CPU a step will take about {human_time(seconds)}")


def _batch_of_the_guide(run: Run) -> None:
    """An unset batch is the guide's, which was made for a model of 8 billion parameters on many GPUs."""
    name = "global_batch_size"
    if name in run.settings.given or run.recipe is None or run.layout is None:
        return
    own, used = run.recipe.fields[f"data.{name}"], run.settings.global_batch_size
    if own * SMALLER > used:
        return
    per_rank = used // max(1, run.settings.micro_batch_size * run.layout.data)
    seconds = cpu_step_seconds(run) if run.accelerator == "cpu" and run.settings.executor == "local" else None
    noted = seconds is None or seconds > LONG_STEP_SECONDS  # a long step has a note of its own
    time = "" if noted else f"; on this machine's CPU a step takes about {human_time(seconds or 0)}"
    run.notes.append(
        f"--global-batch-size is unset, so it is {used:,}, {counted(per_rank, 'micro batch')} per step; {run.recipe.name}'s own"
        f" is {own:,} (-gbs {own}){time}"
    )


def _more_processes_than_cores(run: Run) -> None:
    cores = cores_short_of(run)
    if cores is not None and run.layout is not None:
        fits = ranks_that_fit(run, cores)
        run.notes.append(
            f"--num-gpus {run.layout.ranks_per_node}: more processes than the {counted(cores, 'core')} of this machine, which"
            f" take turns{f'; -G {fits} is faster' if fits else ''}"
        )


def _nemo_of_the_ranks(run: Run) -> None:
    """Whether the ranks' NeMo is the one that the plan was made for, as far as it can be told from here."""
    settings, planned = run.settings, catalog.nemo_version()
    if containers.described(settings):
        note = containers.note(settings.container_image, planned)
        run.notes += [note] if note else []
        return
    here = libraries.version("nemo_toolkit")
    if here not in (None, planned):
        run.notes.append(
            f"NeMo {here} is installed here, and the plan was made for NeMo {planned}; rank 0 compares the model's sizes before"
            " it is built"
        )
    if settings.dry_run:
        run.notes += [f"a run here would be refused: {problem}" for problem in cpu_libraries(run)]


def short_pieces_note(plan: Plan) -> str | None:
    """Context parallelism that leaves a GPU too few tokens at once to keep it busy."""
    context = plan.layout.context
    tokens = plan.settings.micro_batch_size * plan.seq_length // context
    if context == 1 or tokens >= BUSY_TOKENS:
        return None
    return (
        f"-CP {context} leaves {tokens:,} tokens per GPU and micro batch; below {BUSY_TOKENS:,} a GPU waits more than it"
        " computes (llama31_8b on four H200s: half of data parallelism's speed at 2,048); a larger -mbs, a longer"
        " --seq-length or a smaller -CP is faster where it fits"
    )


def sequence_parallel_note(plan: Plan, with_it: int, without: int) -> str | None:
    """What -SP would save; `with_it` and `without` are bytes of the fullest GPU. None where that is not worth a word."""
    if without - with_it < WORTH * without:
        return None
    tensor = plan.layout.tensor
    return (
        f"-TP {tensor} without -SP: each GPU keeps activations that its {tensor} ranks could share;"
        f" -SP saves {(without - with_it) / 2**30:.1f} of {without / 2**30:.1f} GiB per GPU"
    )


def memory_note(total: int, card: PlannedCard) -> str | None:
    """What helps when the memory plan (bytes) exceeds the GPU, or None."""
    if total <= card.memory:
        return None
    return (
        f"the run needs about {total / 2**30:.0f} GiB per GPU, more than the {card}; --layout auto chooses what fits;"
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


def _no_end_of_documents(run: Run) -> None:
    known = [(source.pair, figures(source.pair)) for source in run.sources]
    known = [(pair, found) for pair, found in known if found]
    names = names_of(run)
    without = [names[pair.prefix] for pair, found in known if found.get("append_eod") is False]
    if without:
        verb, whose = ("has", "its") if len(without) == 1 else ("have", "their")
        run.notes.append(f"{and_more(without)} {verb} no end-of-document tokens between {whose} documents")
