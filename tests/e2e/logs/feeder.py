"""Feeds TensorBoard and W&B as a training does. Each training is a fork of this process: importing Lightning takes 5 s.

A line on stdin asks for one: {"work": [folder, first step, last step, how it ends], "environment": {...}}. Answered are its exit
code, what it printed, and its errors.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from nemo_workflow.config.plan import Plan
from nemo_workflow.training import loggers
from tests.runs import fake_runs
from tests.waiting import LIMIT


def feed(folder: Path, first: int, upto: int, how: str) -> None:
    """Make the steps from `first` to `upto`, and end: killed, stopped, or deserted by the server."""
    plan = Plan.from_json((folder / "plan.json").read_text())
    if how != "deserted":  # a busy machine may keep W&B's own process longer than a user is to wait
        loggers.LIMITS |= {"init_timeout": LIMIT, "finish_timeout": LIMIT}
    both = [
        loggers.RunTensorBoard(**loggers.tensorboard(plan, first - 1 if first > 1 else None)),
        loggers.RunWandb(**loggers.wandb(plan)),
    ]
    for logger in both:
        logger.log_hyperparams({})
    happened = fake_runs.history(plan, upto, first)
    happened[0]["loggers"] = loggers.names(both)
    for event in happened:
        fake_runs.append(plan, [event])
        if event["event"] == "start":
            loggers.catch_up(both, folder, event["step"])
        if event["event"] == "step":
            stale = {"reduced_train_loss": -1.0, "global_step": event["step"] - 1, "aux": 0.5}
            for logger in both:  # as Lightning does it, one behind
                logger.log_metrics(stale, event["step"])
            loggers.feed(both, event["step"], event)
        if event["event"] == "validation":
            loggers.feed(both, event["step"], {"val_loss": event["val_loss"]})
    print(*loggers.words(both), sep="\n", flush=True)
    if how == "killed":
        time.sleep(3)  # W&B's own process writes the file
        os.kill(os.getpid(), 9)
    if how == "deserted":
        urllib.request.urlopen(os.environ["WANDB_BASE_URL"] + "/go-away").close()
    began = time.monotonic()
    loggers.close(both)
    print(f"held up {time.monotonic() - began:.0f} s")
    print(*loggers.words(both), sep="\n", flush=True)


def in_a_fork(work: tuple[str, int, int, str], environment: dict[str, str]) -> tuple[int, str, str]:
    """Exit code (75 where the training came to its end), stdout and stderr."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            os.environ.clear()
            os.environ.update(environment)
            try:
                feed(Path(work[0]), *work[1:])
            except BaseException:  # noqa: BLE001 - its code tells
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
                os._exit(1)
            os._exit(75)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        errors.seek(0)
        return code, out.read(), errors.read()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what else is printed here is no answer
    for line in sys.stdin:
        asked = json.loads(line)
        answers.write(json.dumps(in_a_fork(asked["work"], asked["environment"])) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
