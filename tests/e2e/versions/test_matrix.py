"""The versions of NVIDIA's containers, laid over this environment's packages. `make matrix` trains with all of them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from nemo_workflow.models import catalog
from nemo_workflow.utils.errors import Failure
from tests.e2e.run.conftest import make_corpus
from tools import version_matrix
from tools.version_matrix import STACKS, Stack

pytestmark = [pytest.mark.e2e, pytest.mark.thorough]

TRITON = find_spec("triton") is not None

# recipes that need Transformer Engine or Triton (which a CUDA build of torch brings) to build, and those that are another model than the catalogue's
EXPECTED = {
    "25.09": (0, {"gemma2_27b": {"kv_channels": [128, 256]}, "gemma3_1b": {"activation": ["gelu", "openai_gelu"]}}),
    "25.11": (0, {"gemma3_1b": {"activation": ["gelu", "openai_gelu"]}}),
    "26.02": (0 if TRITON else 13, {}),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(params=STACKS, ids=lambda stack: stack.tag)
def stack(request: pytest.FixtureRequest) -> Stack:
    made: Stack = request.param
    try:
        made.overlay()
    except Failure as failure:
        pytest.skip(str(failure))
    return made


# what rank 0 does first, in the process that builds the recipes; a whole run would need the model's memory
CHECK = """
import json, sys
import json
from pathlib import Path
from nemo_workflow.config.command_line import parse
from nemo_workflow.config.resolve import make_plan
from nemo_workflow.training.recipe_check import check_recipe
from nemo_workflow.utils.errors import Failure
from tools import version_matrix
found = version_matrix.inside()
said = found["said"] = {}
for name in ("gemma2_27b", "mistral_small3_24b") if found["nemo"] == "2.5.3" else ():
    plan = make_plan(parse([*sys.argv[1:], "--model-name", name, "--dry-run"]))
    Path(plan.run_dir).mkdir(parents=True, exist_ok=True)
    try:
        check_recipe(plan, Path(plan.run_dir), print)
    except Failure as failure:
        said[name] = str(failure)
print(json.dumps(found))
"""


def test_everything_is_imported_and_the_recipes_build(stack: Stack, corpus: Path, tmp_path: Path) -> None:
    """And a recipe that is another model in the oldest is refused before it is built."""
    flags = [*version_matrix._flags(corpus, tmp_path, "run")[2:], "--accelerator", "gpu", "--num-gpus", "1"]
    found = json.loads(stack.run("-c", CHECK, *flags).stdout.splitlines()[-1])
    failing, other = EXPECTED[stack.tag]
    assert found["nemo"] == stack.nemo
    assert (len(found["fails"]), found["other"]) == (failing, other)
    assert found["missing"] == (["mistral_small3_24b"] if stack.tag == "25.09" else [])
    assert all("default_mamba_stack_spec" in why for why in found["fails"].values())
    if stack.nemo == "2.5.3":
        said = found["said"]
        assert "gemma2_27b: in NeMo 2.5.3 it is another model (kv_channels 256 instead of 128)" in said["gemma2_27b"]
        no_such = "NeMo 2.5.3 has no such recipe; the plan was made for NeMo 2.7.3"
        assert no_such in said["mistral_small3_24b"]
    # the page tells of torch's CPU build
    builds = f"{len(found['builds']) - (13 if TRITON and stack.tag == '26.02' else 0)} of {len(catalog.load())}"
    assert f"| {stack.nemo} | {stack.megatron} | {stack.nemo_run} | {builds}" in version_matrix.PAGE.read_text()


def test_a_job_script_is_written(stack: Stack, corpus: Path, tmp_path: Path) -> None:
    script = version_matrix.slurm_script(stack, corpus, tmp_path)
    lines = script.splitlines()
    (srun,) = [line for line in lines if line.startswith("srun ") and "--container-image" in line]
    assert lines[0] == "#!/bin/bash" and "#SBATCH --partition=p" in lines
    assert srun.endswith('"$nw_python" "$nw_attempt/code/rank.py" "$nw_attempt"')


# more than a minute: two starts and an export, each of which imports NeMo
def test_the_oldest_trains_resumes_at_another_layout_and_exports(corpus: Path, tmp_path: Path) -> None:
    """NeMo 2.5 has no ckpt_optim_fully_reshardable: its own format is read at another TP and PP."""
    made = version_matrix.train(STACKS[0], corpus, tmp_path, stops=())
    assert made["resumed_after"] == [0, 6]
    losses = {int(step): loss for step, loss in made["losses"].items()}
    assert losses[6] < losses[1] - 0.2 and abs(losses[7] - losses[6]) < 0.2
    assert made["export"]["verified"] is True
    assert made["versions"]["nemo_toolkit"] == "2.5.3" and made["versions"]["megatron-core"] == "0.14.0"
