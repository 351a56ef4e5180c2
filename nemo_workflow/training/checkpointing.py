"""Checkpoints as this project writes them: hashed, marked when whole, the newest N kept; what happens when one fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from nemo import lightning as nl
from torch.distributed.checkpoint.api import CheckpointException

from nemo_workflow.config.plan import Plan
from nemo_workflow.run_dir.checkpoints import (
    SPACE_MARGIN,
    UNFINISHED,
    Checkpoint,
    bytes_of_one,
    describe_written,
    files_of,
    free_bytes,
    list_checkpoints,
    problem_of,
    prune,
    remove_half_written,
    set_aside,
    write_manifest,
)
from nemo_workflow.training.exports import Exports
from nemo_workflow.utils.console import human_bytes
from nemo_workflow.utils.errors import Failure

CONTEXT = "context/io.json"
NO_RESULTS = "results_queue should not be empty"  # megatron-core's, of a writer that is gone
NO_SPACE = "no space left on device"
STATE_BYTES = 12  # a parameter: Adam's two moments and the master weight, 4 bytes each


class SaveFailed(Failure):
    """A checkpoint could not be written; those before it are whole."""


class Checkpoints(nl.ModelCheckpoint):
    """NeMo's checkpoint callback, with a manifest as the mark of a whole checkpoint and the newest N kept.

    Every rank hashes the files it wrote, and rank 0 writes the manifest before NeMo's mark of an unfinished
    checkpoint goes. NeMo calls the finalizer on all ranks at the same step, for a save in the background too.
    """

    plan: Plan
    run_log: Any
    identity: dict[str, Any]
    resumed_from: Path | None = None
    exports: Exports | None = None  # of --export-hf save, on rank 0
    group: Any = None
    expected: int = 0  # bytes of the next checkpoint
    last_save: bool = False  # the run ends after it: if it fails, the run fails
    held_up: dict[int, float]  # step -> seconds that the training stood still for a save that goes on in the background

    def attach(self, plan: Plan, log: Any, identity: dict[str, Any], resumed_from: Path | None) -> None:
        """What NeMo's own arguments have no place for."""
        self.plan, self.run_log, self.identity, self.resumed_from = plan, log, identity, resumed_from
        self.held_up = {}

    # -- Lightning's hooks ----------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_train_start(trainer, module)
        if self.resumed_from is not None:
            self._last_global_step_saved = trainer.global_step
        self.group = dist.new_group(backend="gloo")  # small facts travel on the CPU
        self.expected = bytes_of_one(self._folder) or _estimate(trainer)
        missing = self._space_missing(trainer)
        if missing:
            raise SaveFailed(f"{missing}; no step was made")

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.last_save = True
        self.save_now(trainer)
        super().on_train_end(trainer, module)
        self.wait(trainer)

    # -- saving ---------------------------------------------------------------------------------------------------

    def save_now(self, trainer: pl.Trainer) -> None:
        """Save unless this step is saved already."""
        if self._last_global_step_saved != trainer.global_step:
            self._save_checkpoint(trainer, self.format_checkpoint_name(self._monitor_candidates(trainer)))

    def save_before_step(self, trainer: pl.Trainer) -> None:
        """Save the state that the step under way started from; nothing of the model may have changed in it."""
        if trainer.global_step > 0:
            with _step_not_begun(trainer):
                self.save_now(trainer)
        self.wait(trainer)

    def wait(self, trainer: pl.Trainer) -> None:
        """Return when a save in the background, if any, is whole on disk; NeMo leaves one at an error, or begun at the end."""
        finalize = getattr(trainer.strategy.checkpoint_io, "maybe_finalize_save_checkpoint", None)
        if finalize is None:
            return
        try:
            finalize(blocking=True)
        except (Exception, CheckpointException) as error:
            raise self.failed_in_the_background(error) from error

    def failed_in_the_background(self, error: BaseException) -> SaveFailed:
        """Of a save that the training did not wait for: which one is not known here. NeMo looks for it after every batch too."""
        together = isinstance(error, CheckpointException)  # only one rank's says what went wrong
        reason = self._shared_reason(error) if together else self._reason(error)
        return SaveFailed(f"a checkpoint could not be saved: {reason}; those before it are whole")

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        self.run_log.write_pending()
        began = time.perf_counter()
        problem = self._space_missing(trainer)
        try:
            if problem:
                raise SaveFailed(problem)
            self._clear_the_place(trainer, filepath)
            with _step_counted(trainer):
                super()._save_checkpoint(trainer, filepath)
            self._check_context(trainer, filepath)
            self.held_up[trainer.global_step] = time.perf_counter() - began
        except (Exception, CheckpointException) as error:  # noqa: BLE001 (torch derives its own from BaseException)
            self._failed(trainer, filepath, error)
        finally:
            self.run_log.resume_clock()

    def _clear_the_place(self, trainer: pl.Trainer, filepath: str) -> None:
        """A folder of this step that is already there is no whole checkpoint of this run's: NeMo would write into it."""
        place = _folder_of(filepath)
        if trainer.is_global_zero and place.exists():
            old = next(c for c in list_checkpoints(place.parent) if c.path == place)
            problem = problem_of(old)
            self.run_log.note(f"checkpoint {place.name} was there already ({problem or 'whole'}): {set_aside(old)}")
        dist.barrier(group=self.group)

    def _check_context(self, trainer: pl.Trainer, filepath: str) -> None:
        """NeMo only logs that the context could not be written."""
        missing = trainer.is_global_zero and not (_folder_of(filepath) / CONTEXT).exists()
        if self._any_rank(missing):
            raise SaveFailed("NeMo could not write its context/; see rank0.log")

    def _failed(self, trainer: pl.Trainer, filepath: str, error: BaseException) -> None:
        """Megatron raises on all ranks when one fails to write, so all come here together."""
        place = _folder_of(filepath)
        if _whole(place):
            raise error  # something after it: metrics.jsonl could not be written, for one
        together = isinstance(error, SaveFailed | CheckpointException) or dist.get_world_size() == 1
        reason = self._shared_reason(error) if together else self._reason(error)
        if trainer.is_global_zero:
            remove_half_written(place)
            place.with_name(place.name + UNFINISHED).unlink(missing_ok=True)
        self._last_global_step_saved = -1  # so that the end of the run tries once more
        with contextlib.suppress(Exception):  # NeMo's telemetry takes the save for one still under way; 2.5 has none
            from nemo.lightning.callback_group import CallbackGroup

            CallbackGroup.get_instance().on_save_checkpoint_end()
        text = f"checkpoint {place.name} could not be saved: {reason}"
        if self.last_save or not together or self.plan.settings.on_save_error != "continue":
            raise SaveFailed(f"{text}; the checkpoints before it are whole") from error
        self.run_log.event("save_failed", step=trainer.global_step, reason=reason)
        self.run_log.note(f"{text}; training continues (--on-save-error continue)")

    def _shared_reason(self, error: BaseException) -> str:
        """The same on all ranks: only the one that could not write knows why."""
        reasons: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(reasons, self._reason(error), group=self.group)
        return next((reason for reason in reasons if reason == NO_SPACE), max(reasons, key=len))

    def _reason(self, error: BaseException) -> str:
        """The error as a person would say it. torch's writer does not pass on that the disk is full."""
        seen: BaseException | None = error
        while seen is not None:
            if "No space left on device" in str(seen):
                return NO_SPACE
            seen = seen.__cause__ or seen.__context__
        if not isinstance(error, SaveFailed) and free_bytes(self._folder) < self.expected / 2:
            return NO_SPACE
        if isinstance(error, CheckpointException):  # whose own text is that of each rank, with its calls
            error = next((failed for failed, _ in error.failures.values()), error)
        if isinstance(error, CheckpointException):  # of another rank's failure, which only that one can tell
            return type(error).__name__
        # of a pipe or socket between our own processes, or what megatron-core finds where the one between left no results
        if isinstance(error, ConnectionError | EOFError) or str(error) == NO_RESULTS:
            return f"a process that writes it was ended from outside ({str(error) or type(error).__name__}): was it out of memory?"
        return str(error).removeprefix("Worker failure: ") or type(error).__name__

    def _get_finalize_save_checkpoint_callback(self, trainer: pl.Trainer, filepath: str, global_step: int) -> Any:
        inner = super()._get_finalize_save_checkpoint_callback(trainer, filepath, global_step)
        began = time.perf_counter()
        consumed = trainer.datamodule.state_dict()["consumed_samples"]

        def finalize() -> None:
            path = _folder_of(filepath)
            entries = self._hash_own_files(trainer, path)
            size = 0
            if trainer.is_global_zero:
                facts = {"step": global_step, "consumed_samples": consumed, "identity": self.identity}
                size = write_manifest(path, entries, **facts)
                self.expected = int(size)
            inner()  # waits for all ranks, then removes the mark
            if trainer.is_global_zero:
                seconds = time.perf_counter() - began
                # a save that the training waits for ends here, before the time of its wait is known
                times = {"seconds": round(seconds, 2), "held_up": round(self.held_up.pop(global_step, seconds), 2)}
                self.run_log.event("checkpoint", step=global_step, path=str(path), bytes=size, **times)
                self._prune(path.parent)
                if self.exports:
                    self.exports.saved(path, global_step)

        return finalize

    def _prune(self, folder: Path) -> None:
        try:
            prune(folder, self.plan.settings.keep_checkpoints, self.resumed_from, self.exports and self.exports.source)
        except OSError as error:  # the new one is whole; NFS keeps a folder from which somebody still reads
            self.run_log.note(f"an older checkpoint can't be removed: {error}; the next start tries again")

    def _hash_own_files(self, trainer: pl.Trainer, path: Path) -> dict[str, dict[str, Any]]:
        """Entries of all ranks' shards on rank 0; a rank's files are named __<rank>_<n>.distcp."""
        own = [name for name in files_of(path) if name.startswith(f"weights/__{trainer.global_rank}_")]
        entries = describe_written(path, own)
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, entries, group=self.group)
        return {name: entry for part in gathered for name, entry in part.items()}

    def _monitor_candidates(self, trainer: pl.Trainer) -> dict[str, torch.Tensor]:
        # NeMo logs a metric "step" that is one behind at the end of a step; the name counts finished steps
        return super()._monitor_candidates(trainer) | {"step": torch.tensor(trainer.global_step)}

    # -- space ----------------------------------------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        return self.plan.folder / "checkpoints"

    def _space_missing(self, trainer: pl.Trainer) -> str | None:
        """What rank 0 says about the room for one more checkpoint, the same on all ranks; None when it is enough."""
        said: list[str | None] = [None]
        if trainer.is_global_zero:
            needed, free = int(self.expected * SPACE_MARGIN), free_bytes(self._folder)
            if free < needed:
                said = [
                    f"no space left for a checkpoint: it needs {human_bytes(needed)}, and {human_bytes(free)} are free"
                    f" in {self._folder}; free some, lower --keep-checkpoints, or choose another --output-dir"
                ]
        dist.broadcast_object_list(said, src=0, group=self.group)
        return said[0]

    def _any_rank(self, flag: bool) -> bool:
        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.group)
        return bool(flags.item())


