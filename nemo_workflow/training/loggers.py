"""TensorBoard and Weights & Biases: the run's own numbers under the same names, each step once. Only in the workers.

Lightning would log NeMo's metrics under steps that are one behind, and those of a validation under yet another. So the
loggers leave out what RunLog measures too, and RunLog feeds them (`feed`) with the numbers of metrics.jsonl.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from nemo_workflow.config.checks.outputs import wandb_logged_in
from nemo_workflow.config.plan import Plan
from nemo_workflow.run_dir import metrics as events
from nemo_workflow.run_dir.config_yaml import config_of
from nemo_workflow.run_dir.metric_table import LOGGER_NAMES, logged
from nemo_workflow.training import wandb_file
from nemo_workflow.utils.files import write_json

AXIS = "trainer/global_step"  # Lightning's name of the step in W&B
ONLINE = "wandb"
LEFT_OUT = {  # what NeMo logs of the same numbers
    *LOGGER_NAMES.values(), "step", "global_step", "epoch", "global_batch_size", "train_step_timing in s",
    "validation_step_timing in s",
}  # fmt: skip
ID_FILE = "wandb.json"
PROJECT = "pretrain_llm"
SERVER = "https://api.wandb.ai"
REACH_SECONDS = 5.0  # for the server to answer before the run is logged offline
LIMITS = {  # W&B's own settings: for the server to open the run, and to take what is left at the end (90 and ever)
    "init_timeout": 30.0,
    "finish_timeout": 45.0,
    "finish_timeout_raises": True,
}


class RunTensorBoard(TensorBoardLogger):
    """TensorBoard files in <run>/tensorboard. A start that repeats steps hides the older ones (purge_step)."""

    kind = "tensorboard"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """What Lightning logs, without the run's own numbers."""
        rest = _without_ours(metrics)
        if rest:
            super().log_metrics(rest, step)

    def feed(self, metrics: Mapping[str, float], step: int) -> None:
        super().log_metrics(metrics, step)

    def close(self) -> None:
        self.finalize("finished")


