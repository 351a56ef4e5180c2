"""Settings -> Plan. It reads only headers of the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from nemo_workflow.config import auto_layout, calibration, checks, memory, micro_batch, run_time, suggest, warnings
from nemo_workflow.config.card import PlannedCard, card_of
from nemo_workflow.config.checks import slurm as slurm_rules
from nemo_workflow.config.checks.context import Run
from nemo_workflow.config.checks.hardware import slow_on_a_cpu
from nemo_workflow.config.checks.values import smallest_values
from nemo_workflow.config.flags import TABLE
from nemo_workflow.config.parallelism import make_layout
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.schedule import Branch, Schedule, make_schedule
from nemo_workflow.config.settings import Settings
from nemo_workflow.data import blend
from nemo_workflow.data.blend import Source
from nemo_workflow.data.dataset_stats import figures
from nemo_workflow.data.splits import Part, parse_split, parts_of
from nemo_workflow.models import catalog, hub, parameters, pretrained
from nemo_workflow.models.catalog import Recipe
from nemo_workflow.utils import machine
from nemo_workflow.utils.console import human_bytes
from nemo_workflow.utils.errors import Refusal, closed
from nemo_workflow.utils.files import absolute

T = TypeVar("T")
CPU_PARAMETERS = 300e6  # a model with more than these takes a CPU weeks
OF_THE_RUN = ("recompute_", "cross_entropy_")  # fields of a saved model that say how it was trained, not what it is


def make_plan(settings: Settings, command: Sequence[str] = (), branch: Branch | None = None) -> Plan:
    """Work out the run and check it; raises one Refusal that holds every problem.

    `command` is sys.argv, `branch` what run_dir.branching has read of --decay-from; ValueError where that was forgotten.
    """
    if settings.decay_from and branch is None:
        raise ValueError("--decay-from: make_plan needs the branch that run_dir.branching.branch_of reads of it")
    problems: list[str] = []
    asked = settings
    settings = auto_layout.neutral(asked)
    run = _gather(settings, problems, branch)
    card = (
        card_of(settings, run.accelerator, run.layout.ranks_per_node)
        if run.accelerator == "gpu" and run.layout
        else None
    )
    free = auto_layout.free_splits(asked, run.accelerator)
    searched = bool(free - {"micro_batch"}) and card is not None and run.recipe is not None
    if searched:
        assert card and run.recipe
        scale, _ = _scale(run, card)
        settings, reason = auto_layout.choose(run, asked, free, card, scale)
        run = replace(run, settings=settings, layout=make_layout(settings, run.recipe, run.accelerator))
        run.notes.append(reason)
    problems += checks.find_problems(run)
    problems += slurm_rules.find_problems(run)
    if problems:
        raise Refusal(dict.fromkeys(problems))
    assert run.recipe is not None and run.schedule is not None and run.layout is not None
    warnings.add(run)
    plan = Plan(
        settings=_resolved(run),
        given=tuple(sorted(settings.given)),
        accelerator=run.accelerator,
        model_name=run.recipe.name,
        layout=run.layout,
        sources=run.sources,
        seq_length=run.seq_length,
        schedule=run.schedule,
        run_dir=str(absolute(settings.output_dir) / settings.experiment),
        sizes=run.sizes,
        vocab_size=run.vocab_size,
        vocab_from=run.vocab_from,
        card=card,
        branch=run.branch,
        validation_sets=run.validation_sets,
        nemo=catalog.nemo_version(),
        notes=tuple(run.notes),
        command=without_secrets(command),
    )
    if not (searched and "micro_batch" in free) and micro_batch.is_ours(asked, run.accelerator):
        plan = micro_batch.chosen(plan)
    return with_time(_with_gpu_notes(plan, run.recipe))


def steps_of_epochs(settings: Settings, epochs: float) -> int | None:
    """Whole steps that so many epochs are; None where something of the data, or the length of a sample, isn't known."""
    problems: list[str] = []
    run = _gather(auto_layout.neutral(settings), problems, None)
    if problems or not run.parts or not run.seq_length or not math.isfinite(epochs):
        return None
    return int(epochs * run.samples(0)) // max(1, settings.global_batch_size)


