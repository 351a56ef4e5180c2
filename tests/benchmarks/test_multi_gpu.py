"""The rows of benchmarks/multi_gpu.py, with made-up runs in place of pretrain_llm.py: when a row says that something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import multi_gpu

Steps = list[dict[str, Any]]
STEPS = 6


def run_of(shift: float = 0.0, steps: int = STEPS, first: int = 1) -> Steps:
    return [{"step": n, "loss": 8 - n / 10 + shift, "consumed_samples": 16 * n} for n in range(first, first + steps)]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def table(part: str, runs: dict[str, Any], *words: str) -> tuple[int, dict[str, dict[str, str]]]:
        def run(bench: Any, name: str, ranks: int, flags: list[str]) -> Steps:
            found = runs.get(name, run_of())
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(multi_gpu.multi_gpu_models, "prepare", lambda folder: None)
        monkeypatch.setattr(multi_gpu.Bench, "run", run)
        monkeypatch.setattr(multi_gpu.Bench, "steps", lambda bench, name: runs.get(name, []))
        monkeypatch.setattr(multi_gpu.Bench, "start", lambda *a: runs.get("process"))
        monkeypatch.setattr(multi_gpu, "stop_after", lambda *a: None)
        out = ["--gpus", "4", "--accelerator", "cpu", "--steps", str(STEPS), "--parts", part, "--out", str(tmp_path)]
        code = multi_gpu.main([*out, *words])
        rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
        return code, {row["what"]: row for row in rows}

    return table


def test_every_layout_has_a_row_and_those_apart_are_wrong(table: Any) -> None:
    code, rows = table("parity", {"TP2": run_of(0.03), "PP2": run_of(steps=5), "EP2": RuntimeError("no\nroom")})
    assert set(rows) == {f"losses {name}" for name in multi_gpu.LAYOUTS}
    assert {what for what, row in rows.items() if row["verdict"] == "WRONG"} == {
        "losses TP2",
        "losses PP2",
        "losses EP2",
    }
    assert rows["losses TP2"]["seen"].endswith("at most 0.0300 apart")
    assert rows["losses PP2"]["seen"] == "5 of 6 steps"
    assert rows["losses EP2"]["seen"] == "failed: no room"
    assert rows["losses CP2"] == {"what": "losses CP2", "seen": rows["losses CP2"]["seen"], "verdict": ""}
    assert code == 1


def test_all_right_is_exit_code_0(table: Any) -> None:
    code, rows = table("parity", {}, "--layouts", "DP2,TP2")
    assert (code, set(rows)) == (0, {"losses DP2", "losses TP2"})


@pytest.mark.parametrize(("moved", "verdict"), [
    (run_of(), "ok"),
    (run_of()[:3] + run_of()[2:], "WRONG"),  # a step twice
    ([{**step, "consumed_samples": step["consumed_samples"] + 16 * (step["step"] > 3)} for step in run_of()], "WRONG"),
    (run_of(steps=3) + run_of(0.5, steps=3, first=4), "WRONG"),
])  # fmt: skip
def test_a_moved_run_must_see_each_sample_once(moved: Steps, verdict: str, table: Any) -> None:
    _, rows = table("resume", {"moved": moved, "one_dense": run_of()})
    assert next(iter(rows.values()))["verdict"] == verdict


def test_scaling_is_measured_against_the_least_number_and_what_is_wanted() -> None:
    assert multi_gpu.scaled(960.0, 1000.0, 1, 0) == ("960 tokens/s/GPU, 96.0% of that at 1", True)
    assert multi_gpu.scaled(940.0, 1000.0, 1, 0)[1] is False
    assert multi_gpu.scaled(10_000.0, 10_000.0, 4, 10_500)[1] is False


@pytest.mark.parametrize(("begun", "saved", "last", "verdict"), [
    (5, 5, STEPS, "ok"),
    (0, 0, STEPS, "WRONG"),  # it began again: its checkpoint was not whole when the rank was killed
    (0, 5, STEPS, "WRONG"),  # a checkpoint that was not used
    (5, 5, STEPS - 1, "WRONG"),
])  # fmt: skip
def test_the_same_command_after_a_dead_rank_must_go_on_from_a_checkpoint(
    begun: int, saved: int, last: int, verdict: str, table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen(["sleep", "60"])
    looks = iter([0, 0, max(saved, 1)])  # before the kill it waits for a whole checkpoint
    monkeypatch.setattr(multi_gpu, "saved_step", lambda *a: next(looks, saved))
    monkeypatch.setattr(multi_gpu, "starts", lambda *a: [0, begun])
    monkeypatch.setattr(multi_gpu, "ranks_of", lambda pid: [multi_gpu.psutil.Process(pid)])
    _, rows = table("dead_rank", {"dead": run_of(steps=last), "process": process})
    assert next(looks, None) is None
    assert rows["kill -9 of a rank"]["verdict"] == "ok"
    assert rows["the same command again"]["verdict"] == verdict


def test_fp8_may_lie_farther_from_bf16(table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(multi_gpu.LAYOUTS, "TP4+SP fp8", multi_gpu.LAYOUTS["TP4+SP fp8"]._replace(cpu=True))
    shifted = {"TP4_SP_fp8": run_of(0.03), "TP4_SP": run_of(0.03)}
    _, rows = table("parity", shifted, "--layouts", "TP4+SP fp8,TP4+SP")
    assert [rows[f"losses {name}"]["verdict"] for name in ("TP4+SP fp8", "TP4+SP")] == ["ok", "WRONG"]
