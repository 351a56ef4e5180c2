"""What a run's folder tells about the run, wherever the folder lies now."""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from nemo_workflow.run_dir import metrics, slurm_jobs, starting
from nemo_workflow.run_dir.checkpoints import list_checkpoints, newest_whole, problem_of, save_under_way
from nemo_workflow.run_dir.export_process import EXPORTED, is_exported
from nemo_workflow.run_dir.rank_errors import errors_of
from nemo_workflow.run_dir.stopping import asked_at, asked_by, launchers_signal, orphaned, what_is_saved
from nemo_workflow.utils.errors import STOPPED
from nemo_workflow.utils.files import absolute
from nemo_workflow.utils.folder_kinds import PLAN
from nemo_workflow.utils.processes import signal_name

QUIET_SECONDS = 120.0  # a run of another machine that has written nothing for so long, or
QUIET_STEPS = 20  # for so many of its steps, or
QUIET_SAVE_SECONDS = 3600.0  # in a save, or in a start without a first step, is over
WORDLESS = "ended from outside"  # of a start that wrote no end: all its processes were killed, or the power went


@dataclass(frozen=True)
class State:
    """`name` is running, finished, stopped, failed, killed or new; `why` a sentence, or empty."""

    name: str
    why: str = ""


class RunFolder:
    """A run by its files. `locked` asks which process of this machine holds the run, `ranks` which one of its ranks lives.

    None: nobody does.
    """

    def __init__(
        self,
        path: Path,
        locked: Callable[[Path], int | None] | None = None,
        ranks: Callable[[Path], int | None] | None = None,
    ):
        self.path = absolute(path)
        self._locked, self._ranks = locked, ranks

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def plan(self) -> dict[str, Any]:
        """plan.json, or {} where it is missing or damaged."""
        return _json(self.path / PLAN)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json of the last start that came to an end."""
        return _json(self.path / metrics.SUMMARY)

    @cached_property
    def last(self) -> dict[str, dict[str, Any]]:
        """The last event of each kind."""
        return metrics.last(self.path / metrics.FILE)

    @cached_property
    def every_event(self) -> list[dict[str, Any]]:
        return metrics.read(self.path / metrics.FILE)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """The events that count: without the steps that a later start repeated."""
        return metrics.effective(self.every_event)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.history if event["event"] == kind]

    @property
    def max_steps(self) -> int:
        return int(self.plan.get("schedule", {}).get("max_steps") or self.last.get("start", {}).get("max_steps") or 0)

    @property
    def step(self) -> int:
        """Steps done; where a start goes on from an earlier step than the last one seen, that one."""
        step, start = self.last.get("step"), self.last.get("start")
        if start and (step is None or start["time"] > step["time"]):
            return int(start["step"])
        return int(step["step"]) if step else 0

    def newest(self, kind: str) -> dict[str, Any]:
        """The last event of a kind that is not after the step where the run stands; empty where there is none."""
        last = self.last.get(kind, {})
        if not last or last["step"] <= self.step:
            return last
        before = (one for one in reversed(self.every_event) if one["event"] == kind and one["step"] <= self.step)
        return next(before, {})

    @property
    def tokens_a_step(self) -> int:
        return int(self.plan["settings"]["global_batch_size"] * self.plan["seq_length"]) if self.plan else 0

    @property
    def changed(self) -> float | None:
        """When the run was last started, asked to stop, or wrote an event, in seconds since the epoch."""
        asked = asked_at(self.attempts[-1]) if self.attempts else None
        return max(filter(None, (self._heard, asked)), default=None)

    @cached_property
    def _heard(self) -> float | None:
        """When it was last started or wrote an event itself."""
        launched = [self.launched.time] if self.launched else []
        return max((*(event["time"] for event in self.last.values()), *launched), default=None)

    @cached_property
    def launched(self) -> starting.Launch | None:
        """When and where its newest start was launched."""
        return starting.launch_of(self.attempts[-1]) if self.attempts else None

    @cached_property
    def trained(self) -> bool:
        """Whether the newest start has come as far as to train; of one that wrote nothing about its launch, whether any has."""
        if not self.launched or not (self.attempts[-1] / starting.FILE).exists():
            return bool(self.last)
        return "start" in self.last and bool(self.last["start"]["time"] >= self.launched.time)

    @cached_property
    def job(self) -> slurm_jobs.Job | None:
        """The Slurm job of the newest start, if it is one."""
        name = self.attempts[-1].name.partition("-restart")[0] if self.attempts else ""
        found = slurm_jobs.jobs_of(self.path) if (self.path / "attempts" / name / slurm_jobs.FILE).is_file() else []
        return found[-1] if found else None

    @cached_property
    def attempts(self) -> list[Path]:
        """The folders of its starts, oldest first."""
        return starting.folders_of(self.path)

    @cached_property
    def state(self) -> State:
        """Where the run stands, and why it stopped."""
        end, start, step = (self.last.get(kind) for kind in ("end", "start", "step"))
        begun_again = self._locked is not None and self._locked(self.path) is not None
        is_last = end and (start is None or end["time"] >= start["time"]) and (self.trained or self.job)
        if end and is_last and (not begun_again or self._exporting):
            return self._ended(end, begun_again)
        told = starting.failure_of(self.attempts[-1]) if self.attempts else ""
        if failure := self._failure(begun_again, told):
            return failure
        if begun_again:
            return State("failed", told) if told and not self._launched_again() else State("running")
        if self._ranks is not None and self._ranks(self.path) is not None:
            return State("running", "its launcher was killed: its ranks save and stop")
        if not self.trained and self.attempts and not (self.job and self.last):
            return self._not_trained_yet(self.job) if self.job else self._never_trained(self.attempts[-1])
        if not self.last:
            return State("new", "no step was made")
        here = start is not None and start.get("machine", {}).get("host") == platform.node()
        quiet = time.time() - (self._heard or 0)  # of another machine, whose locks can't be seen from here
        patience = max(QUIET_SECONDS, QUIET_STEPS * step["seconds"] if step else 0.0)
        if save_under_way(self.path / "checkpoints"):  # or its writer has died in it
            patience = max(patience, QUIET_SAVE_SECONDS)
        if not here and quiet < patience:
            return State("running")
        if told:
            return State("failed", told)  # a rank that was killed has left no error of its own
        number = launchers_signal(self.attempts[-1]) if self.attempts else None
        if number and start and (not step or step["time"] < start["time"]):
            return self._before_a_step(number, "in the middle of its first step")
        return State("killed", self._last_word())

    @property
    def _exporting(self) -> bool:
        """Whether the export after the training has begun, and nothing has been heard of its end."""
        begun, end, export = (self.last.get(kind, {}).get("time", 0.0) for kind in ("exporting", "end", "export"))
        return bool(begun > max(end, export))

    def _launched_again(self) -> bool:
        """Whether who holds the run began after its newest start had failed, and is about to make the next one."""
        holder = self._locked(self.path) if self._locked else None
        with contextlib.suppress(psutil.Error, OSError):
            failed = (self.attempts[-1] / starting.FAILED).stat().st_mtime
            return holder is not None and psutil.Process(holder).create_time() > failed
        return True

    def _before_a_step(self, number: int, when: str = "before the first step") -> State:
        saved = what_is_saved(self.path, self.step)
        return State("stopped", f"{when} ({asked_by(self.attempts[-1], number)}): {saved}")

    def _failure(self, begun_again: bool, told: str) -> State | None:
        """What the ranks' errors of the newest start say, if there are any; `told` is what its launcher said of its end."""
        errors = errors_of(self.attempts[-1]) if self.attempts else []
        if not errors:
            return None
        if " was ended by SIG" in told:  # the others' errors are that they lost it
            return State("failed", told)
        lost = errors[0].lost_peer
        if lost and begun_again:  # and will say by what, when it has
            return State("failed", "a rank was lost: its launcher is ending the others")
        if lost and not told:
            return State("killed", f"a rank or its launcher was ended: {what_is_saved(self.path, self.step)}")
        return State("failed", f"rank{errors[0].rank}: {errors[0].message}")

    def _ended(self, end: dict[str, Any], held: bool) -> State:
        """How the newest start that trained came to its end; `held`: its launcher still works on the run."""
        if end["reason"] == "finished":
            return State("finished", f"reached step {end['step']}{self._not_exported(end, held)}")
        if self.attempts and orphaned(self.attempts[-1]):
            return State("stopped", f"its launcher was killed: {what_is_saved(self.path, self.step)}")
        asked = self.last.get("stopping")
        number = asked["signal"] if asked and asked["time"] >= end["time"] - 3600 else None
        by = number and (asked_by(self.attempts[-1], number) if self.attempts else signal_name(number))
        return State("stopped", f"asked to ({by})" if by else "asked to")

    def _not_exported(self, end: dict[str, Any], held: bool) -> str:
        """'; not exported: WHY' where the export after the training came to nothing, and there is none."""
        if self._exporting and held:
            return "; its model is being exported"
        export, folder = self.last.get("exporting" if self._exporting else "export"), self.path / EXPORTED
        problem = export and export.get("problem", WORDLESS)
        if not export or not problem or export["time"] < end["time"]:
            return ""
        newest, _ = newest_whole(self.path / "checkpoints")
        done = newest is not None and not export.get("hub") and is_exported(folder, newest)
        return "" if done else f"; not exported: {problem}"

    def _never_trained(self, attempt: Path) -> State:
        """What became of a newest start that wrote no event, whose launcher and ranks aren't seen."""
        saved = what_is_saved(self.path, self.step)
        if number := launchers_signal(attempt):
            return self._before_a_step(number)
        if failure := starting.failure_of(attempt):
            return State("failed", failure)
        host = self.launched.host if self.launched else ""
        if host not in ("", platform.node()) and time.time() - (self._heard or 0) < QUIET_SAVE_SECONDS:
            return State("running", f"its ranks start on {host}")
        return State("killed", f"while its ranks were starting: {saved}")

    def _not_trained_yet(self, job: slurm_jobs.Job) -> State:
        """What is known here, without asking Slurm, of a job of a run without any event."""
        code = job.exit_code(job.restarts)
        if code is None:
            return State("new", f"Slurm job {job.job_id} was submitted; no step was made")
        if code == STOPPED:
            return State("stopped", f"before the first step: {what_is_saved(self.path, 0)}")
        return State("failed", f"Slurm job {job.job_id} ended with exit code {code} before the first step")

    def _last_word(self) -> str:
        """What is known of a start that wrote no end."""
        newest = self.attempts[-1] if self.attempts else None
        number = launchers_signal(newest) if newest else None
        what = f"ended after {asked_by(newest, number)}" if newest and number else WORDLESS
        if newest and orphaned(newest):
            what = "its launcher was killed"
        return f"{what}: {what_is_saved(self.path, self.step)}"

    def checkpoints(self) -> list[dict[str, Any]]:
        """Every checkpoint ever saved: step, bytes, seconds, time, and whether it is here now and whole."""
        here = {checkpoint.step: checkpoint for checkpoint in list_checkpoints(self.path / "checkpoints")}
        found: dict[int, dict[str, Any]] = {}
        for event in self.of_kind("checkpoint"):
            found[event["step"]] = {key: event.get(key) for key in ("step", "bytes", "seconds", "time")}
        for step in here:
            found.setdefault(step, {"step": step, "bytes": here[step].size, "seconds": None, "time": None})
        for step, entry in found.items():
            entry["state"] = (problem_of(here[step]) or "whole") if step in here else "removed"
        return [found[step] for step in sorted(found)]

    def starts(self) -> list[dict[str, Any]]:
        """Each start: when, after which step, seconds of set-up, steps done, and how it ended."""
        found: list[dict[str, Any]] = []
        for event in self.every_event:
            if event["event"] == "start":
                found.append({**event, "last_step": event["step"], "end": WORDLESS})
            elif found and event["event"] == "step":
                found[-1]["last_step"] = event["step"]
            elif found and event["event"] == "end":
                found[-1]["end"] = event["reason"]
            elif found and event["event"] == "restart":
                found[-1]["end"] = event["text"]
        if found and self.state.name in ("running", "failed") and found[-1]["end"] == WORDLESS:
            found[-1]["end"] = self.state.name
        for start in found:
            if start["end"] in (WORDLESS, "failed"):
                start["end"] = self._end_told(start["time"]) or start["end"]
        if found and found[-1]["end"] == WORDLESS and self.state.why.startswith("ended after "):
            found[-1]["end"] = self.state.why.partition(":")[0]
        return found

    def never_trained(self) -> tuple[float, str] | None:
        """When the newest start was launched, and how it ended, where that was before it trained: `starts` has none of it."""
        if not self.launched or self.trained or self.state.name not in ("stopped", "failed", "killed"):
            return None
        why = self.state.why if self.state.name == "failed" else self.state.why.partition(":")[0]
        return self.launched.time, f"{self.state.name} {why}"

    def _end_told(self, began: float) -> str:
        """What a start that began then left about its end, beside its events; empty where nobody could."""
        launches = ((attempt, starting.launch_of(attempt)) for attempt in self.attempts)
        before = [attempt for attempt, launch in launches if launch and launch.time <= began]
        if not before:
            return ""
        if failure := starting.failure_of(before[-1]):
            return failure
        if number := launchers_signal(before[-1]):
            return f"ended after {asked_by(before[-1], number)}"
        return "its launcher was killed" if orphaned(before[-1]) else ""

    def versions(self) -> dict[str, str]:
        """Of the newest start, by name: the ranks', and the launcher's and the plan's where they are others."""
        if not self.attempts:
            return dict(self.summary.get("versions", {}))
        launcher = _json(self.attempts[-1] / metrics.VERSIONS)
        ranks = _json(self.attempts[-1] / metrics.RANK_VERSIONS) or launcher
        found = {}
        for name in {**launcher, **ranks}:
            here, there = launcher.get(name, "none"), ranks.get(name, "none")
            found[name] = here if here == there else f"{there} in the ranks, {here} where it was launched"
        planned = self.plan.get("nemo")
        if planned and ranks.get("nemo_toolkit", planned) != planned:
            found["nemo_toolkit"] += f"; planned with the recipes of {planned}"
        return found

    def config(self) -> dict[str, Any]:
        """config.yaml: the flags."""
        import yaml

        try:
            loaded = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            return {}
        return loaded if isinstance(loaded, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