def with_time(plan: Plan) -> Plan:
    """The plan with what the run will take."""
    job, settings = memory.job_of(plan, catalog.find(plan.model_name)), plan.settings
    scale, source = calibration.scale_of(settings.output_dir, plan.card.key if plan.card else None, job.fp8)
    if plan.card is None:
        return replace(plan, time={**run_time.of_cpu_run(job, plan.schedule, scale), "calibration": source})
    time = run_time.of_run(job, plan.card, settings, plan.schedule, scale)
    return replace(plan, time={**time, "calibration": source} if time else None)


def _scale(run: Run, card: PlannedCard) -> tuple[float, str | None]:
    fp8 = run.settings.fp8 or bool(run.recipe and run.settings.precision is None and run.recipe.precision["fp8"])
    return calibration.scale_of(run.settings.output_dir, card.key, fp8)


def _with_gpu_notes(plan: Plan, recipe: Recipe) -> Plan:
    if plan.card is None:
        _check_host_memory(plan, recipe)
        return plan
    need = memory.fullest(memory.job_of(plan, recipe)).total
    found = [warnings.memory_note(need, plan.card), warnings.short_pieces_note(plan)]
    if plan.layout.tensor > 1 and not plan.layout.sequence_parallel and plan.seq_length % plan.layout.tensor == 0:
        shared = replace(plan, layout=replace(plan.layout, sequence_parallel=True))
        found.append(warnings.sequence_parallel_note(plan, memory.fullest(memory.job_of(shared, recipe)).total, need))
    return replace(plan, notes=(*plan.notes, *filter(None, found)))


def _check_host_memory(plan: Plan, recipe: Recipe) -> None:
    """Raise Refusal for CPU ranks whose weights, gradients and optimizer alone are more than this machine has."""
    if plan.settings.executor != "local":
        return
    job = memory.job_of(plan, recipe)
    stages = [memory.usage_of(job, stage) for stage in range(plan.layout.pipeline)]
    need = sum(u.weights + u.gradients + u.optimizer for u in stages) * plan.layout.ranks // plan.layout.pipeline
    here = machine.facts()["memory"]
    if need > here:
        raise Refusal(
            f"--model-name {plan.model_name}: without a GPU, {plan.layout.ranks} CPU ranks of it take {human_bytes(need)} for weights,"
            f" gradients and optimizer, and this machine has {human_bytes(here)}; take a smaller model (--list-models) or a GPU"
        )


def without_secrets(command: Sequence[str]) -> tuple[str, ...]:
    """The command as typed with the values of secret flags replaced by ***."""
    secrets = {spelling for option in TABLE if option.secret for spelling in option.spellings}
    kept: list[str] = []
    for word in command:
        flag, equals, _ = word.partition("=")
        if kept and kept[-1] in secrets:
            word = "***"
        elif equals and flag in secrets:
            word = f"{flag}=***"
        kept.append(word)
    return tuple(kept)


def suggestion(settings: Settings, command: Sequence[str] = ()) -> str:
    """What --suggest prints; raises Refusal. Data and tokenizer may be left out: then the family's vocabulary counts."""
    problems: list[str] = []
    neutral = auto_layout.neutral(settings)
    run = _gather_model(neutral, problems)
    run.accelerator = "gpu"
    run.layout = make_layout(neutral, run.recipe, "gpu")
    if settings.dataset_dir or settings.blend:
        _gather_data(run, problems)
    elif settings.max_steps and run.recipe:
        run.schedule = make_schedule(settings, run.recipe, 0, 0)
    problems += list(smallest_values(run))
    problems = problems or [problem for rule in checks.LAYOUTLESS_RULES for problem in rule(run)]
    if problems or run.recipe is None:
        raise Refusal(dict.fromkeys(problems))
    card = card_of(settings, "gpu", run.layout.ranks_per_node)
    card, found = suggest.rows(run, settings, _scale(run, card)[0])
    if settings.dry_run == "json":
        return suggest.as_json(card, found)
    return suggest.text(run, settings, card, found, command)


def _gather(settings: Settings, problems: list[str], branch: Branch | None) -> Run:
    """Everything that the checks look at; what can't be had is left None and its reason added to `problems`."""
    run = _gather_model(settings, problems)
    run.branch = branch
    run.accelerator = _accelerator(run)
    run.layout = make_layout(settings, run.recipe, run.accelerator)
    _gather_data(run, problems)
    return run


