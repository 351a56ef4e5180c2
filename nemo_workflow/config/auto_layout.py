"""Splits that are left to us: which flags say `auto`, and the values that the search finds for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from nemo_workflow.config import checks, layout_search, memory, micro_batch
from nemo_workflow.config.card import PlannedCard
from nemo_workflow.config.checks.context import Run
from nemo_workflow.config.flags import AUTO
from nemo_workflow.config.layout_search import Choice, Problem
from nemo_workflow.config.memory import GIB, Job
from nemo_workflow.config.parallelism import Layout, make_layout
from nemo_workflow.config.settings import Settings
from nemo_workflow.config.step_time import Cluster
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import script

WHOLE = "auto"  # as --layout and --recompute-granularity write it
# name of a split in layout_search -> its flag
FLAGS = {
    "tensor": "tensor_model_parallel_size",
    "pipeline": "pipeline_model_parallel_size",
    "virtual_pipeline": "virtual_pipeline_model_parallel_size",
    "context": "context_parallel_size",
    "expert": "expert_model_parallel_size",
    "micro_batch": "micro_batch_size",
    "recompute": "recompute_granularity",
}
STAGES = ("first_stage_layers", "last_stage_layers")
RECOMPUTE = ("recompute_granularity", "recompute_method", "recompute_num_layers")
NEUTRAL: dict[str, Any] = dict.fromkeys(FLAGS.values(), 1) | dict.fromkeys((*STAGES, "recompute_granularity"))


def splits_of(settings: Settings) -> dict[str, Any]:
    """What the user gave for each split of FLAGS."""
    return {
        "tensor": settings.tensor_model_parallel_size,
        "pipeline": settings.pipeline_model_parallel_size,
        "virtual_pipeline": settings.virtual_pipeline_model_parallel_size,
        "stages": (settings.first_stage_layers, settings.last_stage_layers),
        "context": settings.context_parallel_size,
        "expert": settings.expert_model_parallel_size,
        "micro_batch": settings.micro_batch_size,
        "recompute": settings.recompute_granularity,
    }


def free_splits(settings: Settings, accelerator: str) -> frozenset[str]:
    """The splits that the user leaves to us; the micro batch alone is micro_batch.py's."""
    whole = settings.layout == WHOLE
    free = set()
    for name, value in splits_of(settings).items():
        given = {"recompute": RECOMPUTE, "stages": STAGES}.get(name) or (FLAGS[name],)
        if value is AUTO or value == WHOLE or (whole and not any(one in settings.given for one in given)):
            free.add(name)
    if "pipeline" in free and not settings.given.intersection(STAGES):
        free.add("stages")
    if free - {"micro_batch"} and micro_batch.is_ours(settings, accelerator):
        free.add("micro_batch")
    return frozenset(free)


def neutral(settings: Settings) -> Settings:
    """The settings with every split that is left to us at one rank, so that all else can be worked out."""
    free = free_splits(settings, "gpu")
    flags = {flag for name in free for flag in (STAGES if name == "stages" else (FLAGS[name],))}
    values: dict[str, Any] = {flag: NEUTRAL[flag] for flag in flags}
    if settings.micro_batch_size is AUTO:
        values["micro_batch_size"] = 1
    return replace(settings, **values)


def cluster_of(settings: Any, card: PlannedCard, scale: float = 1.0) -> Cluster | None:
    """Where the run is to be, for the plan of time; None for a GPU that isn't in the table."""
    if card.gpu is None:
        return None
    flash_4 = not settings.deterministic and card.gpu.hopper  # backends/gpu/attention.py takes it there
    return Cluster(card.gpu, settings.num_gpus, settings.node_bandwidth, flash_4, scale)


def problem_of(run: Run, free: frozenset[str], limit: float, splits_given: Settings) -> Problem:
    """The search of a run whose free splits are neutral. `splits_given` are the settings as the user gave them."""
    assert run.recipe is not None
    one_rank = replace(splits_given, **NEUTRAL | {"recompute_granularity": splits_given.recompute_granularity})
    if "recompute" in free:
        one_rank = replace(one_rank, recompute_granularity=None, recompute_method=None, recompute_num_layers=None)
    plain = Layout(1, 1, 1, 1, 1, 1, 1, False, run.recipe.layout["expert_tensor"])
    base = memory.job_with(
        one_rank,
        run.recipe,
        run.sizes,
        plain,
        run.seq_length,
        run.vocab_size,
        run.accelerator,
    )
    fixed = {name: value for name, value in splits_of(splits_given).items() if name not in free}
    if fixed.get("expert", 0) is None:
        fixed["expert"] = run.recipe.layout["expert"]
    return Problem(
        base=base,
        recipe=run.recipe,
        vocab_size=run.vocab_size,
        batch=splits_given.global_batch_size,
        limit=limit,
        fixed=fixed | {"sequence_parallel": splits_given.sequence_parallel},
        legal=_legal(run, splits_given, free),
    )


