"""report.html of a generated run: its size, its words, and what a real browser makes of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_workflow.run_dir import report_process, slurm_jobs
from nemo_workflow.run_dir.report_process import Refresher
from nemo_workflow.run_dir.run import RunFolder
from nemo_workflow.runs.report.page import write_comparison, write_report
from nemo_workflow.utils import machine
from tests.later import later
from tests.runs import fake_runs
from tests.waiting import LIMIT

charts = later("nemo_workflow.runs.report.charts")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fake_runs.reported(tmp_path_factory.mktemp("experiments") / "demo")


def test_it_holds_everything_and_needs_no_network(run: RunFolder) -> None:
    text = (run.path / "report.html").read_text()
    assert len(text) < 3_000_000
    for words in (
        "finished", "reached step 100", "python pretrain_llm.py --experiment demo --max-steps 100", "global-batch-size: 16", "2.7.3", "21,129,890",
        "wiki_text_document", "70.4 MiB", "whole", "removed", "DP 2", "ended from outside", "the epoch ends after step 5000",
        "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more",
    ):  # fmt: skip
        assert words in text, words
    assert "<script>alert" not in text
    assert "<script src" not in text and '<link rel="stylesheet' not in text and "http-equiv" not in text


def test_a_running_runs_page_reloads_itself(tmp_path: Path) -> None:
    fake_runs.write_run(tmp_path / "live", upto=30, reason=None, began=time.time() - 20)
    text = write_report(RunFolder(tmp_path / "live")).read_text()
    assert 'http-equiv="refresh"' in text and "steps left take" in text


def test_a_run_without_a_step_has_a_report_too(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert "no step was made" in write_report(RunFolder(tmp_path / "new")).read_text()


def test_a_start_that_was_killed_before_it_made_the_lost_steps_again(tmp_path: Path) -> None:
    """`runs list`, which draws stale reports again, showed a traceback in place of every run."""
    plan = fake_runs.write_run(tmp_path / "run", upto=3, reason=None)
    fake_runs.append(plan, [{"event": "start", "time": time.time(), "step": 0, "max_steps": 100, "setup_seconds": 1.0}])
    assert "0 of 100" in write_report(RunFolder(plan.folder)).read_text(encoding="utf-8")


def test_thinning_keeps_spikes_and_ends_small() -> None:
    points = [(float(x), 1.0) for x in range(100_000)]
    points[77_777] = (77_777.0, 50.0)
    points[12_345] = (12_345.0, -3.0)
    kept = charts.thinned(points)
    assert len(kept) <= charts.MOST_POINTS + 2 and points[77_777] in kept and points[12_345] in kept
    assert kept == sorted(kept) and charts.thinned(points[:100]) == points[:100]


def test_means_are_of_the_steps_before() -> None:
    points = [(float(x), float(x % 2)) for x in range(1, 201)]
    means = charts.running_means(points)
    assert charts.width_of_mean(points) == 4
    assert means[0] == (4.0, 0.5) and means[-1] == (200.0, 0.5) and len(means) == 197
    assert charts.running_means(points[:99]) == []  # too short for one


def test_a_comparison_speaks_of_means_only_where_it_draws_some(tmp_path: Path) -> None:
    long, short = (
        RunFolder(fake_runs.write_run(tmp_path / name, upto=upto).folder)
        for name, upto in (("long", 100), ("short", 60))
    )
    for runs, said in (([long, short], True), ([short, short], False)):
        text = write_comparison(runs, [], tmp_path / "both.html").read_text()
        assert ("running means" in text) == said


@pytest.mark.slow
def test_slurms_jobs_nodes_and_restarts_are_told(tmp_path: Path) -> None:
    plan = fake_runs.write_run(tmp_path / "job", killed_at=60, slurm={"job": "4711", "nodes": "node[03-04]"})
    attempt = plan.folder / "attempts" / "20260528-202640"
    slurm_jobs.record(slurm_jobs.Job(attempt, "4711", "pretrain_1", None, fake_runs.BEGAN))
    for number in (0, 1):
        (attempt / f"begun-{number}").touch()
    (attempt / "exit-1").write_text("0\n")
    text = write_report(RunFolder(plan.folder)).read_text()
    cells = re.findall(r"<td[^>]*>(.*?)</td>", text)
    assert "4711 on node[03-04]" in cells and "4711 on node[03-04], restart 1" in cells
    at = cells.index("4711")
    assert cells[at + 1] == "1 of 1" and cells[at + 3 : at + 5] == ["1", "0"]
    assert "Slurm" not in write_report(RunFolder(fake_runs.write_run(tmp_path / "local").folder)).read_text()


def test_a_rank_that_srun_started_knows_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_JOB_NODELIST", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert machine.slurm_job() == {}
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert machine.slurm_job() == {}  # a shell inside an allocation
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "a[1-2]")
    assert machine.slurm_job() == {"slurm": {"job": "7", "nodes": "a[1-2]", "restart": 0}}
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert machine.slurm_job()["slurm"]["restart"] == 2


@pytest.mark.slow
def test_a_training_is_not_held_up(run: RunFolder) -> None:
    """The writer is a process of its own, one at a time; what a training waits for is its start."""
    before = (run.path / "report.html").stat().st_mtime_ns
    refresher = Refresher(run.path)
    began = time.perf_counter()
    refresher.refresh()
    print(f"refresh returned after {(time.perf_counter() - began) * 1000:.1f} ms")
    first = refresher.process
    assert first is not None and first.poll() is None  # it returned before the page was written
    refresher.refresh()
    assert refresher.process is first
    assert first.wait(LIMIT) == 0 and (run.path / "report.html").stat().st_mtime_ns > before
    refresher.finish(60)
    assert not list(run.path.glob(".report.html*"))


def test_a_short_training_starts_no_writer_but_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, started = [100.0], []
    monkeypatch.setattr(report_process, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(report_process, "_start", lambda folder, *flags: started.append((now[0], *flags)))
    refresher = Refresher(tmp_path, wait=20.0)
    for now[0] in (100.0, 119.0, 121.0, 130.0, 142.0):
        refresher.refresh()
    refresher.finish(1)
    assert started == [(121.0, "--running"), (142.0, "--running"), (142.0,)]


def test_its_start_imports_nothing_heavy() -> None:
    program = "import sys, nemo_workflow.run_dir.report_process; print(*{'bokeh', 'numpy', 'jinja2', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_without_the_plotting_library_there_is_a_word(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "bokeh").mkdir()
    (tmp_path / "bokeh" / "__init__.py").write_text("raise ModuleNotFoundError('no', name='bokeh')")
    command = [sys.executable, "-m", "nemo_workflow.report", str(run.path)]
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 1 and "pip install bokeh" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "names", [["a", "b"], ["my_first_run", "my_second_run", "third"], ["x" * 80 + "_1", "x" * 80 + "_2"]]
)
def test_the_legend_of_a_comparison_stays_within_its_chart(names: list[str]) -> None:
    labels = [f"{charts.shortened(name, charts.LONGEST_NAME)}: validation loss" for name in names]
    assert len(set(labels)) == len(names)  # runs of a series differ at the end
    columns = charts.columns_that_fit(labels)
    assert 1 <= columns <= len(labels)
    width = columns * (max(map(len, labels)) * charts.CHARACTER + charts.SWATCH)
    assert width <= charts.LEGEND or columns == 1
    assert max(map(len, labels)) * charts.CHARACTER + charts.SWATCH <= charts.LEGEND


def test_a_legend_wider_than_its_chart_is_in_two_columns() -> None:
    """Bokeh wraps no line: four curves of two runs began left of the page's text."""

    def run(name: str) -> SimpleNamespace:
        events = {"step": [{"step": 1, "loss": 2.0}], "validation": [{"step": 1, "val_loss": 2.0}]}
        return SimpleNamespace(name=name, tokens_a_step=1, of_kind=lambda kind: events.get(kind, []))

    one, two = (charts._chart(runs, *charts.CHARTS[0]) for runs in ([run("mixed")], [run("chinese"), run("mixed")]))
    assert one.legend[0].ncols == 2 and two.legend[0].ncols == 2
    assert two.height == one.height + charts.LEGEND_ROW  # its second row takes nothing from the curves
    assert two.legend[0].items[0].label.value == "chinese: training loss"


def test_a_comparison_says_which_curves_are_dashed(tmp_path: Path) -> None:
    runs = [RunFolder(fake_runs.write_run(tmp_path / name, upto=30).folder) for name in ("one", "two")]
    chart = charts._chart(runs, *charts.CHARTS[0])
    dashed = {item.label.value: bool(item.renderers[0].glyph.line_dash) for item in chart.legend[0].items}
    assert dashed == {label: label.endswith("validation loss ┄") for label in dashed} and set(dashed.values()) == {
        True,
        False,
    }
    alone = charts._chart(runs[:1], *charts.CHARTS[0])
    assert not any(charts.DASHED in item.label.value for item in alone.legend[0].items)
    page = write_comparison(runs, [], tmp_path / "page.html")
    assert "Validation losses are dashed; their labels end in ┄." in page.read_text(encoding="utf-8")
