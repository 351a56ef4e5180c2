"""--export-hf save in a rank: one export at a time, and no step waits. A process that sleeps stands in for the export."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_workflow.run_dir import export_process, metrics
from tests.later import later
from tests.waiting import until

pytestmark = pytest.mark.slow
exports = later("nemo_workflow.training.exports")


class Log:
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.heartbeat = SimpleNamespace(beat=lambda: None)

    def event(self, kind: str, **values: Any) -> None:
        self.events.append({"event": kind, **values})


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The exports that were started; each ends when a file `go` is in the attempt, as its line says."""
    started: list[tuple[Any, ...]] = []

    def start(run: Path, step: int, log: Path, *more: str) -> subprocess.Popen[bytes]:
        started.append((step, *more))
        wait = "import sys, time, pathlib\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\nsys.exit(int(pathlib.Path(sys.argv[1]).read_text()))"
        log.write_text("memory: about 9 GB are needed\n")
        return subprocess.Popen([sys.executable, "-c", wait, str(log.with_name("go"))])

    monkeypatch.setattr(export_process, "start", start)
    monkeypatch.setattr(exports, "WAIT_SECONDS", 0.01)
    return started


@pytest.fixture
def made(tmp_path: Path) -> Any:
    settings = SimpleNamespace(push_to_hub="me/tiny", export_hf="save")
    plan = SimpleNamespace(settings=settings, schedule=SimpleNamespace(max_steps=12), folder=tmp_path)
    return exports.Exports(plan, Log(), tmp_path)  # type: ignore[arg-type]


def ended(made: Any, code: int) -> dict[str, Any]:
    made.words.with_name("go").write_text(str(code))
    until(lambda: not made.look())
    made.words.with_name("go").unlink()
    return dict(made.run_log.events[-1])


def test_a_save_meanwhile_is_left_out_and_the_source_is_kept(made: Any, begun: list[Any], tmp_path: Path) -> None:
    made.saved(tmp_path / "step_4", 4)
    made.on_train_batch_end()
    made.saved(tmp_path / "step_8", 8)
    assert begun == [(4, "--beside-training")] and made.source == tmp_path / "step_4"
    told = ended(made, 0)
    assert (told["step"], told["problem"], told["hub"]) == (4, None, None) and made.source is None
    assert metrics.plain(told, 12, 1).startswith("step 4: exported and verified in ")
    made.saved(tmp_path / "step_12", 12)  # the end exports it
    assert len(begun) == 1


def test_what_the_node_lacks_is_told(made: Any, begun: list[Any], tmp_path: Path) -> None:
    made.saved(tmp_path / "step_4", 4)
    told = ended(made, 2)
    assert metrics.plain(told, 12, 1) == "step 4: not exported to Hugging Face: memory: about 9 GB are needed"


def test_on_slurm_the_last_one_is_waited_for(
    made: Any, begun: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(exports.LAUNCHER, raising=False)
    made.words.with_name("go").write_text("0")
    newest = SimpleNamespace(path=tmp_path / "step_12", step=12)
    exports.after_slurm_training(made, made.plan, tmp_path, newest)  # type: ignore[arg-type]
    assert begun == [(12, "--push-to-hub", "me/tiny")]
    assert made.run_log.events[-1]["hub"] == "me/tiny" and (tmp_path / exports.LAST_EXPORT).exists()
    exports.after_slurm_training(None, made.plan, tmp_path, newest)  # type: ignore[arg-type]  # another rank, which finds the mark
