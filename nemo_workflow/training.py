"""What we add to NeMo's training loop in a worker: the run's numbers, checkpoints that are whole, a clean stop."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import lightning.pytorch as pl
import nemo.lightning._strategy_lib as strategy_lib
import torch
import torch.distributed as dist
from nemo import lightning as nl

from nemo_workflow import catalog, events, flops, parameters
from nemo_workflow.checkpoints import prune, write_manifest
from nemo_workflow.plan import Plan
from nemo_workflow.step_clock import Finished, StepClock
from nemo_workflow.worker import STOPPED


def seed_everything(seed: int) -> None:
    """Seed of the weights and dropout; NeMo's strategy always passes its own default, 1234, otherwise."""
    strategy_lib.init_parallel_ranks = functools.partial(_init_parallel_ranks, seed=seed)


_init_parallel_ranks = strategy_lib.init_parallel_ranks


class RunLog(pl.Callback):
    """Writes the run's numbers to <run>/metrics.jsonl (rank 0), a line an event, and plain lines to `console`."""

    def __init__(self, plan: Plan, console: TextIO, started: float):
        self.plan = plan
        self.console = console
        self.started = started
        self.tokens_a_step = plan.setting("global_batch_size") * plan.seq_length
        self._clock = StepClock()
        self._pending: Finished | None = None  # on a GPU a step is written down when the next has ended
        vocabulary = parameters.padded_vocabulary(plan.sizes, plan.vocab_size, plan.layout.tensor)
        self._work = flops.flops_a_token(catalog.find(plan.model_name).family, plan.sizes, vocabulary, plan.seq_length)
        self._stream: TextIO | None = None
        self._last: dict[str, Any] = {}
        self._val_loss: float | None = None

    # -- events ---------------------------------------------------------------------------------------------------

    def event(self, kind: str, **values: Any) -> None:
        """Append one event; only rank 0 writes."""
        if int(os.environ.get("RANK", "0")) != 0:
            return
        if self._stream is None:
            path = self.plan.folder / events.FILE
            path.parent.mkdir(parents=True, exist_ok=True)
            events.cut_torn_line(path)
            self._stream = path.open("a", encoding="utf-8")
        line = {"event": kind, "time": round(time.time(), 3), **values}
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()
        text = events.plain(line, self.plan.schedule.max_steps, self.plan.setting("log_every"))
        if text:
            print(text, file=self.console, flush=True)

    # -- Lightning's hooks ----------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.event(
            "start",
            step=trainer.global_step,
            max_steps=trainer.max_steps,
            setup_seconds=round(time.time() - self.started, 2),
        )
        gc.collect()
        gc.freeze()  # the model's objects stay: without them a collection takes no time that a step would notice
        self._clock.restart()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        finished = self._clock.finished(trainer, step=trainer.global_step, memory_bytes=peak_memory())
        self.write_pending()
        self._pending = finished
        if not self._clock.on_gpu:
            self.write_pending()

    def write_pending(self) -> None:
        """Write down the last step; before anything that is to follow it in the file."""
        if self._pending is None:
            return
        finished, self._pending = self._pending, None
        seconds = finished.seconds()
        rate = self.tokens_a_step / seconds
        step = finished.values["step"]
        self._last = {
            "step": step,
            **finished.numbers_now(),
            "consumed_samples": step * self.plan.setting("global_batch_size"),
            "seconds": round(seconds, 4),
            "tokens_per_second": round(rate, 1),
            **self._work_done(rate),
            "memory_bytes": finished.values["memory_bytes"],
        }
        self.event("step", **self._last)

    def _work_done(self, rate: float) -> dict[str, float]:
        """TFLOP/s a GPU, and MFU: the share of the GPU's bf16 peak (also with fp8, so that runs can be compared)."""
        if self._work is None or not self._clock.on_gpu:
            return {}
        done = rate * self._work / self.plan.layout.ranks
        peak = flops.peak_of(torch.cuda.get_device_name())
        return {"tflops_per_gpu": round(done / 1e12, 1)} | ({"mfu": round(done / peak, 4)} if peak else {})

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.write_pending()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._val_loss = _number(trainer.callback_metrics.get("val_loss"))
        self.event("validation", step=trainer.global_step, val_loss=self._val_loss)
        self._clock.restart()

    def finish(self, reason: str = "finished") -> None:
        """Write the end event and summary.json."""
        self.write_pending()
        self.event("end", step=self._last.get("step"), reason=reason)
        if int(os.environ.get("RANK", "0")) == 0:
            events.write_summary(self.plan, reason)

    def resume_clock(self) -> None:
        """Leave what has just been done (a save) out of the next step's time."""
        self._clock.restart()


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def peak_memory() -> int:
    """Bytes: the GPU allocator's peak, or on a CPU the process's largest resident size."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Checkpoints(nl.ModelCheckpoint):
    """NeMo's checkpoint callback, with a manifest as the mark of a whole checkpoint and the newest N kept."""

    plan: Plan
    run_log: RunLog
    resumed_from: Path | None = None

    def attach(self, plan: Plan, log: RunLog, resumed_from: Path | None) -> None:
        """What NeMo's own arguments have no place for."""
        self.plan, self.run_log, self.resumed_from = plan, log, resumed_from

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        self.run_log.write_pending()
        with _step_counted(trainer):
            super()._save_checkpoint(trainer, filepath)
        self.run_log.resume_clock()

    def _get_finalize_save_checkpoint_callback(self, trainer: pl.Trainer, filepath: str, global_step: int) -> Any:
        inner = super()._get_finalize_save_checkpoint_callback(trainer, filepath, global_step)
        began = time.perf_counter()

        def finalize() -> None:
            inner()
            if trainer.is_global_zero:
                path = Path(filepath.removesuffix(".ckpt"))
                size = write_manifest(path)
                self.run_log.event(
                    "checkpoint",
                    step=global_step,
                    path=str(path),
                    bytes=size,
                    seconds=round(time.perf_counter() - began, 2),
                )
                prune(path.parent, self.plan.setting("keep_checkpoints"), spare=self.resumed_from)

        return finalize

    def _monitor_candidates(self, trainer: pl.Trainer) -> dict[str, torch.Tensor]:
        # NeMo logs a metric "step" that is one behind at the end of a step; the name counts finished steps
        return super()._monitor_candidates(trainer) | {"step": torch.tensor(trainer.global_step)}

    def save_now(self, trainer: pl.Trainer) -> None:
        """Save unless this step is saved already."""
        if self._last_global_step_saved != trainer.global_step:
            self._save_checkpoint(trainer, self.format_checkpoint_name(self._monitor_candidates(trainer)))

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.save_now(trainer)
        super().on_train_end(trainer, module)


