"""The fastest layouts that fit, by the plan of memory and of time.

Every split that Megatron takes is tried: tensor, context and expert parallelism within a node first, pipeline stages,
virtual stages, micro batch. For each, the least recomputation that fits: it only costs time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nemo_workflow.config import memory, step_time
from nemo_workflow.config.memory import Job
from nemo_workflow.config.micro_batch import ENOUGH_TOKENS
from nemo_workflow.config.parallelism import Layout, chunks_of, enough_for_chunks, layers_a_stage
from nemo_workflow.config.step_time import Cluster, Memo, StepTime
from nemo_workflow.models import parameters
from nemo_workflow.models.catalog import Recipe
from nemo_workflow.utils.console import counted

SPLITS = ("tensor", "pipeline", "virtual_pipeline", "stages", "context", "expert", "micro_batch", "recompute")
LEAST_TOKENS = 2048  # a rank gets no shorter piece of a sequence: the host can't keep up then (docs/performance.md)
UNEVEN_TRIED = 6  # of the fastest splits, with stages that have unlike numbers of layers
EXPERT_SIZES = 4  # of expert parallelism that are tried beside 1: the largest, since experts are what takes the memory


@dataclass(frozen=True)
class Choice:
    """A layout and what it is planned to take."""

    job: Job
    time: StepTime
    bytes: int  # on the fullest GPU

    @property
    def recompute(self) -> str:
        """'none', 'all layers', or the number of layers per (virtual) stage."""
        if self.job.recompute_granularity != "full":
            return "none"
        return "all layers" if self.job.recompute_method == "uniform" else counted(self.job.recompute_layers, "layer")


@dataclass(frozen=True)
class Problem:
    """What is searched. `fixed` holds the splits that are not free; `legal` says what the rules of a start allow."""

    base: Job
    recipe: Recipe
    vocab_size: int  # of the tokenizer, unpadded
    batch: int  # sequences per step
    limit: float  # bytes that a GPU may be planned to hold
    fixed: Mapping[str, Any]
    legal: Callable[[Job], bool] = lambda job: True


def best(problem: Problem, cluster: Cluster, nodes: int, count: int = 1) -> list[Choice]:
    """The `count` fastest layouts that fit, best first."""
    memo: Memo = {}
    found: list[Choice] = []
    for least in _splits(problem, cluster, nodes):
        if _least_bytes(problem, least) <= problem.limit:
            found += _fitting_sizes(problem, cluster, least, memo)
    found.sort(key=_rank)
    if "stages" not in problem.fixed and problem.base.family == "gpt":
        split = [choice for choice in found if choice.job.layout.pipeline > 1][:UNEVEN_TRIED]
        found += [better for choice in split if (better := _uneven(problem, cluster, choice, memo))]
        found.sort(key=_rank)
    kept: list[Choice] = []
    for choice in found:
        if len(kept) == count:
            break
        if problem.legal(choice.job):
            kept.append(choice)
    return kept


def _rank(choice: Choice) -> tuple[float, int]:
    return choice.time.total, choice.bytes


def _uneven(problem: Problem, cluster: Cluster, even: Choice, memo: Memo) -> Choice | None:
    """The same split with fewer layers where the output layer is, if that is faster."""
    best = even
    for ends in _ends(even.job):
        layout = replace(even.job.layout, **ends)
        try:
            stages = tuple(layers_a_stage(even.job.sizes, problem.recipe.layout, layout))
        except ValueError:  # beside an end that the recipe has of its own
            continue
        if enough_for_chunks(stages, layout.virtual_pipeline):
            choice = _fitting(problem, cluster, replace(even.job, layout=layout, stages=stages), memo)
            if choice and _rank(choice) < _rank(best):
                best = choice
    return None if best is even else best


def _ends(job: Job) -> Iterator[dict[str, Any]]:
    """Ends with which the other stages divide still: a smaller last one, and where there are more than two, a larger first one beside it."""
    layers, stages = sum(job.stages), job.layout.pipeline
    for more in (1, 2, 3):
        others = layers // stages + more
        if (last := layers - others * (stages - 1)) > 0:
            yield {"last_stage_layers": last}
        if stages > 2 and layers % stages == 0 and more < layers // stages:
            yield {"first_stage_layers": layers // stages + more, "last_stage_layers": layers // stages - more}


def smallest(problem: Problem, cluster: Cluster, nodes: int) -> int | None:
    """Bytes of the layout that takes least memory, or None where no layout is possible."""
    return min((_least_bytes(problem, job) for job in _splits(problem, cluster, nodes)), default=None)


def _least_bytes(problem: Problem, job: Job) -> int:
    """With all layers recomputed, where that is free."""
    *_, last = _recomputed(problem, job)
    return memory.fullest(last).total


def _fitting_sizes(problem: Problem, cluster: Cluster, least: Job, memo: Memo) -> Iterator[Choice]:
    """A layout with each micro batch, until one is too large, and each number of virtual stages."""
    for sized in _with_micro_batches(problem, least):
        if _least_bytes(problem, sized) > problem.limit:
            return
        for job in _with_virtual_stages(problem, sized):
            if choice := _fitting(problem, cluster, job, memo):
                yield choice


def _fitting(problem: Problem, cluster: Cluster, job: Job, memo: Memo) -> Choice | None:
    """The job with the least recomputation that fits."""
    ways = list(_recomputed(problem, job))
    if len(ways) > 1 and memory.fullest(ways[-1]).total > problem.limit:  # not even with all layers recomputed
        return None
    for one in ways:
        need = memory.fullest(one).total
        if need <= problem.limit:
            return Choice(one, step_time.estimate(one, cluster, memo=memo), need)
    return None


def _splits(problem: Problem, cluster: Cluster, nodes: int) -> Iterator[Job]:
    """Every split of the ranks, with the smallest micro batch and without virtual stages."""
    ranks = nodes * cluster.gpus_per_node
    ends = problem.fixed.get("stages", (None, None))
    for tensor in _options(problem, "tensor", _tensor_sizes(problem, cluster.gpus_per_node)):
        for context in _options(problem, "context", _context_sizes(problem, ranks // tensor)):
            for pipeline in _options(problem, "pipeline", _divisors(ranks // (tensor * context))):
                if pipeline == 1 and any(ends):
                    continue
                for expert in _options(problem, "expert", _expert_sizes(problem, ranks // pipeline, tensor)):
                    layout = Layout(
                        nodes=nodes,
                        ranks_per_node=cluster.gpus_per_node,
                        tensor=tensor,
                        pipeline=pipeline,
                        virtual_pipeline=1,
                        context=context,
                        expert=expert,
                        sequence_parallel=_sequence_parallel(problem, tensor),
                        expert_tensor=problem.recipe.layout["expert_tensor"],
                        first_stage_layers=ends[0],
                        last_stage_layers=ends[1],
                    )
                    job = _least(problem, layout) if ranks % (tensor * context * pipeline) == 0 else None
                    if job:
                        yield job


def _least(problem: Problem, layout: Layout) -> Job | None:
    """The job of a layout with its smallest micro batch, or None where layers or batch can't be divided so."""
    base = problem.base
    try:
        stages = tuple(layers_a_stage(base.sizes, problem.recipe.layout, layout))
    except ValueError:
        return None
    size = problem.fixed.get("micro_batch", 1)
    if min(stages) < 1 or problem.batch % (size * layout.data):
        return None
    return replace(
        base,
        layout=layout,
        vocabulary=parameters.padded_vocabulary(base.sizes, problem.vocab_size, layout.tensor),
        micro_batch=size,
        micro_batches=problem.batch // (size * layout.data),
        stages=stages,
    )


