"""What we add to NeMo's training loop in a worker: the run's numbers, a missed validation, a clean stop."""

from __future__ import annotations

import functools
import gc
import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from nemo_workflow.backends.cpu import products
from nemo_workflow.backends.patching import replace
from nemo_workflow.backends.registry import find
from nemo_workflow.config.plan import Plan
from nemo_workflow.run_dir import metrics
from nemo_workflow.run_dir.metric_table import SOURCE_LOSSES
from nemo_workflow.run_dir.report_process import LEAST_SECONDS, Refresher
from nemo_workflow.run_dir.speed import SpeedCheck
from nemo_workflow.run_dir.stopping import launchers_signal
from nemo_workflow.training import loggers, source_losses
from nemo_workflow.training.checkpointing import Checkpoints
from nemo_workflow.training.liveness import Heartbeat, without_launcher
from nemo_workflow.training.spikes import SpikeWarner
from nemo_workflow.training.step_clock import Finished, StepClock
from nemo_workflow.training.step_metrics import StepMetrics, peak_memory
from nemo_workflow.utils import machine, scratch
from nemo_workflow.utils.errors import STOPPED

LAST_REPORT_SECONDS = 15.0  # that the end of a run may be held up for its report


def be_deterministic() -> None:
    """Only algorithms that give the same bits every time; an operation that has none raises."""
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def seed_everything(seed: int) -> None:
    """Seed of the weights and dropout; NeMo's strategy always passes its own default, 1234, otherwise."""
    replace(find("training.callbacks:with_seed"), functools.partial(with_seed, seed=seed))


def with_seed(original: Any, seed: int) -> Any:
    """NeMo's `init_parallel_ranks` with this seed, whatever it is called with."""

    @functools.wraps(original)
    def init_parallel_ranks(*ranks: Any, **named: Any) -> Any:
        return original(*ranks, **named | {"seed": seed})

    return init_parallel_ranks


