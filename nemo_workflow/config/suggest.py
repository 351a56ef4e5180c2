"""--suggest: the best layouts of a model for some GPUs, or what it would take on 1, 2, 4 … 64 of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nemo_workflow.config import auto_layout, layout_search, run_time
from nemo_workflow.config.card import PlannedCard, card_of
from nemo_workflow.config.checks.context import Run
from nemo_workflow.config.flags import AUTO, BY_ATTRIBUTE, COMMAND_ATTRIBUTES
from nemo_workflow.config.layout_search import Choice
from nemo_workflow.config.memory import GIB
from nemo_workflow.config.schedule import Schedule
from nemo_workflow.config.settings import Settings
from nemo_workflow.utils.console import counted, human_step, human_time
from nemo_workflow.utils.errors import Refusal

LADDER = (1, 2, 4, 8, 16, 32, 64)
A_NODE = 8  # GPUs
BILLION = 1e9
SECONDS = {"m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Row:
    """One layout, or of GPUs that no layout fits only the bytes that the smallest takes."""

    nodes: int
    gpus_per_node: int
    choice: Choice | None = None
    run_seconds: float | None = None  # of the whole run; None where its steps aren't known
    values: dict[str, Any] | None = None  # flags that give the layout
    least_bytes: int | None = None

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node


def rows(run: Run, asked: Settings, scale: float) -> tuple[PlannedCard, list[Row]]:
    """The table's rows: fastest first, or with a ladder of GPUs one for each number; with --deadline those that make it."""
    sized = {"num_nodes", "num_gpus"} & asked.given
    sizes = [(asked.num_nodes, asked.num_gpus)] if sized else [(-(-n // A_NODE), min(n, A_NODE)) for n in LADDER]
    card = card_of(asked, "gpu", max(per_node for _, per_node in sizes))
    found: list[Row] = []
    for nodes, per_node in sizes:
        found += _rows_of(run, _sized(asked, nodes, per_node), card, scale, asked.suggest or 1 if sized else 1)
    if asked.deadline is None:
        return card, found
    if run.schedule is None:
        raise Refusal("--deadline: needs to know the run's length; add --max-steps, or --dataset-dir for one epoch")
    limit = float(asked.deadline[:-1]) * SECONDS[asked.deadline[-1]]
    in_time = [row for row in found if row.run_seconds is not None and row.run_seconds <= limit]
    if not in_time:
        raise Refusal(f"--deadline: {_nothing_in_time(found, limit)}; raise it, or lower --max-steps")
    return card, sorted(in_time, key=lambda row: (row.gpus, row.run_seconds))


def _nothing_in_time(found: Iterable[Row], limit: float) -> str:
    timed = [row for row in found if row.run_seconds is not None]
    if not timed:
        return "no layout fits these GPUs"
    fastest = min(timed, key=lambda row: row.run_seconds or 0)
    return f"no layout makes the run in {human_time(limit)}; {counted(fastest.gpus, 'GPU')} take{'s' if fastest.gpus == 1 else ''} {human_time(fastest.run_seconds or 0)}"


def _sized(asked: Settings, nodes: int, per_node: int) -> Settings:
    """The settings for other GPUs, with every split free that wasn't given."""
    size = asked.micro_batch_size if "micro_batch_size" in asked.given else AUTO
    return replace(asked, num_nodes=nodes, num_gpus=per_node, layout=auto_layout.WHOLE, micro_batch_size=size)


def _rows_of(run: Run, settings: Settings, card: PlannedCard, scale: float, count: int) -> list[Row]:
    cluster = auto_layout.cluster_of(settings, card, scale)
    if cluster is None:
        raise Refusal(f"--suggest: {card.name} is not in the table of GPUs; name one that is like it with --gpu")
    free = auto_layout.free_splits(settings, "gpu")
    limit = settings.max_memory * GIB if settings.max_memory else auto_layout.share_of(card, run.sizes)
    problem = auto_layout.problem_of(run, free, limit, settings)
    place = settings.num_nodes, settings.num_gpus
    best = layout_search.best(problem, cluster, settings.num_nodes, count)
    if not best:
        return [Row(*place, least_bytes=layout_search.smallest(problem, cluster, settings.num_nodes))]
    return [
        Row(*place, choice, _seconds(choice, run.schedule), auto_layout.values_of(choice.job, free)) for choice in best
    ]


def _seconds(choice: Choice, schedule: Schedule | None) -> float | None:
    return run_time.run_seconds(choice.job, choice.time.total, schedule) if schedule else None


def text(run: Run, asked: Settings, card: PlannedCard, found: Sequence[Row], command: Sequence[str]) -> str:
    """The table, and the command of each row."""
    assert run.recipe is not None
    batch = f"{asked.global_batch_size:,} x {run.seq_length:,} tokens per step"
    measured = card.gpu and card.gpu.is_measured
    kind = "as measured on such cards" if measured else "from its data sheet, not measured"
    head = f"{run.recipe.name}, {batch}{', fp8' if asked.fp8 else ''}; planned for {card}, time {kind}"
    length = "run" if run.schedule else "1e9 tokens"
    table: list[tuple[str, ...]] = [("", "GPUs", "layout", "GiB", "tokens/s/GPU", "step", length, "GPU hours")]
    table += [_cells(number, row) for number, row in enumerate(found, 1)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(table[0]))]
    lines = [head, ""]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table
    ]
    commands = [f"{number}: {_command(asked, row, command)}" for number, row in enumerate(found, 1) if row.choice]
    if asked.accelerator == "cpu":
        commands.append("(these are for GPUs, without the --accelerator cpu that was given)")
    return "\n".join([*lines, "", *commands])


def _cells(number: int, row: Row) -> tuple[str, ...]:
    if row.choice is None:
        need = (
            f"does not fit: the smallest layout takes {row.least_bytes / GIB:,.0f} GiB per GPU"
            if row.least_bytes
            else "can't be split so"
        )
        return str(number), str(row.gpus), need, "", "", "", "", ""
    time, total = row.choice.time, _length(row)
    return (
        str(number),
        str(row.gpus),
        auto_layout.described(row.choice),
        f"{row.choice.bytes / GIB:.1f}",
        f"{time.tokens_per_second:,.0f}",
        human_step(time.total),
        human_time(total),
        f"{total * row.gpus / 3600:,.1f}",
    )


def _length(row: Row) -> float:
    """Seconds of the run, or of a billion tokens where the run's length isn't known."""
    assert row.choice is not None
    time = row.choice.time
    return BILLION / (time.tokens_per_second * time.ranks) if row.run_seconds is None else row.run_seconds


def as_json(card: PlannedCard, found: Sequence[Row]) -> str:
    """The same for programs. Bytes, seconds, tokens per second; `flags` are attribute names and values."""
    entries = []
    for row in found:
        entry: dict[str, Any] = {"nodes": row.nodes, "gpus_per_node": row.gpus_per_node, "least_bytes": row.least_bytes}
        if row.choice:
            time = row.choice.time
            entry |= {
                "flags": row.values,
                "words": _layout_words(row),
                "bytes": row.choice.bytes,
                "step_seconds": time.total,
                "tokens_per_second_per_gpu": time.tokens_per_second,
                "parts": dict(time.parts),
                "run_seconds": row.run_seconds,
            }
        entries.append(entry)
    return json.dumps({"gpu": card.key, "memory": card.memory, "rows": entries}, indent=1)


def _layout_words(row: Row) -> list[str]:
    """The flags of a row's layout as they are typed."""
    words = ["-N", str(row.nodes), "-G", str(row.gpus_per_node)]
    for name, value in sorted((row.values or {}).items()):
        option = BY_ATTRIBUTE[name]
        flag = option.short[0] if option.short else f"--{option.name}"
        if value is True:
            words.append(flag)
        elif value not in (None, False) and (value != option.default or name == "micro_batch_size"):
            words += [flag, str(value)]
    return words


def _command(asked: Settings, row: Row, command: Sequence[str]) -> str:
    """The command that trains so: the flags given, but those of --suggest itself, and the layout's."""
    ours = COMMAND_ATTRIBUTES | (row.values or {}).keys() | {"num_nodes", "num_gpus", "layout", "accelerator"}
    words = ["python", *(command[:1] or ["pretrain_llm.py"])]
    for name in sorted(asked.given - ours):
        option = BY_ATTRIBUTE[name]
        value = asked.of(option)
        if option.secret:
            continue
        flag = option.short[0] if option.short else f"--{option.name}"
        for one in value if option.many else [value]:
            words += [flag] if option.switch else [flag, *(str(one).split() if option.words else [str(one)])]
    if not asked.hf_model_id:
        words += ["--hf-model-id", "HF_MODEL_ID"]
    if not asked.dataset_dir and not asked.blend:
        words += ["--dataset-dir", "DATASET_DIR"]
    if row.nodes > 1 and asked.executor != "slurm":
        words += ["--executor", "slurm"]
    return shlex.join([*words, *_layout_words(row)])
