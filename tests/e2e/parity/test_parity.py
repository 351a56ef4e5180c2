"""Real training on one and two CPU ranks: the layouts agree, and each patch is still needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.backends.registry_cpu import CPU_PATCHES
from tests.waiting import LIMIT

pytestmark = pytest.mark.e2e

STEPS, SAVED = 12, 6
TOLERANCE = 0.01  # nats, at each of the steps
SHARDED = {"use_distributed_optimizer": True}
PP2 = {"pipeline_model_parallel_size": 2}
VPP2 = {**PP2, "virtual_pipeline_model_parallel_size": 2}
TP2 = {"tensor_model_parallel_size": 2}
TP2_SP = {**TP2, "sequence_parallel": True}
DROPOUT = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
MOE = {"num_moe_experts": 4, "moe_router_topk": 2, "moe_token_dispatcher_type": "alltoall"}
VPP_SAFE = {"overlap_p2p_comm": True, "batch_p2p_comm": False, "deallocate_pipeline_outputs": False}


def recompute(granularity: str, method: str | None = None, layers: int | None = None) -> dict[str, Any]:
    return {"recompute_granularity": granularity, "recompute_method": method, "recompute_num_layers": layers}


# case -> (the one-rank run it must agree with, what it is)
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "tp2": ("one", {"ranks": 2, "strategy": TP2}),
    "tp2_sp": ("one", {"ranks": 2, "strategy": TP2_SP}),
    "pp2": ("one", {"ranks": 2, "strategy": PP2}),
    "pp2_tied": ("one_tied", {"ranks": 2, "strategy": PP2, "start": "start_tied"}),
    "vpp2": ("one", {"ranks": 2, "strategy": VPP2, "config": VPP_SAFE}),
    "dp2": ("one", {"ranks": 2}),
    "dp2_sharded": ("one", {"ranks": 2, "ddp": SHARDED}),
    "dp2_overlap": (
        "one",
        {"ranks": 2, "ddp": {**SHARDED, "overlap_grad_reduce": True, "overlap_param_gather": True}},
    ),
    "full_uniform": ("one", {"config": recompute("full", "uniform", 1)}),
    "full_block": ("one", {"config": recompute("full", "block", 2)}),
    "selective": ("one", {"config": recompute("selective")}),
    "comm_overlap": ("one", {"comm_overlap": True}),
    "dropout_recompute": ("dropout", {"config": {**DROPOUT, **recompute("full", "uniform", 1)}}),
}
for _, _case in LAYOUTS.values():
    if _case.get("start") == "start_tied":
        _case["config"] = {"share_embeddings_and_output_weights": True}

# patch -> a one-rank case that fails without it
FAILS_WITHOUT: dict[str, dict[str, Any]] = {
    "current_device": {},
    "get_device_capability": {"comm_overlap": True},
    "stream_class": {},
    "current_stream": {"start": None, "config": MOE},
    "factory": {},
    "tensor_cuda": {},
    "tensor_to": {},
    "tensor_type": {},
    "get_rng_state": {"config": recompute("full", "uniform", 1)},
    "add_stream": {},
    "plain_operations": {},
    "no_te_matrix_product": {"start": None, "config": MOE},
    "tensors_stay": {},
    "synchronize": {"experiment": "synchronize", "max_steps": 2},
    "leave_step_out": {"ddp": SHARDED, "experiment": "leave_step_out", "max_steps": 2},
    "state_dict_before_the_first_step": {
        "ddp": SHARDED,
        "experiment": "before",
        "copy_of": "sharded",
        "max_steps": SAVED + 1,
    },
    "keep_step": {"ddp": SHARDED, "experiment": "keep_step", "copy_of": "sharded", "max_steps": SAVED + 1},
}
# patches whose want is silent or shows otherwise: each has a test below
OTHERWISE_TESTED = {"one_step_a_parameter", "local_parameter_names", "plain_norm", "seed_streams"}
WITHOUT_TRAINING = {
    "fork_stream",
    "set_rng_state",
    "forked_results_queue",
    "nothing_to_gather",
    "disable_compile",
    "split_sizes_as_numbers",
}


def _pairs(cases: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Two one-rank cases a step, one a process."""
    return [cases[start : start + 2] for start in range(0, len(cases), 2)]


def _steps() -> list[Any]:
    one_rank = [{"name": name, **case} for name, (_, case) in LAYOUTS.items() if "ranks" not in case]
    two_ranks = [{"name": name, **case} for name, (_, case) in LAYOUTS.items() if "ranks" in case]
    resumed = {"ranks": 2, "ddp": SHARDED, "experiment": "resumed"}
    failing = [
        {"name": f"without_{patch}", "without": patch, "max_steps": 1, **case} for patch, case in FAILS_WITHOUT.items()
    ]
    return [
        [{"name": "start", "import": True}, {"name": "start_tied", "import": True, "tied": True}],
        [{"name": "one"}],  # alone: it builds the dataset's index
        [
            {"name": "one_tied", "start": "start_tied", "config": {"share_embeddings_and_output_weights": True}},
            {"name": "dropout", "config": DROPOUT},
        ],
        *_pairs([*one_rank, {"name": "moe", "start": None, "config": MOE}]),
        *two_ranks,
        {"name": "resumed_a", "max_steps": SAVED, **resumed},
        {"name": "resumed_b", **resumed},
        {"name": "vpp2_defaults", "ranks": 2, "strategy": VPP2},
        [{"name": "sharded", "max_steps": SAVED, "ddp": SHARDED, "experiment": "sharded"}],
        *_pairs(
            [
                {
                    "name": "sharded_on",
                    "max_steps": SAVED + 2,
                    "ddp": SHARDED,
                    "experiment": "on",
                    "copy_of": "sharded",
                },
                {
                    "name": "without_one_step_a_parameter",
                    "without": "one_step_a_parameter",
                    "max_steps": SAVED + 2,
                    "ddp": SHARDED,
                    "experiment": "steps",
                    "copy_of": "sharded",
                },
                {"name": "without_local_parameter_names", "without": "local_parameter_names", "import": True},
                {"name": "without_plain_norm", "without": "plain_norm", "import": True},
                {"name": "without_seed_streams", "without": "seed_streams", "max_steps": 1},
                *failing,
            ]
        ),
    ]


