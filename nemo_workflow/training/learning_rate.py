"""The learning rate in the ranks: schedules that no recipe of NeMo's has, and rates that follow the flags after a resume."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from nemo.lightning.pytorch.optim.base import LRSchedulerModule
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nemo_workflow.config import schedule
from nemo_workflow.config.plan import Plan
from nemo_workflow.training.callbacks import RunLog

REMEMBERED = ("last_epoch", "_step_count", "_last_lr")
MARK = "planned"  # in a checkpoint: the rate was ours, whatever reads it back


class PlannedRate(LRScheduler):
    """The rates that the plan shows, from the one formula. A checkpoint holds only the step: flags say the rest."""

    def __init__(self, optimizer: Optimizer, planned: schedule.Schedule):
        self.schedule = planned
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        return [schedule.rate_at(self.schedule, self.last_epoch)] * len(self.optimizer.param_groups)

    def state_dict(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in REMEMBERED} | {MARK: True}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also of NeMo's schedulers: a run may change from one to another."""
        for name in REMEMBERED:
            setattr(self, name, state_dict[name])


class PlannedSchedule(LRSchedulerModule):
    """NeMo's place for a scheduler. Set after the optimizer is built, so that no checkpoint names it."""

    def __init__(self, planned: schedule.Schedule):
        super().__init__()
        self.planned = planned

    def scheduler(self, model: Any, optimizers: Any) -> dict[str, Any]:
        """Lightning's form of a scheduler that follows steps."""
        made = {"scheduler": PlannedRate(optimizers, self.planned), "interval": "step", "frequency": 1}
        return {"optimizer": optimizers, "lr_scheduler": made, "monitor": "val_loss"}


def install(optim: Any, plan: Plan) -> None:
    """Give NeMo's optimizer module the planned schedule where --lr-schedule or --decay-from asks for one."""
    if plan.schedule.kind is not None:
        optim.lr_scheduler = PlannedSchedule(plan.schedule)


class Schedule(pl.Callback):
    """After a resume, learning rate, weight decay and betas follow the flags.

    A checkpoint holds the scheduler's and the optimizer's settings and puts them back; unchanged flags give the same
    numbers, so that this changes nothing unless a flag has changed.
    """

    def __init__(self, plan: Plan, run_log: RunLog):
        self.plan = plan
        self.run_log = run_log

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        planned = self.plan.schedule
        for configured in trainer.lr_scheduler_configs:
            scheduler = configured.scheduler
            asked = {
                "max_steps": planned.max_steps,
                "warmup_steps": planned.warmup_steps,
                "constant_steps": planned.constant_steps,
                "decay_steps": planned.max_steps - planned.constant_steps - planned.warmup_steps,
                "min_lr": planned.min_lr,
                "base_lrs": [planned.lr] * len(getattr(scheduler, "base_lrs", [])),
            }
            changed = {k: v for k, v in asked.items() if hasattr(scheduler, k) and getattr(scheduler, k) != v}
            ours = isinstance(scheduler, PlannedRate) or hasattr(scheduler, MARK)
            if trainer.global_step > 0 and (changed or ours):
                self._follow(scheduler, changed)
        for name, flag in (("weight_decay", "weight_decay"), ("betas", "adam_beta1")):
            self._set_groups(trainer, name, flag)

    def _follow(self, scheduler: Any, changed: dict[str, Any]) -> None:
        before = scheduler.get_last_lr()[0]
        vars(scheduler).update(changed)
        scheduler._get_lr_called_within_step = True
        rates = scheduler.get_lr()
        scheduler._get_lr_called_within_step = False
        for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = rates
        was, now = f"{before:.3g}", f"{rates[0]:.3g}"
        if was != now:
            self.run_log.note(f"the learning rate goes from {was} to {now}: its flags, or --max-steps, have changed")

    def _set_groups(self, trainer: pl.Trainer, name: str, flag: str) -> None:
        if flag not in self.plan.given:
            return
        settings = self.plan.settings
        for group in trainer.optimizers[0].param_groups:
            if name == "betas" and name in group:
                second = settings.adam_beta2
                group["betas"] = (settings.adam_beta1, group["betas"][1] if second is None else second)
            elif name in group:
                group[name] = settings.weight_decay * group.get("wd_mult", 1.0)
