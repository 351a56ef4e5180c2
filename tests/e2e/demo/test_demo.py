"""`make demo` in an empty folder: JSONL to a Hugging Face model on a CPU, stopped and resumed on the way."""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_workflow.run_dir import metrics
from tools import demo as demo_module

REPOSITORY = Path(__file__).resolve().parents[3]
STEPS = demo_module.MAX_STEPS
pytestmark = [pytest.mark.e2e]

NOISE = re.compile(r"warn|deprecat|\[NeMo|Traceback|fused_indices|one_?logger|\x1b", re.IGNORECASE)


def run_demo(place: Path) -> tuple[str, float]:
    home = place / "home"
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(home), "HF_HUB_OFFLINE": "1"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tools.demo"],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr, time.monotonic() - began


# more than a minute: the whole demo, once for all tests of this file
@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    place = tmp_path_factory.mktemp("demo")
    output, seconds = run_demo(place)
    print(f"demo: {seconds:.0f} s")
    return place / "demo_output", output


def history(demo):
    return metrics.read(demo[0] / "nemo_experiments" / "demo" / metrics.FILE)


def test_the_model_learns(demo):
    summary = json.loads((demo[0] / "nemo_experiments" / "demo" / "summary.json").read_text())
    losses = [event["loss"] for event in history(demo) if event["event"] == "step"]
    assert statistics.fmean(losses[-demo_module.LAST :]) < 0.6 * losses[0]
    assert (summary["first_loss"], summary["final_loss"]) == (losses[0], losses[-1])
    assert summary["state"] == "finished" and summary["steps"] == STEPS and summary["consumed_samples"] == STEPS * 16
    assert summary["tokens_per_second"] > 0 and summary["peak_memory_bytes"] > 2**28
    assert summary["val_loss"] < summary["first_loss"]
    assert summary["versions"]["nemo_toolkit"] and "--hf-model-id" in summary["command"]


def test_it_was_stopped_and_resumed(demo):
    starts = [event for event in history(demo) if event["event"] == "start"]
    assert starts[0]["step"] == 0 and demo_module.STOP_AT <= starts[1]["step"] < STEPS
    steps = [event["step"] for event in history(demo) if event["event"] == "step"]
    assert steps == list(range(1, STEPS + 1))  # nothing repeated, nothing left out
    assert "exit code 130" in demo[1]


def test_transformers_computes_nemos_validation_loss(demo):
    found = re.search(r"validation loss: NeMo ([\d.]+), transformers ([\d.]+)", demo[1])
    nemo, hugging_face = float(found[1]), float(found[2])
    recorded = [event["val_loss"] for event in history(demo) if event["event"] == "validation"][-1]
    assert nemo == pytest.approx(recorded, abs=1e-4)
    assert hugging_face == pytest.approx(nemo, rel=0.001)


def test_it_ends_with_where_things_are_and_what_to_do_next(demo):
    end = demo[1].split("\ndone in ")[1]
    report = demo[0] / "nemo_experiments" / "demo" / "report.html"
    assert report.as_uri() in end and report.is_file()
    assert "runs --output-dir demo_output/nemo_experiments list" in end and "Your own text in five minutes" in end
    assert "## Your own text in five minutes" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_there_is_a_report_of_the_finished_run(demo):
    report = (demo[0] / "nemo_experiments" / "demo" / "report.html").read_text()
    assert f"reached step {STEPS}" in report and "Learning rate" in report


def test_the_model_goes_on_with_a_text(demo):
    assert "def read(self, size=-1):" in demo[1].split("what the model goes on with")[1]


def test_only_our_own_lines_are_printed(demo):
    noisy = [line for line in demo[1].splitlines() if NOISE.search(line)]
    assert noisy == []


def test_nothing_is_written_outside_the_demos_folder(demo):
    place = demo[0].parent
    assert sorted(path.name for path in place.iterdir()) == ["demo_output", "home"]
    left = [str(path.relative_to(place)) for path in (place / "home").rglob("*") if path.is_file()]
    assert [name for name in left if "cache" not in name and "config" not in name] == []
    assert [name for name in left if "matplotlib" in name] == []


def test_a_second_time_is_quick_and_harmless(demo):
    checkpoints = demo[0] / "nemo_experiments" / "demo" / "checkpoints"
    before = {path: path.stat().st_mtime_ns for path in checkpoints.rglob("*")}
    output, seconds = run_demo(demo[0].parent)
    assert f"already trained to step {STEPS}" in output
    assert {path: path.stat().st_mtime_ns for path in checkpoints.rglob("*")} == before
    print(f"second time: {seconds:.0f} s")
