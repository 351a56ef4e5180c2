"""`--sample TEXT`: a run that ends with a few lines of its own model, and what it does when it can't."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nemo_workflow.training import wandb_file
from tests import forked
from tests.e2e.run.conftest import make_corpus
from tests.e2e.run.harness import Experiment, Start
from tests.runs import fake_hub

pytestmark = [pytest.mark.e2e]
WANDB_KEY = "wandb-secret" + "0" * 28
TEXT = "def read(self, size=-1):"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    place = tmp_path_factory.mktemp("sample")
    return Experiment(make_corpus(place / "corpus"), place / "out", ranks=2, steps=4)


@pytest.fixture(scope="module")
def trained(experiment: Experiment) -> Start:
    """Exported beside the training too, uploaded to a stand-in of the Hub, and logged to W&B's files."""
    with fake_hub.running() as hub, pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
            patch.delenv(name, raising=False)
        set_to = {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_XET": "1",
            "WANDB_MODE": "offline",
            "WANDB_API_KEY": WANDB_KEY,
        }
        for name, value in set_to.items():
            patch.setenv(name, value)
        more = ("--export-hf", "save", "--save-every", "2", "--push-to-hub", "me/tiny", "--profile", "2-3")
        more += ("--hf-token", fake_hub.TOKEN, "--wandb", "--wandb-project", "tests")
        start = experiment.start("--sample", TEXT, "--tensor-model-parallel-size", "2", *more, report=True)
    (experiment.output / "hub.json").write_text(json.dumps({"files": sorted(hub.files), "commits": hub.commits}))
    return start


def test_the_run_ends_with_its_own_text(experiment: Experiment, trained: Start) -> None:
    assert trained.code == 0, trained.output
    after = trained.output.split("finished after step 4\n")[1]
    exported = experiment.folder / "hf_model"
    words, _, after = after.partition(f"exporting step 4 to {exported}\n")
    assert (
        words.startswith("  loss ") and "step_00000004\n" in words and "report.html" in words and "export " not in words
    )
    assert "bit for bit" in after
    text = after[after.index(TEXT) :]
    assert len(text) > len(TEXT) + 40  # 60 tokens of one letter or more
    assert (exported / "config.json").is_file() and (exported / "tokenizer.json").is_file()


def test_the_model_is_uploaded_and_no_step_waited(experiment: Experiment, trained: Start) -> None:
    """The export of step 2 went on beside the steps; the end exported step 4."""
    hub = json.loads((experiment.output / "hub.json").read_text())
    assert hub["commits"] == ["step 4 of run"] and {"config.json", "model.safetensors"} <= set(hub["files"])
    assert (experiment.attempt() / "export.log").is_file()
    last = [event for event in experiment.events() if event["event"] == "export"][-1]
    assert (last["step"], last["problem"], last["hub"]) == (4, None, "me/tiny")
    assert "Hugging Face exports" in (experiment.folder / "report.html").read_text()


def test_wandb_has_the_runs_losses_and_nothing_has_its_secrets(experiment: Experiment, trained: Start) -> None:
    (file,) = experiment.folder.rglob("run-*.wandb")
    logged = [row["reduced_train_loss"] for row in wandb_file.history(file) if "reduced_train_loss" in row]
    assert logged == pytest.approx([event["loss"] for event in experiment.events() if event["event"] == "step"])
    assert "--hf-token" in trained.output and "HF_TOKEN" in trained.output  # the safer way is named
    for secret in (fake_hub.TOKEN, WANDB_KEY):
        assert secret not in trained.output
        for path in experiment.folder.rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path
    words = ["pretrain_llm.py", "--config", experiment.folder / "config.yaml", "--dry-run=json"]
    again = forked.run(words, env=os.environ | {"WANDB_MODE": "offline", "HF_TOKEN": fake_hub.TOKEN})
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["training"]["steps"] == 4


def test_the_costliest_kernels_of_a_real_rank_are_in_the_report(experiment: Experiment, trained: Start) -> None:
    (event,) = [event for event in experiment.events() if event["event"] == "profile"]
    assert event["step"] == 3 and event["kernels"][0]["seconds"] > 0
    assert "aten::" in " ".join(kernel["name"] for kernel in event["kernels"])
    assert (experiment.folder / "profile" / "steps_2-3.json.gz").stat().st_size > 1000
    assert "Costliest kernels" in (experiment.folder / "report.html").read_text()


def test_a_finished_run_tells_its_text_too_and_trains_no_more(experiment: Experiment, trained: Start) -> None:
    """Other words go on in another way; the model is the same."""
    before = experiment.whole()
    again = experiment.start("--sample=-import", "--tensor-model-parallel-size", "2")
    assert again.code == 0, again.output
    assert "already trained to step 4" in again.output and "\n-import" in again.output
    assert "exporting step 4" not in again.output and "step 4 is exported already: " in again.output
    assert "python -m nemo_workflow.sample --hf-model " in again.output.partition("\n-import")[2]
    assert experiment.whole() == before
    exports = [event["step"] for event in experiment.events() if event["event"] == "export"]
    assert exports.count(4) == 1  # none that took 0 s


def test_where_there_is_no_text_the_training_is_told_to_be_done(experiment: Experiment, trained: Start) -> None:
    (experiment.folder / "hf_model").rename(experiment.folder / "kept")
    (experiment.folder / "hf_model").write_text("a file of the user's")
    again = experiment.start("--sample", TEXT, "--tensor-model-parallel-size", "2")
    assert again.code == 1
    assert "is a file, not a folder" in again.output
    assert "pretrain_llm.py: failed: --sample: no text" in again.output
    assert "the training is done, step 4 is saved" in again.output
    assert (experiment.folder / "hf_model").read_text() == "a file of the user's"


def test_a_run_without_it_exports_nothing(tmp_path: Path, experiment: Experiment, trained: Start) -> None:
    """The flag is what does it: the same finished run, asked for nothing."""
    again = experiment.start("--tensor-model-parallel-size", "2")
    assert again.code == 0 and "exporting" not in again.output
