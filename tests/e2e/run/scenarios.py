"""Chains of starts. Each is run once, in the background, and handed to every test that names it as an argument."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nemo_workflow.data.indexed_dataset import read_pair
from nemo_workflow.data.splits import parse_split, parts_of
from nemo_workflow.launch.torchrun import FRESH_RANKS
from nemo_workflow.run_dir import metrics
from tests.e2e.run.harness import REPOSITORY, Experiment, Start, flip_a_byte, none_left
from tests.utils.hostile import write_code

ALL: dict[str, Callable[[Place], Any]] = {}
NEEDS: dict[str, tuple[str, ...]] = {}
ODD_NAME = 'it\'s "a"\nfolder $(touch pwned) `touch pwned`;\t\x1b[31m ünïcode 実験'


@dataclass
class Place:
    """Where a scenario works, and the results of scenarios before it."""

    corpus: Path
    folder: Path
    result_of: Callable[[str], Any]

    def experiment(self, **changes: Any) -> Experiment:
        return Experiment(self.corpus, self.folder / "out", **changes)


def scenario(*needs: str) -> Callable[[Callable[[Place], Any]], Callable[[Place], Any]]:
    def register(function: Callable[[Place], Any]) -> Callable[[Place], Any]:
        ALL[function.__name__] = function
        NEEDS[function.__name__] = needs
        return function

    return register


def must(start: Start, code: int = 0) -> Start:
    assert start.code == code, f"exit code {start.code} instead of {code}:\n{start.output[-6000:]}"
    return start


def at_step(step: int) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["event"] == "step" and event["step"] >= step


@scenario()
def one_rank(place: Place) -> Any:
    """The uninterrupted run on one rank, all checkpoints kept; --deterministic, as all runs that are compared with it."""
    run = place.experiment(flags=("--keep-checkpoints", "-1", "--deterministic"))
    must(run.start(record=place.folder / "record"))
    return SimpleNamespace(run=run, record=place.folder / "record", history=run.history())


@scenario()
def half_precision(place: Place) -> Any:
    """16-mixed, stopped once its loss scale fits, and gone on with."""
    run = place.experiment(steps=28, flags=("--precision", "16-mixed"))
    code = run.start(when=at_step(22), slow=0.2).code  # six steps are left to the signal
    must(run.start())
    return SimpleNamespace(run=run, code=code)


@scenario()
def two_ranks(place: Place) -> Any:
    """The uninterrupted run on two ranks, and a second start of the same experiment while it runs."""
    run = place.experiment(ranks=2)
    second: list[Any] = []
    once = place.folder / "once"

    def try_again(event: dict[str, Any]) -> bool:
        if event["event"] == "step" and not second:
            second.append(
                subprocess.run(
                    run.command(), cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
                )
            )
            once.with_suffix(".go").touch()
        return False

    must(run.start(when=try_again, fault="step 2 0 wait", prefix=("env", f"ONCE={once}")))
    return SimpleNamespace(run=run, history=run.history(), second=second[0])


@scenario()
def unlike_cpus(place: Place) -> Any:
    """A rank that is killed at the same step again, with --max-restarts; rank 0's CPU has no bf16 products."""
    run = place.experiment(ranks=2)
    start = must(run.start("--max-restarts", "2", fault="step 10 1 kill", old_cpu=0), 1)
    logs = [
        [(attempt / f"rank{rank}.log").read_text(encoding="utf-8", errors="replace") for rank in (0, 1)]
        for attempt in sorted((run.folder / "attempts").iterdir())
    ]
    return SimpleNamespace(output=start.output, logs=logs, history=run.history())


@scenario()
def kills_on_one_rank(place: Place) -> Any:
    """kill -9 in the first save ever, before its mark goes, of the launcher, at load, of the whole group, while pruning.

    The last kill comes between the last save and the last validation. Then one step more, with another split.
    """
    run = place.experiment(flags=("--keep-checkpoints", "1", "--deterministic"))
    record = place.folder / "record"
    seen = SimpleNamespace(run=run, record=record)
    must(run.start(fault="save.shards 4 0 kill", record=record), 1)
    seen.after_first_save = run.whole()
    seen.second = must(run.start(fault="save.mark 4 0 kill", record=record), 1)
    seen.before_the_mark = run.whole()
    must(run.start(fault="step 5 0 launcher", slow=1.0, record=record), -signal.SIGKILL)
    seen.left_by_launcher = run.start(fault="load 0 0 kill", record=record)  # at once: the ranks may still be saving
    seen.ranks_gone = none_left(run.folder)
    must(run.start(fault="save.before 8 0 group", record=record), -signal.SIGKILL)
    seen.before_save = run.whole()
    must(run.start(fault="save.prune 8 0 kill", record=record), 1)
    seen.pruning = sorted(path.name for path in run.checkpoints.iterdir())
    seen.validation = must(run.start(record=record))
    seen.again = must(run.start())
    seen.last = must(run.start("--split", "800,150,50", "--allow-change", "split", steps=13))
    seen.temporary = run.left_in_temporary()
    seen.history = {name: [row for row in rows if row[0] < 13] for name, rows in run.history().items()}
    seen.at_the_end = sorted(path.name for path in run.checkpoints.iterdir())
    return seen


