"""A model's folder from elsewhere: nothing in it makes transformers fetch or run code; a Hub id that isn't here is fetched or refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.models.foreign_code import refuse_code
from nemo_workflow.utils.errors import Refusal
from tests.places import Place

pytestmark = pytest.mark.usefixtures("no_outside")

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {"AutoModelForCausalLM": "code.Model"}},
        {"_attn_implementation_internal": "org/kernel"},
        {"text_config": {"_attn_implementation": "org/kernel:Attention"}},
        {"layers": [{"auto_map": {"AutoConfig": "code.Config"}}]},
    ],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_code_is_refused_by_name(name: str, config: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(config))
    with pytest.raises(Refusal, match=f"{name} has .*makes transformers fetch or run code"):
        refuse_code("--hf-model", tmp_path)


def test_an_honest_folder_passes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_attn_implementation": "sdpa", "auto_map": None}))
    refuse_code("--hf-model", tmp_path)


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_the_commands_refuse_it(command: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "code.Config"}}))
    (tmp_path / "plan.json").write_text("{}")
    more = ["TEXT"] if command == "sample" else ["--run", str(tmp_path)]
    words = [sys.executable, "-m", f"nemo_workflow.{command}", "--hf-model", str(tmp_path), *more]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "auto_map" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("environment", "said"),
    [({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"), ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "can't be reached")],
)
def test_a_hub_id_that_is_not_here_is_refused_before_a_rank_starts(
    environment: dict[str, str], said: str, place: Place
) -> None:
    """A port of this machine on which nobody listens stands for a Hub that can't be reached."""
    flags = place.flags("--hf-model-id", "org/never-downloaded")
    env = os.environ | {"HF_HOME": str(place.root / "hub")} | environment
    words = [sys.executable, "pretrain_llm.py", *flags]
    done = subprocess.run(words, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and said in done.stderr and "hf download" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (place.root / "out").exists()
