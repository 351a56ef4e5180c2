"""The upload of an exported model, against a stand-in of the Hub, and which export is there already."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from nemo_workflow import REPOSITORY
from nemo_workflow.config.checks import outputs
from nemo_workflow.conversion import command
from nemo_workflow.run_dir import metrics
from nemo_workflow.run_dir.checkpoints import Checkpoint
from nemo_workflow.run_dir.export_process import is_exported
from nemo_workflow.run_dir.run import RunFolder
from nemo_workflow.runs import control, export
from nemo_workflow.utils.console import human_bytes
from nemo_workflow.utils.errors import Failure, Refusal
from tests.runs import fake_hub, fake_runs
from tests.waiting import LIMIT

PUSH = """
import sys
from pathlib import Path
from typing import Any
from nemo_workflow.runs import control, export
from nemo_workflow.utils.errors import run_command
if sys.argv[2:]:
    export.SILENT_SECONDS = float(sys.argv[2])
run_command(lambda: print(export.push(Path(sys.argv[1]), 'me/tiny', 'step 4 of run')), "export")
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "hf_model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(os.urandom(5000))
    return folder


def pushed(
    model: Path, hub: fake_hub.FakeHub, *more: str, token: str = fake_hub.TOKEN
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(model.parent)}
    return subprocess.run(
        [sys.executable, "-c", PUSH, str(model), *more],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_new_model_is_private_and_whole(model: Path) -> None:
    with fake_hub.running() as hub:
        done = pushed(model, hub)
    assert done.returncode == 0, done.stderr
    size = human_bytes(sum(path.stat().st_size for path in model.iterdir()))
    assert done.stdout.splitlines()[0] == f"uploading {size} to {hub.url}/me/tiny"
    assert f"uploaded to {hub.url}/me/tiny" in done.stdout
    assert hub.repositories["me/tiny"]["private"] is True and hub.commits == ["step 4 of run"]
    assert hub.files == {path.name: path.read_bytes() for path in model.iterdir()}
    assert fake_hub.TOKEN not in done.stdout + done.stderr


def test_a_hub_that_refuses_is_told_with_what_helps(model: Path) -> None:
    with fake_hub.running() as hub:
        done = pushed(model, hub, token="hf_anotherToken")
    assert done.returncode == 1
    assert "--push-to-hub me/tiny: not uploaded: 401" in done.stderr and "does it later" in done.stderr
    assert "hf_anotherToken" not in done.stderr


def test_an_export_counts_while_its_checkpoint_is_the_same(model: Path, tmp_path: Path) -> None:
    source = Checkpoint(tmp_path / "step_00000004", 4)
    source.path.mkdir()
    (source.path / "manifest.json").write_text("{}")
    report = model / "conversion_report.json"
    assert not is_exported(model, source)
    report.write_text(json.dumps({"verified": True, "source": str(source.path)}))
    os.utime(source.path / "manifest.json", (1, 1))
    assert is_exported(model, source)
    assert not is_exported(model, Checkpoint(tmp_path / "step_00000008", 8))
    report.write_text(json.dumps({"verified": False, "source": str(source.path)}))
    assert not is_exported(model, source)


def test_what_is_exported_already_is_neither_done_again_nor_kept_as_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command and at the end of a run; an upload is another matter."""
    plan = fake_runs.write_run(tmp_path / "run", sample="Once")
    checkpoint = plan.folder / "checkpoints" / "step_00000100"
    fake_runs.write_export(plan)
    monkeypatch.setattr(sys, "argv", ["export", str(plan.folder)])
    assert export.main() == 0
    export.after_training(plan)
    said = capsys.readouterr().out.splitlines()
    assert said == [f"step 100 is exported already: {plan.folder / 'hf_model'}"] * 2
    assert exporting(monkeypatch, str(checkpoint)).endswith(
        f"is a checkpoint; give its run: python -m nemo_workflow.export {plan.folder} --step 100"
    )
    assert exporting(monkeypatch, str(plan.folder), "--step", "7").endswith(
        "checkpoints; the others are of step 75, 100"
    )
    assert not [event for event in metrics.read(plan.folder / metrics.FILE) if event["event"] == "export"]


def test_a_step_that_is_exported_is_named_and_why_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once: a training's own command has said it before it starts the export. What the export stumbles over is kept in the run."""
    plan = fake_runs.write_run(tmp_path / "run", export_hf="end")
    why = "the conversion is not exact: logits differ; hf_model.failed_conversion_report.json has it all"

    def fails(words: list[str]) -> int:
        raise Failure(why)

    monkeypatch.setattr(command, "export_main", fails)
    told = f"exporting step 100 to {plan.folder / 'hf_model'}\n"
    for more, said in (((), told), (("--after-training",), "")):
        monkeypatch.setattr(sys, "argv", ["export", str(plan.folder), *more])
        with pytest.raises(Failure, match="the conversion is not exact"):
            export.main()
        assert capsys.readouterr().out == said
    events = [event for event in metrics.read(plan.folder / metrics.FILE) if event["event"] == "export"]
    assert [event["problem"] for event in events] == [why]

    def in_this_process(words: list[str], **how: Any) -> tuple[int, None]:
        monkeypatch.setattr(sys, "argv", words[2:])
        with pytest.raises(Failure):
            export.main()
        return 1, None

    monkeypatch.setattr(export, "run_passing_on", in_this_process)
    with pytest.raises(Failure, match="--export-hf: no model"):
        export.after_training(plan)
    assert capsys.readouterr().out == told
    assert f"; not exported: {why}" in control.opened(plan.folder).state.why
    monkeypatch.setattr(export, "run_passing_on", lambda *_, **how: (1, None))  # a traceback, say
    with pytest.raises(Failure, match="--export-hf: no model"):
        export.after_training(plan)
    assert "; not exported: its own words stood in the terminal" in control.opened(plan.folder).state.why


def test_an_export_by_hand_is_told_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so in its report, which may say that the one after the training was stopped."""
    plan = fake_runs.write_run(tmp_path / "run")
    metrics.event(
        plan.folder / metrics.FILE, "export", **export.export_process.event(plan.folder, 100, 2.0, "stopped by Ctrl-C")
    )
    monkeypatch.setattr(command, "export_main", lambda words: 0)
    monkeypatch.setattr(sys, "argv", ["export", str(plan.folder)])
    assert export.main() == 0
    *_, told = [event for event in metrics.read(plan.folder / metrics.FILE) if event["event"] == "export"]
    assert told["problem"] is None and told["step"] == 100
    assert "not exported" not in (plan.folder / "report.html").read_text(encoding="utf-8")


# as nemo_workflow's first import does it
SLEEPS = "import signal, time; signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals());"
SLEEPS += " signal.signal(signal.SIGTERM, lambda *_: exit(7)); print('begun', flush=True); time.sleep(100)"
STOPPED = """
import sys
from pathlib import Path
from typing import Any
from nemo_workflow.config.plan import Plan
from nemo_workflow.run_dir import export_process
from nemo_workflow.runs import export
export_process.command = lambda *_: [sys.executable, "-c", sys.argv[2]]
export.after_training(Plan.from_json((Path(sys.argv[1]) / "plan.json").read_text()))
"""


@pytest.mark.parametrize(
    ("number", "named", "settings", "done", "left"),
    [
        (signal.SIGTERM, "SIGTERM", {"sample": "Once"}, False, ", step 100 is saved: the same command exports it"),
        (signal.SIGINT, "Ctrl-C", {"sample": "Once"}, False, ", step 100 is saved: the same command exports it"),
        # proved, and its process still ending
        (signal.SIGINT, "Ctrl-C", {"sample": "Once"}, True, " and its model exported: the same command makes the text"),
        (signal.SIGINT, "Ctrl-C", {"export_hf": "end"}, True, " and its model exported"),
    ],
)
def test_an_export_after_the_training_ends_with_the_command(
    tmp_path: Path, number: int, named: str, settings: dict[str, Any], done: bool, left: str
) -> None:
    plan = fake_runs.write_run(tmp_path / "run", **settings)
    words = [sys.executable, "-c", STOPPED, str(plan.folder), SLEEPS]
    with subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        assert "exporting step 100" in command.stdout.readline() and command.stdout.readline() == "begun\n"
        (child,) = psutil.Process(command.pid).children()
        if done:
            fake_runs.write_export(plan)
        command.send_signal(number)
        said = command.communicate(timeout=LIMIT)[1]
    assert command.returncode == 128 + number
    assert f"stopped by {named}; the training is done{left}\n" in said
    assert not child.is_running()
    why = RunFolder(plan.folder).state.why
    assert why == f"reached step 100{'' if done else f'; not exported: stopped by {named}'}"


def test_an_export_that_was_killed_is_told_from_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = fake_runs.write_run(tmp_path / "run", sample="Once")
    for program, said in (
        ("import os; os.kill(os.getpid(), 9)", "its process was ended by SIGKILL"),
        ("exit(1)", "for the reason above"),
    ):
        monkeypatch.setattr(
            export.export_process, "command", lambda *_, program=program: [sys.executable, "-c", program]
        )
        with pytest.raises(Failure, match=f"^--sample: no text, {said}; the training is done, step 100 is saved"):
            export.after_training(plan)


def test_a_stopped_export_has_its_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = fake_runs.write_run(tmp_path / "run")
    monkeypatch.setattr(command, "export_main", lambda words: 130)
    monkeypatch.setattr(export, "push", lambda *_: pytest.fail("nothing is uploaded"))
    monkeypatch.setattr(export.outputs, "upload", lambda *_: [])
    monkeypatch.setattr(sys, "argv", ["export", str(plan.folder), "--push-to-hub", "me/tiny"])
    assert export.main() == 130


def exporting(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What the command refuses."""
    monkeypatch.setattr(sys, "argv", ["export", *words])
    with pytest.raises(Refusal) as caught:
        export.main()
    return str(caught.value)


def test_an_upload_that_can_not_be_is_refused_before_the_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(outputs, "token_here", lambda: False)
    said = exporting(monkeypatch, "run", "--push-to-hub", "x").splitlines()
    assert (
        said[0].startswith("--push-to-hub x: not a valid name") and "; `hf auth login`, or export HF_TOKEN" in said[1]
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in exporting(monkeypatch, "run", "--push-to-hub", "me/x")


def test_a_hub_out_of_reach_is_told_in_a_sentence(model: Path) -> None:
    hub = fake_hub.FakeHub()
    hub.url = "http://127.0.0.1:9"  # nobody listens there
    done = pushed(model, hub)
    assert done.returncode == 1
    assert "not uploaded: the Hub can't be reached (Connection refused); the model is in" in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("at", ["/api/repos/create", "/preupload/", "/commit/"])
def test_a_hub_that_falls_silent_ends_the_upload(at: str, model: Path) -> None:
    """A network that hangs: the Hub's client itself would wait for ever."""
    with fake_hub.running() as hub:
        hub.silent_at = at
        done = pushed(model, hub, "1")
    assert done.returncode == 1, done.stderr
    assert "--push-to-hub me/tiny: not uploaded: the Hub can't be reached (no answer); the model is in" in done.stderr
    assert "does it later" in done.stderr and "Traceback" not in done.stderr


def test_a_run_is_taken_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "nope: no such run; --output-dir" in exporting(monkeypatch, "nope")
    plan = fake_runs.write_run(tmp_path / "nemo_experiments" / "my_run", sample="Once")
    assert control.run_folder(Path("my_run")) == plan.folder
    assert "nope: no such run below" in exporting(monkeypatch, "nope")
    assert "a/nope: no such folder" in exporting(monkeypatch, "a/nope")
