"""A run's checkpoint as a Hugging Face model in its folder, proved; and its upload to the Hub."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemo_workflow.config.checks import outputs
from nemo_workflow.config.plan import Plan
from nemo_workflow.models import hub
from nemo_workflow.run_dir import export_process, metrics
from nemo_workflow.run_dir.checkpoints import Checkpoint, list_checkpoints, newest_whole, problem_of
from nemo_workflow.run_dir.export_process import EXPORTED, is_exported
from nemo_workflow.run_dir.report_process import Refresher
from nemo_workflow.runs import control
from nemo_workflow.utils.arguments import Parser, value_on_line
from nemo_workflow.utils.console import human_bytes
from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.files import script
from nemo_workflow.utils.meant import called
from nemo_workflow.utils.processes import run_passing_on, say_stopped, signal_name, why_ended

REPORT_SECONDS = 15.0
MEANINGS = called(
    {
        "--step": "iteration iter checkpoint epoch",
        "--push-to-hub": "hub-id hub-model-id repo-id push",
    },
    {
        "run source experiment name nemo-model run-dir": "the run stands by itself: python -m nemo_workflow.export RUN",
        "output output-path out out-dir output-folder save-dir hf-model target": f"it is written to {EXPORTED}/ in the run's folder;"
        f" {script('ckpt_conversion/convert_from_nemo2_to_hf.py')} --source CHECKPOINT --output-path DIR writes it anywhere",
        "overwrite force": "an older export is replaced by itself: leave it out",
        "latest newest best": "the newest checkpoint is taken by default, --step N takes another",
        "format quantize": "it is written as safetensors, as transformers reads them; llama.cpp's convert_hf_to_gguf.py makes GGUF of that folder",
        "private public": "a model that is new on the Hub is private: leave it out",
        "token hf-token hub-token": "the environment's HF_TOKEN is read, or that of `hf auth login`",
        "dtype precision tokenizer hf-tokenizer": "it is the run's own: leave it out",
    },
)
SILENT_SECONDS = (
    120.0  # without a byte from the Hub, or one that it takes; the Hub may need a minute for a large commit
)


def main() -> int:
    """`python -m nemo_workflow.export RUN`; prints what the export and the upload say."""
    parser = Parser(
        prog="python -m nemo_workflow.export",
        description=__doc__,
        meanings=MEANINGS,
        stands_for=lambda flag, value: {"RUN": value, "DIR": value, "CHECKPOINT": _newest_of(parser.word_alone())},
    )
    parser.there_are = {"RUN": control.there_are}
    parser.takes_no_word = {"": lambda word: "it takes one run at a time"}
    parser.add_argument("run", type=Path, help="folder of the run, or its name below --output-dir")
    parser.add_argument(
        "--output-dir",
        default=control.OUTPUT_DIR,
        metavar="DIR",
        help="folder of the experiments (default %(default)s)",
    )
    parser.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    parser.add_argument("--push-to-hub", metavar="ID", help="upload it as ORG/NAME, with HF_TOKEN or `hf auth login`")
    parser.add_argument("--beside-training", action="store_true", help="work at the lowest priority")
    parser.add_argument(
        "--after-training", action="store_true", help="of a training's own command, which has said what is exported"
    )
    arguments = parser.parse_args()
    if arguments.beside_training:
        os.nice(19)
    if arguments.push_to_hub and (wrong := list(outputs.upload(arguments.push_to_hub, outputs.token_here()))):
        raise Refusal(wrong)
    run = control.run_folder(arguments.run, arguments.output_dir)
    source = _checkpoint(run, arguments.step)
    folder, began = run / EXPORTED, time.monotonic()
    there = is_exported(folder, source)
    if there:
        print(already(folder, source))
    elif not arguments.after_training:
        print(exporting(folder, source), flush=True)
    try:
        if not there:
            from nemo_workflow.conversion.command import export_main

            words = ["--source", str(source.path), "--output-path", str(folder), "--overwrite"]
            if code := export_main(words):  # stopped by a signal
                return code
        if arguments.push_to_hub:
            print(push(folder, arguments.push_to_hub, f"step {source.step} of {run.absolute().name}"))
    except (Refusal, Failure) as failure:
        if arguments.after_training:
            _tell(run, source.step, time.monotonic() - began, str(failure), arguments.push_to_hub)
        raise
    if not arguments.beside_training and (arguments.push_to_hub or not there):  # a training tells of its own
        _tell(run, source.step, time.monotonic() - began, None, arguments.push_to_hub)
    return 0


def _tell(run: Path, step: int, seconds: float, problem: str | None, hub_id: str | None) -> None:
    """Write the export into the run's metrics.jsonl and report."""
    happened = export_process.event(run, step, seconds, problem, hub_id)
    metrics.event(run / metrics.FILE, "export", **happened)
    Refresher(run).finish(REPORT_SECONDS)


def _told(run: Path) -> int:
    """How many ends of exports are in the run's metrics.jsonl."""
    return sum(event["event"] == "export" for event in metrics.read(run / metrics.FILE))


def _newest_of(name: str) -> str:
    """The newest whole checkpoint of a run by its folder or name; '' where there is none."""
    with contextlib.suppress(Refusal, OSError):
        newest, _ = newest_whole(
            control.run_folder(Path(*shlex.split(name)), value_on_line("--output-dir", control.OUTPUT_DIR))
            / "checkpoints"
        )
        return shlex.quote(str(newest.path)) if newest else ""
    return ""