def _with_micro_batches(problem: Problem, least: Job) -> Iterator[Job]:
    layout, share = least.layout, problem.batch // least.layout.data
    most = max(1, ENOUGH_TOKENS * layout.context // least.seq_length)
    sizes = [size for size in _divisors(share) if size <= most and (size & (size - 1) == 0 or size == share)]
    for size in _options(problem, "micro_batch", sizes):
        job = replace(least, micro_batch=size, micro_batches=share // size)
        if not (job.fp8 and memory.tokens_of(job) / (layout.tensor if layout.sequence_parallel else 1) % 16):
            yield job


def _with_virtual_stages(problem: Problem, job: Job) -> Iterator[Job]:
    for virtual in _options(problem, "virtual_pipeline", _virtual_sizes(problem, job)):
        yield job if virtual == 1 else replace(job, layout=replace(job.layout, virtual_pipeline=virtual))


def _recomputed(problem: Problem, job: Job) -> Iterator[Job]:
    """No recomputation, then that of more and more layers of a (virtual) stage, then of all."""
    if "recompute" in problem.fixed:
        yield job
        return
    yield replace(job, recompute_granularity=None, recompute_method=None, recompute_layers=0)
    layers = chunks_of(max(job.stages), job.layout.virtual_pipeline)[0]
    uneven = job.layout.first_stage_layers or job.layout.last_stage_layers
    for quarter in (1, 2, 3):
        number = layers * quarter // 4
        if number and (uneven or layers % 4 == 0):
            yield replace(job, recompute_granularity="full", recompute_method="block", recompute_layers=number)
    yield replace(job, recompute_granularity="full", recompute_method="uniform", recompute_layers=1)


def _options(problem: Problem, name: str, free: list[int]) -> list[int]:
    return [problem.fixed[name]] if name in problem.fixed else free


def _sequence_parallel(problem: Problem, tensor: int) -> bool:
    """With tensor parallelism it only saves; where that is given, its switch is the user's."""
    return tensor > 1 and ("tensor" not in problem.fixed or problem.fixed.get("sequence_parallel", False))


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _tensor_sizes(problem: Problem, within: int) -> list[int]:
    """Divisors of a node's GPUs that divide heads, groups and the MLP."""
    sizes = problem.base.sizes
    heads = sizes.get("num_attention_heads") or 1
    parts = [heads, sizes.get("num_query_groups") or heads, sizes.get("ffn_hidden_size") or within]
    return [size for size in _divisors(within) if all(part % size == 0 for part in parts)]


def _context_sizes(problem: Problem, ranks: int) -> list[int]:
    """Of the decoders only; a piece of a sequence stays long enough."""
    base = problem.base
    if base.family != "gpt":
        return [1]
    most = max(1, base.seq_length // LEAST_TOKENS)
    return [
        n for n in _divisors(ranks) if n == 1 or (n & (n - 1) == 0 and n <= most and base.seq_length % (2 * n) == 0)
    ]


def _expert_sizes(problem: Problem, ranks: int, tensor: int) -> list[int]:
    experts = problem.base.sizes.get("num_moe_experts")
    if not experts:
        return [1]
    split = problem.recipe.layout["expert_tensor"] or tensor
    sizes = [n for n in _divisors(experts) if n & (n - 1) == 0 and ranks % (split * n) == 0]
    return [1, *sizes[-EXPERT_SIZES:]] if len(sizes) > EXPERT_SIZES else sizes


def _virtual_sizes(problem: Problem, job: Job) -> list[int]:
    """Divisors of a stage's layers; only decoders can be cut so, and with micro batches for every stage."""
    layout, stock = job.layout, problem.recipe.layout
    if layout.pipeline == 1 or job.family != "gpt" or job.micro_batches % layout.pipeline:
        return [1]
    each = (sum(job.stages) + stock["embedding_counts"] + stock["loss_counts"]) // layout.pipeline
    sizes = _divisors(each)
    if layout.first_stage_layers or layout.last_stage_layers:
        sizes = [size for size in sizes if enough_for_chunks(job.stages, size)]
    return [1, *sizes[1:4], sizes[-1]] if len(sizes) > 4 else sizes