def _folder_of(filepath: str) -> Path:
    return Path(filepath.removesuffix(".ckpt"))


def _whole(place: Path) -> bool:
    return (place / CONTEXT).exists() and problem_of(Checkpoint(place, 0)) is None


def _estimate(trainer: pl.Trainer) -> int:
    """Bytes of a checkpoint before the first is written: weights, and Adam's state of every parameter."""
    from megatron.core import parallel_state

    parameters = [p for chunk in trainer.strategy.megatron_parallel for p in chunk.parameters()]
    own = sum(p.numel() * (p.element_size() + STATE_BYTES) for p in parameters)
    total = torch.tensor([float(own)], device="cuda" if torch.cuda.is_available() else "cpu")
    dist.all_reduce(total, group=parallel_state.get_model_parallel_group())
    size = torch.tensor([float(total.item())], device=total.device)
    dist.broadcast(size, src=0)
    return int(size.item())


@contextlib.contextmanager
def _step_counted(trainer: pl.Trainer) -> Iterator[None]:
    """Save the step just done as done.

    Lightning counts it after its callbacks have run; a run resumed from such a checkpoint would validate a step late.
    """
    with _set(_batch_counts(trainer), "completed", lambda count: count.ready):
        yield


@contextlib.contextmanager
def _step_not_begun(trainer: pl.Trainer) -> Iterator[None]:
    """Save as if the step under way had not begun."""
    loop = trainer.fit_loop.epoch_loop
    steps = loop.automatic_optimization.optim_progress.optimizer.step
    with contextlib.ExitStack() as stack:
        stack.enter_context(_set(_batch_counts(trainer), "ready", lambda count: count.completed))
        stack.enter_context(_set(_batch_counts(trainer), "started", lambda count: count.completed))
        stack.enter_context(_set((steps.current, steps.total), "ready", lambda count: count.completed))
        yield


def _batch_counts(trainer: pl.Trainer) -> tuple[Any, Any]:
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return progress.current, progress.total


@contextlib.contextmanager
def _set(counts: tuple[Any, ...], name: str, value: Callable[[Any], int]) -> Iterator[None]:
    before = [getattr(count, name) for count in counts]
    for count in counts:
        setattr(count, name, value(count))
    try:
        yield
    finally:
        for count, old in zip(counts, before, strict=True):
            setattr(count, name, old)