def _gather_model(settings: Settings, problems: list[str]) -> Run:
    """The part of it that says what is trained."""
    run = Run(settings, accelerator="cpu")
    if settings.hf_model_id:
        run.hf_folder = _attempt(problems, lambda: pretrained.hf_folder(settings.hf_model_id))
    hf_refused = bool(problems)
    if run.hf_folder:
        folder = run.hf_folder
        run.hf_config = _attempt(problems, lambda: pretrained.hf_config(folder)) or {}
        run.tokenizer = _attempt(problems, lambda: pretrained.read_tokenizer(folder))
    elif settings.hf_model_id and not hf_refused:
        run.hf_config = _attempt(problems, lambda: pretrained.cached_config(settings.hf_model_id)) or {}
    if place := settings.nemo_model:
        run.nemo_model = _attempt(problems, lambda: pretrained.read_nemo_model(place))
    run.recipe = _attempt(problems, lambda: _recipe(run, hf_refused))
    if run.recipe:
        run.sizes = _sizes(run, run.recipe)
        run.seq_length = settings.seq_length or run.recipe.fields["data.seq_length"]
    run.vocab_size, run.vocab_from = _vocab_size(run)
    return run


def _gather_data(run: Run, problems: list[str]) -> None:
    """The part of it that says on what and for how long."""
    settings = run.settings
    run.sources = _sources(settings, problems)
    _vocab_size_of_data(run)
    run.parts = _parts(run, problems)
    run.validation_sets = blend.validation_sets(settings.validation_dir, problems)
    if run.recipe and run.parts:
        train, val = (run.samples(index) for index in (0, 1))
        run.schedule = make_schedule(settings, run.recipe, train, val, run.branch)
        run.sources = _limited(run, run.schedule, problems)


def _attempt(problems: list[str], work: Callable[[], T]) -> T | None:
    try:
        return work()
    except Refusal as refusal:
        problems += refusal.problems
        return None
    except PermissionError as error:
        problems.append(closed(error))
        return None


def _accelerator(run: Run) -> str:
    """What the run trains on. A plan alone (--dry-run) of a model that no CPU trains is made for GPUs, wherever it is made."""
    settings = run.settings
    if settings.accelerator != "auto":
        return str(settings.accelerator)
    if settings.executor == "slurm" or machine.has_gpu():
        return "gpu"
    if not settings.dry_run or run.recipe is None:
        return "cpu"
    asks_for_gpu = {"gpu", "gpu_memory", "node_bandwidth", "layout"} & settings.given
    vocabulary = parameters.padded_vocabulary(run.sizes, run.recipe.reference_vocab)
    large = parameters.count(run.recipe.family, run.recipe.model_class, run.sizes, vocabulary).total > CPU_PARAMETERS
    if not (asks_for_gpu or large or slow_on_a_cpu(run)):
        return "cpu"
    run.notes.append("no GPU here: this is the plan for a machine with GPUs; --accelerator cpu plans for this one")
    return "gpu"


def _recipe(run: Run, hf_refused: bool) -> Recipe | None:
    """The recipe named, or the one that the checkpoint or the Hugging Face configuration fits."""
    settings = run.settings
    if settings.model_name:
        return catalog.find(settings.model_name)
    if settings.nemo_model:
        if run.nemo_model is None:
            return None  # why has been said
        name, source = pretrained.recipe_of_nemo(run.nemo_model), "--nemo-model"
    elif run.hf_config:
        name, source = pretrained.recipe_of_hf(run.hf_config), "the config.json of --hf-model-id"
    elif hf_refused:
        return None  # why has been said
    else:
        named = settings.hf_model_id
        raise Refusal(
            "--model-name is required: no config.json of --hf-model-id is on this machine (see --list-models)"
            + (f"; or {hub.by_hand(settings.hf_model_id, '--hf-model-id')}" if named and run.hf_folder is None else "")
        )
    run.notes.append(f"model name {name} found from {source}")
    return catalog.find(name)