@scenario()
def kills_on_two_ranks(place: Place) -> Any:
    """SIGSTOP of rank 1 in a validation, kill -9 of rank 1 in a save, of all; then a bit flip in the newest checkpoint.

    The later starts save in the background, as on a GPU. The last one, with --max-restarts, loses rank 1 once more, and a process that writes.
    """
    run = place.experiment(ranks=2)
    seen = SimpleNamespace(run=run)
    seen.hung = must(run.start("--timeout-minutes", "0.5", fault="validation 4 1 stop"), 1)
    seen.hung_gone, seen.hung_attempt = none_left(run.folder), run.attempt()
    seen.hung_steps = [e["step"] for e in run.events() if e["event"] == "step"]
    seen.in_save = must(run.start(fault="save.shards 8 1 kill", background=True), 1)
    seen.after_save = run.whole()
    must(run.start(fault="save.manifest 12 0 group", background=True), -signal.SIGKILL)
    seen.group_gone = none_left(run.folder)
    seen.after_group = run.whole()
    flip_a_byte(run.checkpoints / "step_00000008" / "weights" / "__1_0.distcp")
    once = ("env", f"ONCE={place.folder / 'once'}")
    faults = "step 6 1 once; save.shards 12 0 writer"
    seen.last = must(run.start("--max-restarts", "2", fault=faults, background=True, prefix=once))
    seen.whole_at_end = run.whole()
    seen.resumed_after = run.resumed_after()
    seen.damaged = sorted(path.name for path in (run.checkpoints / "damaged").iterdir())
    seen.history = run.history()
    return seen


@scenario()
def signals(place: Place) -> Any:
    """SIGTERM, SIGINT and SIGUSR1, each followed by the same command, in folders with odd names; then more steps, without docstrings.

    The save after the first is asked to end once more, as Slurm does at the time limit. The last's rank is not forked. The tokenizer's folder holds code and a pickle that must not run.
    """
    corpus = place.folder / f"corpus {ODD_NAME}"
    shutil.copytree(place.corpus, corpus)
    write_code(corpus / "tokenizer", place.folder / "it ran", "PreTrainedTokenizerFast")
    run = Experiment(corpus, place.folder / ODD_NAME, flags=("--deterministic",))
    seen = SimpleNamespace(run=run, codes=[], whole=[], outputs=[], record=place.folder / "record")
    seen.trap, record = place.folder / "it ran", seen.record
    for step, number in ((2, signal.SIGTERM), (5, signal.SIGINT), (0, signal.SIGUSR1)):
        if step:
            fault = "save.manifest 0 0 term" if number == signal.SIGTERM else None
            start = run.start(when=at_step(step), send=number, slow=0.3, record=record, fault=fault)
        else:
            start = run.start(fault="validation 8 0 usr1", record=record, prefix=("env", f"{FRESH_RANKS}=1"))
        seen.codes.append(start.code)
        seen.outputs.append(start.output)
        seen.whole.append(run.whole())
    seen.temporary = run.left_in_temporary()
    must(run.start(record=record))
    seen.history = run.history()
    seen.again = must(run.start())
    seen.more = must(run.start(steps=16, record=record, prefix=("env", "PYTHONOPTIMIZE=2")))
    seen.longer = run.history()
    return seen


@scenario()
def ends(place: Place) -> Any:
    """A NaN gradient on rank 1 of two: stop, with the save in the background. Then the same with --on-nan skip 1.

    That start gets Ctrl-C in a step that outlasts the grace time; of the next one torchrun is killed in the middle of a step.
    """
    run = place.experiment(ranks=2)
    seen = SimpleNamespace(run=run, nan=must(run.start(fault="step 3 1 nan", background=True), 1))
    seen.event = next(e for e in metrics.read(run.folder / metrics.FILE) if e["event"] == "nonfinite")
    seen.saved_at_nan = run.whole()
    faults = "step 3 1 nan; step 6 1 int"
    seen.in_a_step = run.start("--on-nan", "skip", "1", "--grace-seconds", "1", fault=faults)
    seen.in_a_step_gone, seen.saved = none_left(run.folder), run.whole()
    seen.torchrun = run.start(fault="step 7 1 torchrun")
    seen.torchrun_gone, seen.resumed_after = none_left(run.folder), run.resumed_after()
    return seen