def _legal(run: Run, settings: Settings, free: frozenset[str]) -> Callable[[Job], bool]:
    """Whether the rules of a start allow a job's layout."""

    def legal(job: Job) -> bool:
        trial = with_values(settings, values_of(job, free))
        found = replace(run, settings=trial, layout=make_layout(trial, run.recipe, run.accelerator))
        return not any(True for rule in checks.LAYOUT_RULES for _ in rule(found))

    return legal


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with values that are ours, so that no flag counts as given."""
    return replace(settings, **values, given=settings.given - values.keys() - {"layout"})


def values_of(job: Job, free: frozenset[str]) -> dict[str, Any]:
    """The flags' values that give a job's free splits."""
    layout = job.layout
    values: dict[str, Any] = {
        FLAGS[name]: getattr(layout, name) for name in free if name not in ("micro_batch", "recompute", "stages")
    }
    if "stages" in free:
        values |= {name: getattr(layout, name) for name in STAGES}
    if "tensor" in free:
        values["sequence_parallel"] = layout.sequence_parallel
    if "expert" in free and not job.sizes.get("num_moe_experts"):
        values["expert_model_parallel_size"] = None
    if "micro_batch" in free:
        values["micro_batch_size"] = job.micro_batch
    if "recompute" in free:
        full = job.recompute_granularity == "full"
        found = (job.recompute_granularity, job.recompute_method, job.recompute_layers) if full else (None, None, None)
        values |= dict(zip(RECOMPUTE, found, strict=True))
    return values


def share_of(card: PlannedCard, sizes: Mapping[str, Any]) -> float:
    """Bytes of a GPU that the search may fill."""
    return card.memory * (micro_batch.SHARE_OF_EXPERTS if sizes.get("num_moe_experts") else micro_batch.SHARE)


def choose(run: Run, settings: Settings, free: frozenset[str], card: PlannedCard, scale: float) -> tuple[Settings, str]:
    """The settings with the fastest layout that fits, and the reason for it; raises Refusal where none does."""
    cluster = cluster_of(settings, card, scale)
    named = _as_asked(settings)
    if cluster is None:
        raise Refusal(
            f"{named}: {card.name} is not in the table of GPUs, so its time can't be planned; name one that is like it with --gpu"
        )
    problem = problem_of(run, free, share_of(card, run.sizes), settings)
    found = layout_search.best(problem, cluster, settings.num_nodes, 2)
    if not found:
        assert run.recipe is not None
        raise Refusal(_nothing_fits(run.recipe.name, problem, cluster, settings, card, named))
    first, *others = found
    reason = f"{described(first)}: the fastest layout that fits by the plan, {first.time.tokens_per_second:,.0f} tokens/s per GPU"
    if others:
        reason += f"; the next, {described(others[0])}, {others[0].time.tokens_per_second:,.0f}"
    return with_values(settings, values_of(first.job, free)), reason


def _as_asked(settings: Settings) -> str:
    """The flags that say `auto`, as they are typed; --layout alone where it stands for all."""
    if settings.layout == WHOLE:
        return "--layout auto"
    values = splits_of(settings)
    flags = [flag for name, flag in FLAGS.items() if values[name] is AUTO or values[name] == WHOLE]
    return ", ".join(f"--{flag.replace('_', '-')} auto" for flag in flags)


def _nothing_fits(
    name: str, problem: Problem, cluster: Cluster, settings: Settings, card: PlannedCard, flag: str
) -> str:
    ranks = f"{settings.num_nodes} x {settings.num_gpus} GPUs"
    least = layout_search.smallest(problem, cluster, settings.num_nodes)
    card_named = f" --gpu {settings.gpu}" if settings.gpu else ""
    remedy = f"{script('pretrain_llm.py')} -M {name}{card_named} --suggest shows what it needs"
    if least is None:
        return f"{flag}: {name} can't be split over {ranks} with --global-batch-size {settings.global_batch_size}; {remedy}"
    return (
        f"{flag}: no layout of {name} fits {ranks} of {card.memory / GIB:.0f} GiB: the smallest takes {least / GIB:.0f} GiB"
        f" per GPU; {remedy}"
    )


def described(choice: Choice) -> str:
    """'TP 2 x PP 1 x CP 1 x DP 4, micro batch 1, no recomputation'."""
    layout, job = choice.job.layout, choice.job
    text = f"TP {layout.tensor} x PP {layout.pipeline} x CP {layout.context} x DP {layout.data}"
    text += f", VPP {layout.virtual_pipeline}" if layout.virtual_pipeline > 1 else ""
    if layout.first_stage_layers or layout.last_stage_layers:
        text += f", stages of {'-'.join(map(str, job.stages))} layers"
    text += f", EP {layout.expert}" if layout.expert > 1 else ""
    again = choice.recompute
    return f"{text}, micro batch {job.micro_batch}" + ("" if again == "none" else f", {again} recomputed")