def _sizes(run: Run, recipe: Recipe) -> dict[str, Any]:
    """The recipe's sizes under those of the checkpoint that the run starts from."""
    if run.nemo_model is None or run.nemo_model.model_class != recipe.model_class:
        return recipe.sizes
    saved = {name: value for name, value in run.nemo_model.sizes.items() if name in recipe.sizes}
    return recipe.sizes | {name: value for name, value in saved.items() if not name.startswith(OF_THE_RUN)}


def _vocab_size(run: Run) -> tuple[int, str]:
    """Entries of the tokenizer; else of the Hugging Face model; else of the family's usual tokenizer. And whose they are."""
    if run.tokenizer and run.tokenizer.vocab_size:
        return int(run.tokenizer.vocab_size), ""
    if run.hf_config.get("vocab_size"):
        return int(run.hf_config["vocab_size"]), "its config.json"
    return run.recipe.reference_vocab if run.recipe else 0, "recipe"


def _vocab_size_of_data(run: Run) -> None:
    """Where the tokenizer isn't here yet: the entries of one of its name, as preprocessing wrote them beside the data."""
    known = (figures(source.pair) for source in run.sources)
    sizes = [one.get("vocabulary_size") for one in known if one.get("tokenizer") == run.settings.hf_model_id]
    if run.vocab_from == "recipe" and sizes and isinstance(sizes[0], int):
        run.vocab_size, run.vocab_from = sizes[0], "the tokenizer of its name that the data was preprocessed with"


def _sources(settings: Settings, problems: list[str]) -> tuple[Source, ...]:
    if settings.blend and settings.dataset_dir:
        problems.append("--blend and --dataset-dir can't be combined: put the folder into the --blend file")
    # one that is no temperature is refused with the other values out of range
    temperature = settings.blend_temperature if (settings.blend_temperature or 0) > 0 else None
    if settings.blend:
        return blend.from_file(settings.blend, problems, temperature)
    return blend.from_folders(settings.dataset_dir, problems, temperature)


def _limited(run: Run, schedule: Schedule, problems: list[str]) -> tuple[Source, ...]:
    """The sources with the weights that limits of their epochs leave them."""
    most = run.settings.max_epochs_per_source
    if most is None and not any(source.most_epochs for source in run.sources):
        return run.sources
    samples = [parts[0].samples(run.seq_length) for parts in run.parts]
    drawn = schedule.max_steps * max(1, run.settings.global_batch_size)
    return blend.limited(run.sources, samples, drawn, most, problems)


def _parts(run: Run, problems: list[str]) -> tuple[tuple[Part, ...], ...]:
    """Training, validation and test part of every source."""
    try:
        shares = parse_split(run.settings.split)
    except ValueError:
        problems.append(
            f"--split {run.settings.split}: expected three numbers for training, validation and test, the first above"
            f" 0, such as {f'{run.settings.split},0' if run.settings.split.count(',') == 1 else '900,50,50'}"
        )
        return ()
    return tuple(parts_of(source.pair, shares) for source in run.sources)


def _resolved(run: Run) -> Settings:
    """The settings without secrets, with absolute paths and the values found for the flags left out."""
    assert run.recipe is not None and run.layout is not None
    public = Settings.from_public(run.settings.public(), run.settings.given)
    return replace(
        public,
        worked_out=run.settings.worked_out,
        nemo_model=_absolute(public.nemo_model) if public.nemo_model else public.nemo_model,
        decay_from=_absolute(public.decay_from) if public.decay_from else public.decay_from,
        output_dir=_absolute(public.output_dir),
        blend=_absolute(public.blend) if public.blend else public.blend,
        validation_dir=tuple(
            f"{name}={_absolute(at)}" for name, at in map(blend.name_and_place, public.validation_dir)
        ),
        dataset_dir=tuple(map(_absolute, public.dataset_dir)),
        hf_model_id=_absolute(public.hf_model_id) if _is_folder(public.hf_model_id) else public.hf_model_id,
        model_name=run.recipe.name,
        num_gpus=run.layout.ranks_per_node,
        expert_model_parallel_size=run.layout.expert,
    )


def _is_folder(place: str) -> bool:
    return Path(place).expanduser().is_dir()


def _absolute(path: str) -> str:
    return str(absolute(path))