@scenario("one_rank")
def disk(place: Place) -> Any:
    """A real file system that fills up; see small_disk.py. In a namespace of its own, nothing is left mounted."""
    kept = place.folder / "facts"
    kept.mkdir()
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-m", "tests.e2e.run.small_disk",
         place.corpus, place.folder / "out", kept],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return SimpleNamespace(**json.loads((kept / "facts.json").read_text(encoding="utf-8")))


def _continued(
    place: Place, name: str, keep: int, *more: str, ranks: int, of: str = "one_rank", **keywords: Any
) -> Any:
    """The checkpoint of step `keep` of the scenario `of`, continued with other flags."""
    reference = place.result_of(of).run
    run = place.experiment(name=name, ranks=ranks)
    shutil.copytree(reference.folder, run.folder, ignore=shutil.ignore_patterns("attempts", "step_*", ".*.lock"))
    shutil.copytree(reference.checkpoints / f"step_{keep:08d}", run.checkpoints / f"step_{keep:08d}")
    (run.folder / "attempts").mkdir()
    start = run.start(*more, record=place.folder / name, **keywords)
    return SimpleNamespace(run=run, start=start, record=place.folder / name, history=run.history())


@scenario("one_rank")
def other_layouts(place: Place) -> Any:
    """The checkpoint of one rank continued on two: data, tensor and pipeline parallel, the last with stages of three layers and one."""
    return {
        "DP2": _continued(place, "DP2", 8, ranks=2),
        "TP2": _continued(place, "TP2", 8, "-TP", "2", ranks=2),
        "PP2": _continued(place, "PP2", 8, "-PP", "2", "--first-stage-layers", "3", ranks=2),
    }


@scenario("two_ranks")
def fewer_ranks(place: Place) -> Any:
    """The checkpoint of two data-parallel ranks, which each wrote a half of the optimizer's state, continued on one."""
    return _continued(place, "DP1", 8, ranks=1, of="two_ranks")


def write_validation_part(dataset: Path, target: Path) -> None:
    """A pair of exactly the documents that --split 900,50,50 validates on."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

    (index,) = dataset.rglob("*.idx")
    pair = IndexedDataset(str(index.with_suffix("")))
    target.parent.mkdir(parents=True)
    builder = IndexedDatasetBuilder(f"{target}.bin", dtype=pair.index.dtype)
    train, validation, _ = parts_of(read_pair(index.with_suffix("")), parse_split("900,50,50"))
    for number in range(train.sequences, train.sequences + validation.sequences):
        tokens = pair[number]
        builder.add_document(tokens, [len(tokens)])
    builder.finalize(f"{target}.idx")


@scenario()
def decay(place: Place) -> Any:
    """A wsd run, and an experiment that branches off where its decay begins, with the flags in its config.yaml.

    One validation set is the very part that --split validates on, the other one a copy of the whole text.
    """
    write_validation_part(place.corpus / "dataset", place.folder / "same" / "part")
    shutil.copytree(place.corpus / "dataset", place.folder / "all")
    sets = ("--validation-dir", f"part={place.folder / 'same' / 'part'}", "--validation-dir", str(place.folder / "all"))
    run = place.experiment(
        name="whole", steps=8, flags=("--deterministic", "--lr-schedule", "wsd", "--decay-steps", "4", *sets)
    )
    output = must(run.start(record=place.folder / "whole", report=True)).output
    branch = place.experiment(name="branch", steps=8, flags=("--config", str(run.folder / "config.yaml")))
    start = must(
        branch.start("--decay-from", str(run.checkpoints / "step_00000004"), record=place.folder / "branch", fault=None)
    )
    again = branch.start("--decay-from", str(run.checkpoints / "step_00000004"))
    flags = ("--config", str(run.folder / "config.yaml"), "-TP", "2")
    split = place.experiment(name="split", steps=8, flags=flags, ranks=2)
    must(split.start("--decay-from", str(run.checkpoints / "step_00000004"), record=place.folder / "split", fault=None))
    wsd = ("--deterministic", "--lr-schedule", "wsd", "--decay-steps", "4", "-PP", "2")
    stages = place.experiment(name="stages", steps=8, flags=wsd, ranks=2)
    must(stages.start(record=place.folder / "stages"))
    flags = ("--config", str(stages.folder / "config.yaml"), "-PP", "1")
    spread = place.experiment(name="spread", steps=8, flags=flags, ranks=2)
    from_stages = str(stages.checkpoints / "step_00000004")
    must(spread.start("--decay-from", from_stages, record=place.folder / "spread", fault=None))
    return SimpleNamespace(
        run=run, output=output, branch=branch, start=start, again=again, split=split, stages=stages, spread=spread,
        records={name: place.folder / name for name in ("whole", "branch", "split", "stages", "spread")},
    )  # fmt: skip


@scenario("one_rank")
def other_batch(place: Place) -> Any:
    """Another batch; and flags that may change with no more than a word, or without one."""
    return _continued(place, "batch", 8, "-gbs", "8", "--micro-batch-size", "4", "--lr", "0.002", ranks=1)
