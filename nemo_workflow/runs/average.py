"""`runs average`: the mean of several checkpoints of a run, a NeMo 2 checkpoint that exports and starts runs as any other.

Tensors are averaged in fp32 and written one at a time, a piece as it lies in the newest checkpoint, and read in bands: one
piece of the result is in memory. Only weights are averaged: a run that starts from the result (--nemo-model) begins with an
optimizer of its own.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
import warnings
from argparse import BooleanOptionalAction
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_workflow import REPOSITORY
from nemo_workflow.config.flags import BY_ATTRIBUTE
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.schedule import left_of_decay
from nemo_workflow.conversion.boxes import Box
from nemo_workflow.run_dir import metrics
from nemo_workflow.run_dir.checkpoints import Checkpoint, free_bytes, list_checkpoints, problem_of
from nemo_workflow.runs import control
from nemo_workflow.utils.console import counted, human_bytes
from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.files import write_json

if TYPE_CHECKING:
    import torch

    from nemo_workflow.conversion.nemo_folder import Chunk, NemoReader

FOLDER = "averaged"  # in the run's folder
FACTS = "average.json"  # in the result: what it is the mean of
BAND = 1 << 20  # numbers that are averaged at once
KNOWN = 20  # steps that a refusal names
STYLES = BY_ATTRIBUTE["decay_style"].choices


def add_commands(commands: Any) -> None:
    """Add the subcommand to the parser."""
    text = "average the weights of a run's last checkpoints into one that exports, and starts runs (--nemo-model)"
    made = commands.add_parser("average", help=text, description=text)
    made.add_argument("name", help="experiment, Slurm job id, the experiment id that was printed, or a run's folder")
    which = made.add_mutually_exclusive_group()
    which.add_argument("--last", type=int, default=5, metavar="N", help="the newest N (default %(default)s)")
    which.add_argument("--steps", metavar="STEP,STEP…", help="the checkpoints of these steps instead")
    made.add_argument(
        "--decay-style", choices=STYLES, help="weigh them as a decay of this form would; unset: all alike"
    )
    made.add_argument("--output-path", type=Path, metavar="DIR", help=f"unset: RUN/{FOLDER}/step_FIRST-LAST")
    made.add_argument("--overwrite", action="store_true", help="replace what --output-path holds")
    made.add_argument(
        "--evaluate", action=BooleanOptionalAction, default=False,
        help="export the result aside too, and print its loss on the run's validation samples beside the checkpoints' own",
    )  # fmt: skip
    made.set_defaults(run=_average)


def _average(arguments: Any) -> int:
    warnings.simplefilter("ignore", FutureWarning)  # torch warns of pynvml at import
    run = control.find_run(arguments.output_dir, arguments.name)
    chosen = choose(list_checkpoints(run / "checkpoints"), arguments.last, arguments.steps)
    shares = weights_of(len(chosen), arguments.decay_style)
    output = arguments.output_path or run / FOLDER / f"{chosen[0].path.name}-{chosen[-1].step:08d}"
    size = write_average(chosen, shares, output, arguments.overwrite)
    print(f"averaged {counted(len(chosen), 'checkpoint')} into {output}, {human_bytes(size)}")
    for checkpoint, share in zip(chosen, shares, strict=True):
        print(f"  {share:6.1%}  {checkpoint.path.name}")
    if arguments.evaluate:
        _evaluate(control.plan_of(run), chosen, output)
    return 0


def choose(there: list[Checkpoint], last: int, steps: str | None) -> list[Checkpoint]:
    """The checkpoints to average, oldest first; raises Refusal for one that isn't there or isn't whole."""
    by_step = {checkpoint.step: checkpoint for checkpoint in there}
    known = ", ".join(str(step) for step in sorted(by_step)[-KNOWN:]) or "none"
    if steps is not None:
        words = [word.strip() for word in steps.split(",")]
        missing = [word for word in words if not word.isdigit() or int(word) not in by_step]
        if missing:
            raise Refusal(f"--steps {steps}: no checkpoint of step {missing[0]}; there are: {known}")
        chosen = [by_step[step] for step in sorted({int(word) for word in words})]
        if problem := next(filter(None, (f"{c.path}: {p}" if (p := problem_of(c)) else None for c in chosen)), None):
            raise Refusal(f"--steps {steps}: {problem}; leave it out")
    else:
        whole = [checkpoint for checkpoint in there if problem_of(checkpoint) is None]
        if last > len(whole):
            fewer = f"average --last {len(whole)}, or " if len(whole) > 1 else ""
            raise Refusal(
                f"--last {last}: the run has {counted(len(whole), 'whole checkpoint')} (steps: {known});"
                f" {fewer}train with a larger --keep-checkpoints"
            )
        chosen = whole[-last:] if last > 0 else []
    if len(chosen) < 2:
        flag = f"--steps {steps}" if steps is not None else f"--last {last}"
        raise Refusal(f"{flag}: a mean needs two checkpoints or more")
    return chosen


def weights_of(count: int, style: str | None) -> list[float]:
    """Weight of each of `count` checkpoints, oldest first; they sum to 1.

    A mean weighs the way between two checkpoints by what the later ones have together. With a style this is what a decay
    from the oldest to the newest leaves of the learning rate in the middle of that way: the mean then stands where a run
    would, to first order, that had decayed over those steps.
    """
    if style is None:
        return [1 / count] * count
    kept = [1.0, *(left_of_decay(style, (at + 0.5) / (count - 1)) for at in range(count - 1)), 0.0]
    return [before - after for before, after in pairwise(kept)]


def write_average(chosen: Sequence[Checkpoint], shares: Sequence[float], output: Path, overwrite: bool) -> int:
    """Write the weighted mean to `output`, which appears whole or not at all; returns the bytes of its tensors."""
    from nemo_workflow.conversion import output_dir
    from nemo_workflow.conversion.nemo_folder import NemoReader, write_weights

    output_dir.check_output(output, overwrite)
    for checkpoint in chosen:
        output_dir.check_apart(output, checkpoint.path, f"checkpoint {checkpoint.path.name}")
    try:
        readers = [NemoReader(checkpoint.path / "weights") for checkpoint in chosen]
        chunks = [chunk for key in sorted(readers[-1].tensors) for chunk in _chunks(readers, shares, key)]
        size = sum(chunk.nbytes for chunk in chunks)
        if free_bytes(output) < size:
            raise Refusal(
                f"--output-path {output}: the mean takes {human_bytes(size)}, and less is free there; free some"
            )
        with output_dir.whole_folder(output) as aside:
            shutil.copytree(chosen[-1].path / "context", aside / "context")
            write_weights(aside / "weights", chunks, readers[-1].objects)
            facts = {"checkpoints": [str(c.path) for c in chosen], "steps": [c.step for c in chosen]}
            write_json(aside / FACTS, {**facts, "weights": list(shares)})
    except FileNotFoundError as error:
        raise Failure(f"{error.filename} is gone: the run removed this checkpoint meanwhile; try again") from error
    return size


def _chunks(readers: Sequence[NemoReader], shares: Sequence[float], key: str) -> list[Chunk]:
    """The pieces of a tensor as they lie in the newest checkpoint, each the mean of all."""
    from nemo_workflow.conversion.nemo_folder import Chunk

    newest = readers[-1]
    info = newest.tensors[key]
    other = next((r for r in readers if key not in r.tensors or r.tensors[key].size != info.size), None)
    if other is not None:
        raise Refusal(
            f"{other.weights}: {key} has another shape than in {newest.weights}: not of one model; leave it out"
        )
    dtype = info.properties.dtype
    # what is no weight can't be averaged
    parts = list(zip(readers, shares, strict=True)) if dtype.is_floating_point else [(newest, 1.0)]
    pieces = [(reader, share, reader.pieces(key)) for reader, share in parts]
    return [
        Chunk(
            key, tuple(info.size), box.offsets, box.shape, dtype, lambda box=box: _mean(pieces, key, box, dtype)  # type: ignore[misc]
        )
        for box in newest.pieces(key)
    ]  # fmt: skip


def _mean(parts: Sequence[tuple[NemoReader, float, list[Box]]], key: str, box: Box, dtype: torch.dtype) -> torch.Tensor:
    """The weighted mean of one part of a tensor: in memory are the result, and a band of it in fp32 beside what is added to it."""
    import torch

    there = []
    for reader, share, pieces in parts:
        overlaps = [(box, box)] if box in pieces else [(p, c) for p in pieces if (c := p.common(box))]
        there.append((reader, share, overlaps))
        if sum(math.prod(common.shape) for _, common in overlaps) != math.prod(box.shape):
            raise Refusal(f"{reader.weights}: {key} is not whole in this checkpoint; leave it out")
    whole = torch.empty(math.prod(box.shape), dtype=dtype)
    at = 0
    for band in box.cut(BAND):
        total = torch.zeros(band.shape, dtype=torch.float32 if dtype.is_floating_point else dtype)
        for reader, share, overlaps in there:
            for piece, _ in overlaps:
                if common := piece.common(band):
                    part = reader.read_box(key, piece, common)
                    total[common.within(band)].add_(part, alpha=share if dtype.is_floating_point else 1)
        whole[at : at + total.numel()] = total.flatten()
        at += total.numel()
    return whole.view(box.shape)


def _evaluate(plan: Plan, chosen: Sequence[Checkpoint], output: Path) -> None:
    """Print the result's loss on the run's validation samples, and what the run itself logged after each checkpoint."""
    from nemo_workflow.runs.evaluate import mean_loss, model_for, validation_samples
    from nemo_workflow.utils.silence import quiet

    convert = REPOSITORY / "ckpt_conversion" / "convert_from_nemo2_to_hf.py"
    with tempfile.TemporaryDirectory(prefix=".evaluate.", dir=output.parent) as place:
        folder = Path(place) / "hf_model"
        command = [sys.executable, str(convert), "--source", str(output), "--output-path", str(folder)]
        done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"--evaluate: {output} can't be exported: {(done.stderr or done.stdout).strip()}")
        with quiet():
            samples = plan.schedule.limit_val_batches * plan.settings.global_batch_size
            seen = validation_samples(plan, samples)
            loss = mean_loss(model_for(folder, seen), seen)
    logged = {e["step"]: e["val_loss"] for e in metrics.read(plan.folder / metrics.FILE) if e["event"] == "validation"}
    for checkpoint in chosen:
        if logged.get(checkpoint.step) is not None:
            print(f"validation loss of {checkpoint.path.name}: {logged[checkpoint.step]:.4f} (the run's own)")
    print(f"validation loss of the mean: {loss:.4f} (by transformers, in fp32, from a verified export)")
