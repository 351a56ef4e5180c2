"""Every command of the README that a CPU can run is run, as printed; the others are planned or parsed.

A new shell block in the README has to be given a way to run here, or the test fails.
"""

import json
import shutil
from typing import Any

import pytest

from tests.docs.readme import OWN_TEXT, REPOSITORY, RUN, block_of, make_world, shell


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_world(tmp_path_factory.mktemp("readme"))


@pytest.mark.e2e
def test_the_pipelines_commands_run_as_printed(world):
    for start in RUN:
        done = shell(block_of(start), world)
        assert done.returncode == 0, f"{start}: {done.stderr[-2000:]}"
    assert (world["place"] / "processed" / "preprocessed" / "stdlib_text_document.idx").is_file()
    assert sorted(path.name for path in world["NEMO2_MODEL_DIR"].iterdir() if path.is_dir()) == ["context", "weights"]
    assert (world["OUTPUT_DIR"] / "config.json").is_file()
    shutil.rmtree(world["OUTPUT_DIR"])


@pytest.mark.e2e
def test_own_text_becomes_a_model_that_writes(world, tmp_path):
    """The first page's commands as printed, but for the number of steps, in a folder that holds what a clone holds."""
    for name in ("pretrain_llm.py", "preprocess_data.sh", "examples"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    lines = (world["place"] / "raw" / "stdlib.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "my_text.txt").write_text("\n".join(json.loads(line)["text"] for line in lines), encoding="utf-8")
    done = shell(block_of(OWN_TEXT), world | {"PYTHONPATH": REPOSITORY}, " --max-steps 3", tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Once upon a time" in done.stdout.splitlines()[-1] or "\nOnce upon a time" in done.stdout
    assert (tmp_path / "nemo_experiments" / "my_run" / "hf_model" / "config.json").is_file()
    assert (tmp_path / "nemo_experiments" / "my_run" / "report.html").is_file()