def _checkpoint(run: Path, step: int | None) -> Checkpoint:
    """The whole checkpoint of a step, or the newest. Raises Refusal."""
    folder = run / "checkpoints"
    if step is None:
        newest, _ = newest_whole(folder)
        if newest is None:
            of_step = run.parent.name == "checkpoints" and re.fullmatch(r"step_0*(\d+)", run.name)
            what = (
                f"is a checkpoint; give its run: python -m nemo_workflow.export {shlex.quote(str(run.parents[1]))} --step {of_step[1]}"
                if of_step
                else f"no whole checkpoint in {folder}; give the folder of a run that has saved one"
            )
            raise Refusal(f"{run}: {what}")
        return newest
    there = list_checkpoints(folder)
    found = next((one for one in there if one.step == step), None)
    if found is None or (problem := problem_of(found)):
        whole = sorted(one.step for one in there if one != found and not problem_of(one))
        others = ", ".join(f"{step:,}" for step in whole)
        raise Refusal(
            f"--step {step}: {problem if found else f'no such checkpoint in {folder}'};"
            f" {f'the others are of step {others}' if others else 'there is no other'}"
        )
    return found


def exporting(folder: Path, source: Checkpoint) -> str:
    """What is said before an export."""
    return f"exporting step {source.step} to {folder}"


def already(folder: Path, source: Checkpoint) -> str:
    """What is said instead of an export of the same checkpoint once more."""
    return f"step {source.step} is exported already: {folder}"


def push(folder: Path, hub_id: str, message: str) -> str:
    """Upload a model's folder as one commit; a model that is new is private. Returns its address. Raises Failure.

    The token is HF_TOKEN's or that of `hf auth login`, which huggingface_hub reads itself.
    """
    from huggingface_hub import HfApi, configure_http_backend, constants
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import get_session

    configure_http_backend(_sessions_with_a_limit())
    api = HfApi()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"uploading {human_bytes(size)} to {constants.ENDPOINT}/{hub_id}", flush=True)
    try:
        get_session().head(constants.ENDPOINT, timeout=hub.SECONDS)
        api.create_repo(hub_id, private=True, exist_ok=True)
        done = api.upload_folder(repo_id=hub_id, folder_path=folder, commit_message=message)
    except (HfHubHTTPError, OSError, ValueError) as error:
        why = hub.reason(error)
        raise Failure(
            f"--push-to-hub {hub_id}: not uploaded: {why}; the model is in {folder}, and"
            f" `hf upload {hub_id} {shlex.quote(str(folder))} .` does it later"
        ) from None
    return f"uploaded to {done.repo_url}"


def _sessions_with_a_limit() -> Callable[[], Any]:
    """What makes the Hub's client a session that waits SILENT_SECONDS at most for the network; by itself it waits for ever.

    What goes over Xet has limits of its own (hf_xet, HF_XET_CLIENT_READ_TIMEOUT).
    """
    import requests

    class Limited(requests.Session):
        def request(self, *arguments: Any, **named: Any) -> requests.Response:
            named["timeout"] = named.get("timeout") or SILENT_SECONDS
            return super().request(*arguments, **named)

    return Limited


def after_training(plan: Plan) -> None:
    """Export the newest checkpoint in a process of its own, and upload it with --push-to-hub.

    The ranks have ended, so that the machine's memory and GPUs are free for it. Raises Failure where that can't be had;
    the training's own files stay as they are.
    """
    flag, what = ("--export-hf", "model") if plan.settings.export_hf else ("--sample", "text")
    newest, _ = newest_whole(plan.folder / "checkpoints")
    if newest is None:
        raise Failure(f"{flag}: no whole checkpoint in {plan.folder / 'checkpoints'}")
    hub_id, began = plan.settings.push_to_hub, time.monotonic()
    if is_exported(plan.folder / EXPORTED, newest) and not hub_id:
        print(already(plan.folder / EXPORTED, newest), flush=True)
        return
    metrics.event(plan.folder / metrics.FILE, "exporting", step=newest.step)
    print(exporting(plan.folder / EXPORTED, newest), flush=True)
    more = ["--push-to-hub", hub_id] if hub_id else []
    before = _told(plan.folder)
    words = export_process.command(plan.folder, newest.step, "--after-training", *more)
    code, signalled = run_passing_on(words, env=export_process.environment())
    problem = None if not code else why_ended(code) if code < 0 else "its own words stood in the terminal"
    done = is_exported(plan.folder / EXPORTED, newest) and not hub_id  # though its process was still ending
    if signalled:
        problem = None if done else f"stopped by {signal_name(signalled)}"
    if problem and (signalled or _told(plan.folder) == before):  # else the export has said itself what it stumbled over
        _tell(plan.folder, newest.step, time.monotonic() - began, problem, hub_id)
    if signalled:
        sys.exit(say_stopped(signalled, _left_by_a_stop(plan, newest.step, done)))
    if code:
        raise Failure(f"{flag}: no {what}, {why_ended(code)}; the training is done, step {newest.step} is saved")


def _left_by_a_stop(plan: Plan, step: int, exported: bool) -> str:
    """What is there after a signal, and what the same command does then."""
    if not exported:
        return f"the training is done, step {step} is saved: the same command exports it"
    text = ": the same command makes the text" if plan.settings.sample else ""
    return f"the training is done and its model exported{text}"
