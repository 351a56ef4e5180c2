"""Every command of the README that a CPU can run is run, as printed; the others are planned or parsed.

A new shell block in the README has to be given a way to run here, or the test fails.
"""

from typing import Any

import pytest

from tests.docs.readme import BLOCKS, OWN_TEXT, RUN, block_of, make_world, shell

# how a block that starts with these words is tried
NOT_RUN = {
    "make install": ".ci/run makes the environment",
    "python3.11 -m venv": ".ci/run makes the environment in the same way",
    "hf download": "needs the network",
    "python download_example_data": "needs the network; tests/wikipedia runs it against a site of its own",
}
PLANNED = ("python pretrain_llm.py",)


def test_every_block_is_accounted_for():
    known = (*NOT_RUN, *RUN, *PLANNED, OWN_TEXT)
    assert [block for block in BLOCKS if not block.startswith(known)] == []
    assert all(any(block.startswith(start) for block in BLOCKS) for start in known)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_world(tmp_path_factory.mktemp("readme"))


@pytest.mark.slow
def test_the_training_command_is_accepted(world):
    """It asks for 8 GPUs and more data than a test has: planned, with a smaller batch."""
    done = shell(block_of("bash preprocess_data.sh"), world, " --overwrite")
    assert done.returncode == 0, done.stderr
    block = block_of("python pretrain_llm.py").replace("    --nemo-model ${NEMO2_MODEL_DIR} \\\n", "")
    done = shell(block, world, " --dry-run --accelerator gpu --seq-length 128 --global-batch-size 8 --split 50,25,25")
    assert done.returncode == 0, done.stderr
    assert "llama31_8b" in done.stdout