@contextlib.contextmanager
def _step_counted(trainer: pl.Trainer) -> Iterator[None]:
    """Save the step just done as done.

    Lightning counts it after its callbacks have run; a run resumed from such a checkpoint would validate a step late.
    """
    counts = (trainer.fit_loop.epoch_loop.batch_progress.current, trainer.fit_loop.epoch_loop.batch_progress.total)
    before = [count.completed for count in counts]
    for count in counts:
        count.completed = count.ready
    yield
    for count, completed in zip(counts, before, strict=True):
        count.completed = completed


class Stopper(pl.Callback):
    """SIGTERM, SIGINT or SIGUSR1 to any rank: all ranks finish the step, save and leave with exit code STOPPED."""

    def __init__(self, run_log: RunLog):
        self.run_log = run_log  # Lightning puts a method of its own at `log`
        self.asked = 0
        self.group: Any = None

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        if self.asked:  # asked twice: leave at once
            os._exit(128 + number)
        self.asked = number

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # a group of its own on the CPU: asking costs no GPU synchronisation
        self.group = dist.new_group(backend="gloo")

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        asked = torch.tensor([self.asked])
        dist.all_reduce(asked, op=dist.ReduceOp.MAX, group=self.group)
        if not int(asked):
            return
        self.run_log.write_pending()
        self.run_log.event("stopping", step=trainer.global_step, signal=int(asked))
        saver = trainer.checkpoint_callback
        assert isinstance(saver, Checkpoints)
        saver.save_now(trainer)
        wait_for_async_save(trainer)
        self.run_log.finish("stopped")
        dist.barrier(group=self.group)
        os._exit(STOPPED)  # no destructor may hang on a collective whose peers are gone


def wait_for_async_save(trainer: pl.Trainer) -> None:
    """Return when an asynchronous save, if any, is on disk."""
    finalize = getattr(trainer.strategy.checkpoint_io, "maybe_finalize_save_checkpoint", None)
    if finalize:
        finalize(blocking=True)