class RunLog(pl.Callback):
    """Writes the run's numbers to <run>/metrics.jsonl (rank 0), one line per event, and plain lines to `console`."""

    def __init__(self, plan: Plan, console: TextIO, started: float, heartbeat: Heartbeat):
        self.plan = plan
        self.console = console
        self.started = started
        self.heartbeat = heartbeat
        self.spikes = SpikeWarner()
        why = functools.partial(machine.shared_cpu, plan.layout.ranks) if plan.accelerator == "cpu" else str
        self.speed = SpeedCheck(plan.time["tokens_per_second"] if plan.time else None, why)
        self.report = Refresher(plan.folder, wait=LEAST_SECONDS)
        self._clock = StepClock()
        self._metrics = StepMetrics(plan, self._clock.on_gpu)
        self._pending: Finished | None = None  # on a GPU a step is written down when the next has ended
        self._stream: TextIO | None = None
        self._last: dict[str, Any] = {}
        self._loggers: list[Any] = []
        self._log_every = 1
        self._val_loss: float | None = None
        self.sources = source_losses.of(plan)
        self.set_losses: dict[str, float | None] = {}  # of --validation-dir, at the validation under way

    # -- events ---------------------------------------------------------------------------------------------------

    def event(self, kind: str, **values: Any) -> None:
        """Append one event; only rank 0 writes."""
        if int(os.environ.get("RANK", "0")) != 0:
            return
        if self._stream is None:
            path = self.plan.folder / metrics.FILE
            path.parent.mkdir(parents=True, exist_ok=True)
            metrics.cut_torn_line(path)
            self._stream = path.open("a", encoding="utf-8")
        line = {"event": kind, "time": round(time.time(), 3), **values}
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()
        text = metrics.plain(line, self.plan.schedule.max_steps, self.plan.settings.log_every)
        if text:
            print(text, file=self.console, flush=True)
        if kind in ("validation", "checkpoint"):
            self.report.refresh()

    def note(self, text: str) -> None:
        """Tell the person who watches, once for the run."""
        self.event("note", text=text)

    # -- Lightning's hooks ----------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._loggers, self._log_every = trainer.loggers, trainer.log_every_n_steps
        self._last = {"step": trainer.global_step}
        self.event(
            "start",
            step=trainer.global_step,
            loggers=loggers.names(self._loggers),
            max_steps=trainer.max_steps,
            setup_seconds=round(time.time() - self.started, 2),
            machine=machine.facts() | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
            **machine.slurm_job(),
        )
        for word in loggers.words(self._loggers):
            self.note(word)
        loggers.catch_up(self._loggers, self.plan.folder, trainer.global_step)
        gc.collect()
        gc.freeze()  # the model's objects stay: without them a collection takes no time that a step would notice
        self._clock.restart()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        logged = step % self.plan.settings.log_every == 0 or step == trainer.max_steps
        finished = self._clock.finished(
            trainer,
            sums=self.sources.taken() if self.sources and logged else None,
            step=step,
            consumed_samples=trainer.datamodule.state_dict()["consumed_samples"],
            memory_bytes=peak_memory(),
        )
        self.write_pending()
        self._pending = finished
        if not self._clock.on_gpu:
            self.write_pending()
        self._beat(trainer)

    def write_pending(self) -> None:
        """Write down the last step; before anything that is to follow it in the file."""
        if self._pending is None:
            return
        finished, self._pending = self._pending, None
        self._last = self._metrics.of(finished)
        if self.sources and finished.sums is not None:
            self._last[SOURCE_LOSSES] = self.sources.losses(finished.sums)
        step = self._last["step"]
        self.event("step", **self._last)
        if step % self._log_every == 0:
            loggers.feed(self._loggers, step, self._last)
        if compared := self.speed.after_step(self._last["tokens_per_second"]):
            self.event("note", **compared)
        usual = self.spikes.usual(self._last["loss"])
        if usual is not None:
            self.event("spike", step=step, loss=self._last["loss"], usual=usual)

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        # Lightning weighs by the batch before, which NeMo's loop leaves it: the first would count as one sample, each
        # other as a micro batch
        trainer._results.batch = None

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._beat(trainer)

    def _beat(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            self.heartbeat.beat()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.write_pending()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._val_loss = _number(trainer.callback_metrics.get("val_loss"))
        values = {"val_loss": self._val_loss} | ({"set_losses": self.set_losses} if self.set_losses else {})
        self.event("validation", step=trainer.global_step, **values)
        loggers.feed(self._loggers, trainer.global_step, values)
        self._clock.restart()

    def finish(self, reason: str = "finished") -> None:
        """Write the end event and summary.json.

        W&B may be long about its end: it comes first, so that its words do too, but not in a run that was asked to stop:
        that has little time, and Slurm's script looks for the end in the last line.
        """
        self.write_pending()
        if reason == "finished":
            self._close_loggers(self.note)
        self.event("end", step=self._last.get("step"), reason=reason)
        if int(os.environ.get("RANK", "0")) == 0:
            metrics.write_summary(self.plan, reason)
            if without_launcher():  # one on this machine writes the last report itself
                self.report.finish(LAST_REPORT_SECONDS)
        if reason != "finished":
            self._close_loggers(functools.partial(print, file=self.console, flush=True))

    def _close_loggers(self, say: Callable[[str], None]) -> None:
        loggers.close(self._loggers)
        for word in loggers.words(self._loggers):
            say(word)

    def resume_clock(self) -> None:
        """Leave what has just been done (a save) out of the next step's time."""
        self._clock.restart()


def _number(value: Any) -> float | None:
    """A metric as a number; None where there is none, or one that JSON has no word for."""
    return float(value) if value is not None and math.isfinite(value) else None


class SlowProducts(pl.Callback):
    """Products of the run's precision through fp32 on CPUs where they are slow. Rank 0 measures, and all ranks do as it found:
    the ranks of one run may have unlike CPUs, and each must round as its peers do."""

    def __init__(self, plan: Plan, run_log: RunLog):
        self.types = {"32": (), "16-mixed": ("fp16",)}.get(plan.settings.precision or "", ("bf16",))
        self.run_log = run_log

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        found = [products.slow_types(self.types) if trainer.is_global_zero else {}]
        dist.broadcast_object_list(found, src=0)
        products.compute_in_fp32(found[0])
        if found[0]:
            print(products.words(found[0]), flush=True)  # to the rank's own log
            self.run_log.note(products.words(found[0]))


class MissedValidation(pl.Callback):
    """Validates the step that a run resumes from when the start before was ended between its save and its validation.

    Where that is the last step, nothing else is left to do.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self.looked = False

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        replace(find("training.callbacks:never_skipped"))

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._look(trainer)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._look(trainer)  # no epoch began: no step was left

    def _look(self, trainer: pl.Trainer) -> None:
        step = trainer.global_step
        if self.looked:
            return
        self.looked = True
        # how good the model is at each validation set before it is trained: what it forgets is seen against that
        at_first = step == 0 and bool(self.plan.validation_sets)
        if not at_first and not self.plan.schedule.validates(step):
            return
        missed = [trainer.is_global_zero and not metrics.validated(self.plan.folder, step)]
        dist.broadcast_object_list(missed, src=0)
        if missed[0]:  # as Lightning does between two steps
            trainer.validating = True
            loop = trainer.fit_loop.epoch_loop.val_loop
            loop.restarting = False  # else it goes on where the last validation in the checkpoint ended: at its end
            loop.run()
            trainer.training = True


def never_skipped(original: Any) -> Any:
    """Lightning's fit loop calls the hooks of a training that has no step left too."""
    return property(lambda loop: False)


class Stopper(pl.Callback):
    """SIGTERM, SIGINT or SIGUSR1 to any rank: all ranks finish the step, save and leave with exit code STOPPED.

    A validation is left where it is; the next start makes it again. A second signal changes nothing, as Slurm sends one at the time
    limit to a run that may still be saving: who wants the ranks gone at once (launcher, Slurm) kills them.
    """

    def __init__(self, run_log: RunLog, attempt: Path):
        self.run_log = run_log  # Lightning puts a method of its own at `log`
        self.attempt = attempt
        self.asked = 0
        self.group: Any = None

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        self._listen()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._listen()  # again: Lightning has put its own SIGTERM handler in front, which raises in a validation
        # a group of its own on the CPU: asking costs no GPU synchronisation
        self.group = dist.new_group(backend="gloo")

    def _listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.asked = self.asked or number

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step < trainer.max_steps:  # after the last step it ends by itself, or in the last validation
            self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        asked = torch.tensor([self.asked])
        dist.all_reduce(asked, op=dist.ReduceOp.MAX, group=self.group)
        if not int(asked):
            return
        self.run_log.write_pending()
        number = launchers_signal(self.attempt) or int(asked)
        self.run_log.event("stopping", step=trainer.global_step, signal=number)
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.reset()  # a validation under way starts again from the beginning
        saver = trainer.checkpoint_callback
        assert isinstance(saver, Checkpoints)
        saver.last_save = True
        saver.save_now(trainer)
        saver.wait(trainer)
        self.run_log.finish("stopped")
        dist.barrier(group=self.group)
        scratch.leave_sockets()
        os._exit(STOPPED)  # no destructor may hang on a collective whose peers are gone