class RunWandb(WandbLogger):
    """One W&B run for all starts of a run. Where the server can't be had it logs to files, and `word` says so."""

    def __init__(self, logged: Iterable[tuple[str, int]] = (), **arguments: Any):
        super().__init__(**arguments)
        self.logged = set(logged)  # (metric, step) of earlier starts
        self.word = ""  # what the user should know and has not been told
        self.failed = False

    @property
    def kind(self) -> str:
        """As the start event names it."""
        return "wandb offline" if self._wandb_init.get("mode") == "offline" else ONLINE

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, begun at the first call."""
        import wandb

        if self._experiment is None:
            # for its own debugging, with the run's other files of W&B and not in the home
            os.environ.setdefault("WANDB_CACHE_DIR", str(Path(str(self._save_dir)) / "wandb"))
            known = getattr(wandb.Settings, "model_fields", {})  # NVIDIA's containers have older ones
            self._wandb_init["settings"] = {name: value for name, value in LIMITS.items() if name in known}
            why = why_offline()
            try:
                if not why:
                    return WandbLogger.experiment.fget(self)
            except (wandb.Error, OSError) as error:
                wandb.teardown()
                why = _first_line(error)
            self._wandb_init["mode"] = "offline"
            self.word = f"W&B: {why}, so the run is logged to files; later: {self._sync('offline-run')}"
        return WandbLogger.experiment.fget(self)

    def _sync(self, kind: str) -> str:
        """The command that uploads the files of this run."""
        return f"wandb sync --id {self._id} {Path(str(self._save_dir)) / 'wandb' / f'{kind}-*-{self._id}'}"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """What Lightning logs, without the run's own numbers."""
        self.feed(_without_ours(metrics), step)

    @rank_zero_only
    def feed(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Log what is not there yet; a failure of W&B ends the logging, never the training."""
        new = {name: value for name, value in metrics.items() if (name, step) not in self.logged}
        if not new or self.failed:
            return
        self.logged.update((name, step) for name in new if step is not None)
        try:
            super().log_metrics(new, step)
        except Exception as error:  # noqa: BLE001
            self.failed = True
            self.word = f"W&B failed and gets nothing more of this run: {error}"

    def close(self) -> None:
        """Hand over what is left; a server that has gone away holds the end up for LIMITS' seconds at most."""
        if self._experiment is None:
            return
        try:
            self._experiment.finish()
        except Exception as error:  # noqa: BLE001
            self.word = f"W&B did not take all of the run ({_first_line(error)}); later: {self._sync('run')}"


def tensorboard(plan: Plan, resumed_at: int | None) -> dict[str, Any]:
    """Arguments of RunTensorBoard."""
    purge = {} if resumed_at is None else {"purge_step": resumed_at + 1}
    return {"save_dir": str(plan.folder), "name": "tensorboard", "version": "", "default_hp_metric": False, **purge}


def wandb(plan: Plan) -> dict[str, Any]:
    """Arguments of RunWandb. The id is the run folder's own, kept in wandb.json; only rank 0 writes it."""
    leading = int(os.environ.get("RANK", "0")) == 0
    return {
        "project": plan.settings.wandb_project or os.environ.get("WANDB_PROJECT") or PROJECT,
        "name": plan.settings.wandb_name or plan.settings.experiment,
        "id": run_id(plan.folder) if leading else None,
        "save_dir": str(plan.folder),
        "config": config_of(plan),
        "logged": sorted(logged_before(plan.folder)) if leading else [],
    }


def run_id(folder: Path) -> str:
    """The W&B id of a run: the same for all its starts."""
    import secrets

    path = folder / ID_FILE
    if not path.exists():
        write_json(path, {"id": secrets.token_hex(4)})
    return str(json.loads(path.read_text(encoding="utf-8"))["id"])


def logged_before(folder: Path) -> set[tuple[str, int]]:
    """(metric, step) that W&B has: what the offline files hold, and what starts that reached the server recorded."""
    found = {
        (name, int(row[AXIS]))
        for path in folder.glob("wandb/offline-run-*/run-*.wandb")
        for row in wandb_file.history(path)
        for name in row
        if AXIS in row
    }
    online = False
    for event in events.read(folder / events.FILE):
        if event["event"] == "start":
            online = ONLINE in event.get("loggers", ())
        elif online and event["event"] in ("step", "validation"):
            found.update((name, event["step"]) for name in _metrics(event))
    return found


def why_offline() -> str:
    """Why W&B can't be reached or isn't wanted, or ''."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        return f"WANDB_MODE is {mode}"
    if not os.environ.get("WANDB_API_KEY") and not wandb_logged_in():
        return "no key (WANDB_API_KEY)"
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or SERVER)
    if urllib.request.getproxies().get(server.scheme):
        return ""  # a proxy has its own ways
    query = json.dumps({"query": "query { serverInfo { __typename } }"}).encode()
    try:
        address = f"{server.geturl().rstrip('/')}/graphql"
        request = urllib.request.Request(address, query, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=REACH_SECONDS).close()
    except urllib.error.HTTPError as error:
        return f"{server.hostname} answers {error.code}" if error.code >= 500 else ""  # the rest is for W&B to judge
    except (OSError, ValueError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        if not isinstance(cause, ssl.SSLError):  # W&B may know other certificates
            return f"{server.hostname or server.geturl()} can't be reached ({cause})"
    return ""


# -- what RunLog calls ------------------------------------------------------------------------------------------------


def feed(loggers: Iterable[Any], step: int, values: Mapping[str, Any]) -> None:
    """Log a step's numbers (fields of a step event), or {"val_loss": …}, to our loggers."""
    metrics = _metrics(values)
    for logger in loggers:
        if isinstance(logger, RunTensorBoard | RunWandb):
            logger.feed(metrics, step)


def catch_up(loggers: Iterable[Any], folder: Path, step: int) -> None:
    """Log to W&B what it lacks of the steps up to `step`: of a start that was killed, or had no --wandb."""
    for logger in loggers:
        if isinstance(logger, RunWandb):
            for event in events.effective(events.read(folder / events.FILE)):
                if event["event"] in ("step", "validation") and event["step"] <= step:
                    logger.feed(_metrics(event), event["step"])


def names(loggers: Iterable[Any]) -> list[str]:
    """Which loggers there are, for the start event."""
    return [logger.kind for logger in loggers if isinstance(logger, RunTensorBoard | RunWandb)]


def words(loggers: Iterable[Any]) -> list[str]:
    """What the user should know of them, each once."""
    found = []
    for logger in loggers:
        if isinstance(logger, RunWandb) and logger.word:
            found.append(logger.word)
            logger.word = ""
    return found


def close(loggers: Iterable[Any]) -> None:
    """Write what is left: a run that is stopped ends without Python's own clean-up."""
    for logger in loggers:
        if isinstance(logger, RunTensorBoard | RunWandb):
            logger.close()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """A step's or a validation's numbers under the loggers' names."""
    return logged(dict(values))


def _without_ours(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in LEFT_OUT}