# more than a minute: the trainings of all cases, once for all tests of this file
@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worker's folder after all cases have run, all in one pair of processes."""
    folder = tmp_path_factory.mktemp("parity")
    (folder / "results").mkdir()
    (folder / "steps.json").write_text(json.dumps(_steps()))
    repository = Path(__file__).parents[3]
    worker = Path(__file__).with_name("parity_worker.py")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", worker, folder],
        env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
        stdout=(folder / "log").open("w"),
        stderr=subprocess.STDOUT,
        timeout=LIMIT,
    )
    assert done.returncode == 0, (folder / "log").read_text()[-4000:]
    return folder


def result(folder: Path, name: str, rank: int = 0) -> Any:
    return json.loads((folder / "results" / f"{name}.{rank}.json").read_text())


def losses(folder: Path, name: str, rank: int = 0) -> dict[int, float]:
    found = result(folder, name, rank)
    assert "error" not in found, found["error"]
    return {int(step): loss for step, loss in found["losses"].items()}


def largest_difference(one: dict[int, float], other: dict[int, float]) -> float:
    assert one.keys() == other.keys() and len(one) == STEPS
    return max(abs(one[step] - other[step]) for step in one)


def test_one_rank_learns(folder: Path) -> None:
    for name in ("one", "one_tied", "dropout", "moe"):
        found = losses(folder, name)
        assert found[STEPS] < found[1] - 0.5, f"{name}: {found}"


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_agrees_with_one_rank(folder: Path, name: str) -> None:
    reference, case = LAYOUTS[name]
    expected = losses(folder, reference)
    for rank in range(case.get("ranks", 1)):  # every rank reports the loss of the whole batch
        assert largest_difference(losses(folder, name, rank), expected) < TOLERANCE


@pytest.mark.parametrize("name", ["one", "dp2", "dp2_sharded", "pp2", "tp2_sp"])
def test_every_step_has_the_whole_models_gradient_norm(folder: Path, name: str) -> None:
    expected = result(folder, "one")["grad_norms"]
    found = result(folder, name)["grad_norms"]
    assert found.keys() == expected.keys() and len(found) == STEPS
    for step in found:
        assert found[step] == pytest.approx(expected[step], rel=0.03)


def test_dropout_is_really_on(folder: Path) -> None:
    assert largest_difference(losses(folder, "dropout"), losses(folder, "one")) > TOLERANCE


def test_virtual_stages_go_wrong_in_the_default_setting(folder: Path) -> None:
    """Why it is refused: if this ever agrees, the refusal can go."""
    assert largest_difference(losses(folder, "vpp2_defaults"), losses(folder, "one")) > 10 * TOLERANCE


def test_distributed_optimizer_resumes_exactly(folder: Path) -> None:
    whole = losses(folder, "dp2_sharded")
    assert {**losses(folder, "resumed_a"), **losses(folder, "resumed_b")} == whole


def test_random_streams_differ_between_tensor_parallel_ranks(folder: Path) -> None:
    first, second = (result(folder, "tp2", rank)["streams"] for rank in (0, 1))
    assert first["model-parallel-rng"] != second["model-parallel-rng"]
    assert first["data-parallel-rng"] == second["data-parallel-rng"]
    assert result(folder, "without_seed_streams")["streams"] == {}


def test_import_maps_the_norms(folder: Path) -> None:
    assert result(folder, "start")["norms"] == json.loads((folder / "hf_norms.json").read_text())
    assert result(folder, "start_tied")["norms"] == json.loads((folder / "hf_tied_norms.json").read_text())


def test_unpatched_import_loses_the_norms(folder: Path) -> None:
    found = result(folder, "without_local_parameter_names")
    assert found.get("norms") != json.loads((folder / "hf_norms.json").read_text())
    assert "dtype mismatch" in result(folder, "without_plain_norm")["error"]


def test_unpatched_steps_are_counted_wrong(folder: Path) -> None:
    assert losses(folder, "sharded_on")[SAVED + 2] != losses(folder, "without_one_step_a_parameter")[SAVED + 2]


@pytest.mark.parametrize("patch", FAILS_WITHOUT)
def test_training_fails_without(folder: Path, patch: str) -> None:
    """If this one trains, the library has mended it: delete the patch."""
    assert "error" in result(folder, f"without_{patch}")


@pytest.mark.parametrize("patch", sorted(WITHOUT_TRAINING))
def test_library_still_behaves_as_the_patch_says(folder: Path, patch: str) -> None:
    assert result(folder, "original_behaviour")[patch] is True


def test_no_module_holds_an_unpatched_function(folder: Path) -> None:
    assert result(folder, "stale") == []


def test_every_patch_has_a_test_of_its_need(folder: Path) -> None:
    assert {row.name for row in CPU_PATCHES} == FAILS_WITHOUT.keys() | OTHERWISE_TESTED | WITHOUT_TRAINING
