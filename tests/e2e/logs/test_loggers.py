"""TensorBoard and W&B, fed as a training feeds them: killed, resumed, without a key, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nemo_workflow.training import wandb_file
from tests.e2e.logs import wandb_server
from tests.runs import fake_runs
from tests.waiting import LIMIT

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def train() -> Iterator[Callable[..., str]]:
    """Makes steps `first` to `upto` as feeder.py says, in a process of its own; returns what it printed."""
    feeder = Path(__file__).with_name("feeder.py")
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", feeder], cwd=REPOSITORY, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert server.stdin and server.stdout

    def ask(folder: Path, first: int, upto: int, how: str, **environment: str) -> str:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("WANDB") and "proxy" not in k.lower()}
        home = {"HOME": str(folder.parent), "WANDB_SILENT": "true"}
        asked = {"work": [str(folder), first, upto, how], "environment": clean | home | environment}
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        code, out, errors = json.loads(server.stdout.readline())
        assert code == (-9 if how == "killed" else 75), errors[-2000:]
        return str(out)

    yield ask
    server.communicate(timeout=LIMIT)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, train: Callable[..., str]) -> tuple[Path, list[str]]:
    """A start killed at step 14, and one that went on from step 10 and was stopped at the end."""
    folder = tmp_path_factory.mktemp("experiments") / "demo"
    plan = fake_runs.make_plan(folder, steps=30, every=5, wandb=True, wandb_project="tests")
    folder.mkdir()
    (folder / "plan.json").write_text(plan.to_json())
    said = [train(folder, 1, 14, "killed"), train(folder, 11, 30, "stopped")]
    return folder, said


def new_run(place: Path, steps: int) -> Path:
    folder = place / "demo"
    folder.mkdir()
    plan = fake_runs.make_plan(folder, steps=steps, every=2, wandb=True, wandb_project="tests")
    (folder / "plan.json").write_text(plan.to_json())
    return folder


def loggers_id(folder: Path) -> str:
    """The W&B id that the run's folder keeps."""
    return str(json.loads((folder / "wandb.json").read_text())["id"])


def rows(folder: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of a metric over all offline files, in the order of the starts."""
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    return [
        (row["trainer/global_step"], row[name]) for file in files for row in wandb_file.history(file) if name in row
    ]


@pytest.mark.e2e
def test_a_resumed_run_is_one_wandb_run_and_has_no_step_twice(run: tuple[Path, list[str]]) -> None:
    folder, _ = run
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    (run_id,) = set.union(*map(wandb_file.run_ids, files))
    assert all(file.parent.name.endswith(run_id) for file in files)
    for name in ("reduced_train_loss", "lr", "tokens_per_second", "memory_bytes"):
        assert sorted(step for step, _ in rows(folder, name)) == list(range(1, 31)), name
    assert [step for step, _ in rows(folder, "val_loss")] == [5, 10, 15, 20, 25, 30]
    assert min(value for _, value in rows(folder, "reduced_train_loss")) > 0  # the run's own, not Lightning's
    assert list(folder.glob("wandb/wandb/logs/core-debug-*.log"))  # what W&B writes for itself, else in the home


@pytest.mark.e2e
def test_tensorboard_has_the_same_names_steps_and_numbers(run: tuple[Path, list[str]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = run
    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    logged = {name for file in files for row in wandb_file.history(file) for name in row}
    assert set(board.Tags()["scalars"]) == {n for n in logged if not n.startswith("_")} - {"trainer/global_step"}
    for name in ("reduced_train_loss", "val_loss", "grad_norm"):
        shown = [(event.step, event.value) for event in board.Scalars(name)]
        assert [step for step, _ in shown] == [step for step, _ in rows(folder, name)], name
        assert [value for _, value in shown] == pytest.approx([value for _, value in rows(folder, name)], rel=1e-6)


@pytest.mark.e2e
def test_without_a_key_it_says_how_to_sync_later(run: tuple[Path, list[str]]) -> None:
    folder, said = run
    (run_id,) = set.union(*map(wandb_file.run_ids, folder.glob("wandb/offline-run-*/run-*.wandb")))
    for text in said:
        assert "no key" in text and f"wandb sync --id {run_id} {folder}/wandb/offline-run-*-{run_id}" in text


KEY = {"WANDB_API_KEY": "0" * 40}


@pytest.mark.e2e
def test_what_keeps_a_run_from_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    from nemo_workflow.training.loggers import why_offline

    for name in [name for name in os.environ if "proxy" in name.lower() or name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", KEY["WANDB_API_KEY"])
    for how, why in (("well", ""), ("500", "127.0.0.1 answers 500"), ("nonsense", "")):  # W&B itself sees the last
        with wandb_server.serving(how) as server:
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
            assert why_offline() == why
    assert "can't be reached" in why_offline()  # nobody is there any more
    with wandb_server.serving("never") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert "can't be reached (timed out)" in why_offline()
    monkeypatch.setenv("WANDB_BASE_URL", "no address")
    assert "can't be reached" in why_offline()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert why_offline() == "WANDB_MODE is offline"


@pytest.mark.e2e
@pytest.mark.parametrize(("how", "why"), [("never", "can't be reached (timed out)"), ("nonsense", "invalid character")])
def test_without_a_server_it_logs_to_files(tmp_path: Path, train: Callable[..., str], how: str, why: str) -> None:
    """One that never answers, and a hotel's login page."""
    folder = new_run(tmp_path, steps=5)
    with wandb_server.serving(how) as server:
        said = train(folder, 1, 5, "stopped", WANDB_BASE_URL=server.url, **KEY)
    (line,) = [line for line in said.splitlines() if line.startswith("W&B: ")]
    assert why in line and f"wandb sync --id {loggers_id(folder)} {folder}/wandb/offline-run-*-" in line
    assert [step for step, _ in rows(folder, "reduced_train_loss")] == [1, 2, 3, 4, 5]


@pytest.mark.e2e
def test_a_server_gets_each_step_once_in_one_run(tmp_path: Path, train: Callable[..., str]) -> None:
    """Online: a start that is stopped at step 4, and one that makes the steps after 2 again."""
    folder = new_run(tmp_path, steps=6)
    with wandb_server.serving("well") as server:
        said = train(folder, 1, 4, "stopped", WANDB_BASE_URL=server.url, **KEY)
        said += train(folder, 3, 6, "stopped", WANDB_BASE_URL=server.url, **KEY)
    assert "W&B" not in said
    assert list(server.rows) == [loggers_id(folder)]
    (got,) = server.rows.values()
    steps = [row["trainer/global_step"] for row in got if "reduced_train_loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.e2e
@pytest.mark.thorough
def test_a_server_that_goes_away_holds_up_the_end_for_a_while_only(tmp_path: Path, train: Callable[..., str]) -> None:
    folder = new_run(tmp_path, steps=5)
    with wandb_server.serving("well") as server:
        said = train(folder, 1, 5, "deserted", WANDB_BASE_URL=server.url, **KEY)
        assert server.how == "never"
    assert "held up" in said
    (line,) = [line for line in said.splitlines() if line.startswith("W&B did not take all")]
    assert f"wandb sync --id {loggers_id(folder)} {folder}/wandb/run-*-{loggers_id(folder)}" in line
    (file,) = folder.glob("wandb/run-*/run-*.wandb")
    assert [row["trainer/global_step"] for row in wandb_file.history(file) if "lr" in row] == [1, 2, 3, 4, 5]
