"""How run_cases.py spends its time, with small scripts in place of trainings: no GPU, no NeMo."""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks" / "gpu"))

import case as one_case  # noqa: E402
import cases as all_parts  # noqa: E402
import run_cases  # noqa: E402
import turn  # noqa: E402

from benchmarks import source_losses  # noqa: E402
from nemo_workflow.run_dir.report_process import Refresher  # noqa: E402
from tests.waiting import LIMIT  # noqa: E402

SCRIPT = """
import json, pathlib, sys, time
case, folder = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2])
time.sleep(case.get("imports", 0))
(folder / "ready").touch()
sys.stdin.readline()
began = time.time()
time.sleep(case.get("sleep", 0))
(folder.parent / f"begun-{case['name']}").touch()
while len(list(folder.parent.glob("begun-small*"))) < case.get("together", 0):
    time.sleep(0.01)
if case.get("fail"):
    sys.exit("OutOfMemoryError: it was too much")
(folder / "result.json").write_text(json.dumps({"tok_s": 5, "began": began, "ended": time.time()}))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setitem(run_cases.SCRIPTS, "train", str(script))
    monkeypatch.setattr(run_cases, "SECONDS", 0.1)

    def run(*cases: dict[str, Any], limit: float = LIMIT, cards: str = "0") -> dict[str, dict[str, Any]]:
        options = argparse.Namespace(out=tmp_path / "out", data=tmp_path, limit=limit, ahead=6, cards=cards.split(","))
        options.stop_after_first = bool(cases[0].get("first"))
        (tmp_path / "out").mkdir()
        results = run_cases.Runner(list(cases), options).run()
        written = [json.loads(text) for text in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
        assert {result["name"] for result in written} == {case["name"] for case in cases}
        return {result["name"]: result for result in results}

    return run


def test_a_case_that_fails_or_hangs_costs_only_itself(run: Any) -> None:
    found = run({"name": "oom", "fail": True}, {"name": "hangs", "sleep": 60, "timeout": 0.5}, {"name": "good"})
    assert "it was too much" in found["oom"]["error"]
    assert found["hangs"]["error"].startswith("killed, too late")
    assert found["good"]["tok_s"] == 5


@pytest.mark.slow
def test_trainings_never_overlap_but_small_ones(run: Any) -> None:
    alone = [{"name": f"alone{n}", "sleep": 0.2} for n in range(3)]
    small = [{"name": f"small{n}", "together": 3, "small": True} for n in range(3)]
    found = run(*alone, *small, {"name": "last", "sleep": 0.1})
    times = [(found[name]["began"], found[name]["ended"]) for name in ("alone0", "alone1", "alone2")]
    times += [(found["small0"]["began"], max(found[f"small{n}"]["ended"] for n in range(3)))]
    times += [(found["last"]["began"], found["last"]["ended"])]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(times))
    assert max(found[f"small{n}"]["began"] for n in range(3)) < min(found[f"small{n}"]["ended"] for n in range(3))


@pytest.mark.slow
def test_cards_are_shared_out_by_ranks_and_each_has_one_training(run: Any, tmp_path: Path) -> None:
    sizes = {"a": 1, "b": 1, "c": 1, "wide": 3, "d": 1, "e": 1}
    words = "sleep 0.3; python3 -c 'import json, os, time; print(json.dumps([os.environ[\"CUDA_VISIBLE_DEVICES\"], time.time()]))'"
    cases = [
        {"name": name, "kind": "command", "ranks": ranks, "seconds": 0.3, "command": words}
        for name, ranks in sizes.items()
    ]
    assert not any("error" in found for found in run(*cases, cards="0,1,2").values())
    ended = {name: json.loads((tmp_path / "out" / name / "log").read_text()) for name in sizes}
    assert ended["wide"][0] == "0,1,2"
    assert {ended[name][0] for name in "abc"} == {"0", "1", "2"}
    assert max(ended[name][1] for name in "abc") + 0.3 <= ended["wide"][1]
    assert ended["d"][0] != ended["e"][0]


def test_a_run_gone_on_with_waits_for_its_first_part(run: Any) -> None:
    found = run({"name": "one", "sleep": 0.5, "small": True}, {"name": "again", "again": "one", "small": True})
    assert found["one"]["ended"] <= found["again"]["began"]


@pytest.mark.slow
def test_the_limit_ends_what_runs_and_starts_nothing_that_needs_longer(run: Any) -> None:
    found = run({"name": "long", "sleep": 60}, {"name": "next", "seconds": 9}, limit=3)
    assert found["long"]["error"].startswith("killed, too late")
    assert found["next"]["error"] == "not run: out of time"


def test_nothing_is_run_after_a_first_case_that_fails(run: Any) -> None:
    found = run({"name": "one", "fail": True, "first": True}, {"name": "two"})
    assert found["two"]["error"] == "not run: out of time"


def test_a_case_after_another_is_begun_when_that_one_has_ended(run: Any) -> None:
    found = run({"name": "one", "sleep": 0.5}, {"name": "two", "after": "one", "imports": 0})
    assert found["one"]["ended"] <= found["two"]["began"]


def test_words_in_braces_are_the_datas_folders_or_the_results() -> None:
    said = ("{data}", "{two}", "{model}", "{out}/a/b", "-mbs")
    placed = [turn.placed(word, Path("/data"), Path("/out")) for word in said]
    assert placed == ["/data/dataset", "/data/two", "/data/dense", "/out/a/b", "-mbs"]


def test_what_stands_for_the_report_takes_what_the_report_takes() -> None:
    ours, its = one_case.NoReport, Refresher
    for name in ("__init__", "refresh", "finish"):
        assert str(inspect.signature(getattr(ours, name))) == str(inspect.signature(getattr(its, name)))


def test_pairs_of_runs_differ_in_the_losses_alone_and_their_order_turns() -> None:
    cases = source_losses.cases(2, 9, gpu=False)
    assert [case["name"] for case in cases] == ["without_0", "with_0", "with_1", "without_1", "counted"]
    assert len({json.dumps({**case, "name": "", "no_source_losses": 0}) for case in cases[:-1]}) == 1
    seconds = {"with_0": 1.02, "without_0": 1.0, "with_1": 0.99, "without_1": 1.0, "counted": 1.0}
    found = {name: {"cpu_seconds_a_step": value, "counted_seconds_a_step": 0.002} for name, value in seconds.items()}
    *_, median, inside = source_losses.table(found, 2, "cpu_seconds_a_step").splitlines()
    assert median.split() == ["median", "+0.50%"] and inside.endswith(" 0.002000 of 1.0000, 0.200%")


def test_every_case_can_be_rehearsed_and_named_once() -> None:
    parts = [all_parts.tests_part(), all_parts.first_part(), all_parts.second_part(), all_parts.third_part()]
    parts.append(all_parts.fourth_part())
    for part in parts:
        assert len({case["name"] for case in part}) == len(part)
        for case in part:
            rehearsed = run_cases.rehearsed(case)
            assert not {"--fp8", "--precision", "--optim-cpu-offloading"} & set(rehearsed.get("flags", ()))
            assert rehearsed["model"] == "llama_tiny"
            if case.get("again"):
                assert case["again"] in {other["name"] for other in part}


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(100)
"""


@pytest.mark.slow
def test_no_rank_in_a_session_of_its_own_outlives_its_case() -> None:
    """torchrun starts ranks so: one that was left held the memory of all cases after it."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        child = psutil.Process(int(process.stdout.readline()))
        run_cases.end(process)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_cases_time_begins_when_it_has_imported(run: Any) -> None:
    found = run(
        {"name": "slow", "imports": 5, "sleep": 0.1, "timeout": 4.0}, {"name": "late", "sleep": 60, "timeout": 1.0}
    )
    assert "error" not in found["slow"]
    assert found["late"]["error"].startswith("killed, too late")
