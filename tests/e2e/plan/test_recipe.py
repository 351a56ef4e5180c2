"""The light packages against NeMo itself: catalogue, parameter counts, and every flag at its recipe field."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.config import flags, optimizer_states
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.recipe_fields import field_values
from nemo_workflow.launch import dry_run
from nemo_workflow.models import catalog
from tests.config.test_resolve import own_flags
from tests.places import Place

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("no_outside")]


# more than a minute: every model of the catalogue is built
@pytest.fixture(scope="module")
def from_nemo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The catalogue made again, from NeMo and every model that a CPU can build on the meta device.

    In a process of its own: NeMo's experts take real address space there, hundreds of gigabytes, and the process that
    holds them can fork no more.
    """
    file = tmp_path_factory.mktemp("catalog") / "catalog.json"
    command = [sys.executable, "-m", "tools.generate_catalog", str(file)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.thorough
def test_the_catalogue_is_what_nemo_says(from_nemo: dict[str, Any]) -> None:
    """Sizes, layouts, stock values, and the parameters of NeMo's own modules (test_memory.py compares ours with them)."""
    ours = json.loads(catalog.FILE.read_text(encoding="utf-8"))
    assert ours["nemo_toolkit"] == from_nemo["nemo_toolkit"]
    assert ours["fields"] == from_nemo["fields"]
    ours, from_nemo = ours["recipes"], from_nemo["recipes"]
    assert sorted(ours) == sorted(from_nemo)
    for name, entry in from_nemo.items():
        assert ours[name] == entry, f"{name}: run python -m tools.generate_catalog"
    assert sum(entry["parameters"] is not None for entry in ours.values()) == 63


# A legal value for every flag that sets a recipe field, other than any recipe's own where that is possible.
VALUES = {
    "--seed": "77",
    "--optimizer": "sgd",
    "--lr": "2.5e-5",
    "--min-lr": "1.5e-6",
    "--warmup-steps": "11",
    "--weight-decay": "0.07",
    "--clip-grad": "0.7",
    "--split": "80,15,5",
    "--val-check-interval": "13",
    "--save-every": "17",
    "--max-steps": "91",
    "--recompute-granularity": "full",
    "--recompute-method": "block",
    "--recompute-num-layers": "1",
}
ADAM = {"--optimizer": "adam", "--adam-beta1": "0.81", "--adam-beta2": "0.91"}
OFFLOAD = [
    "--cpu-offloading",
    "--cpu-offloading-activations",
    "--cpu-offloading-weights",
    "--cpu-offloading-layers",
    "1",
]


def plans(place: Place, name: str) -> list[Plan]:
    """Three plans for a recipe that between them give every flag with a field."""
    recipe = catalog.find(name)
    values = VALUES | ({} if "optim.lr_scheduler.constant_steps" in recipe.lacks else {"--constant-steps": "19"})
    # moments in bf16 need Adam and the distributed optimizer
    moments = ["--optimizer-precision", "fp32"] if recipe.fields[optimizer_states.FIELD] else []
    own = [*own_flags(name), *moments]
    made = [
        place.plan(*own, *flat(values), "--disable-dist-optim", "--deterministic", model_name=name, accelerator=None),
        place.plan(*own, *flat(values | ADAM), "--fp8", model_name=name, accelerator=None),
    ]
    if not recipe.sizes.get("recompute_granularity"):
        expert = recipe.layout["expert"]
        ranks = expert * (recipe.layout["expert_tensor"] or 1)
        flags = {"-N": 1, "-G": ranks, "-EP": expert, "-TP": 1, "-PP": 1, "-CP": 1, "-VPP": 1, "-gbs": max(64, ranks)}
        flags |= {
            "-mbs": 1,
            "--precision": 32,
            "--seq-length": 128,
            "--max-steps": 91,
            "--optim-cpu-offloading-frac": 0.3,
        }
        words = flat({name: str(value) for name, value in flags.items()})
        words += [*moments, *OFFLOAD, "--optim-cpu-offloading", "--accelerator", "gpu", "--dry-run"]
        made.append(place.plan(*words, model_name=name, accelerator=None))
    return made


def flat(values: dict[str, str]) -> list[str]:
    return [word for pair in values.items() for word in pair]


def value_at(recipe: Any, path: str) -> Any:
    for part in path.split("."):
        recipe = getattr(recipe, part)
    return recipe


def test_nemo_llm_is_complete() -> None:
    from nemo.collections import llm

    assert llm.pretrain and llm.import_ckpt and llm.llama32_1b


def test_every_flag_arrives_at_its_field_in_every_recipe(large: Place) -> None:
    """No rule stops them, NeMo's recipe is built, and each value stands where the table of options says."""
    from nemo_workflow.training.recipe import build

    arrived: set[str] = set()
    for name in catalog.load():
        for plan in plans(large, name):
            recipe = build(plan)
            for path, value in field_values(plan).items():
                assert value_at(recipe, path) == value, (name, path)
            for option in flags.TABLE:
                value = plan.settings.of(option)
                if option.attribute in plan.given and option.sets and value is not None:
                    for path in option.sets:
                        assert value_at(recipe, path) == value, (name, option.name, path)
                    arrived.add(option.name)
            assert_precision(recipe, plan)
    assert arrived == {option.name for option in flags.TABLE if option.sets}


def test_unlike_stages_arrive_as_megatron_takes_them(large: Place) -> None:
    """In a plain pipeline as two numbers; with chunks as the words of its own layout, which its own class reads."""
    from megatron.core.transformer.enums import LayerType
    from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout

    from nemo_workflow.training.recipe import build

    words = ["-G", "4", "-PP", "2", "--last-stage-layers", "15", "--seq-length", "128", "--max-steps", "91"]
    words += ["--accelerator", "gpu", "--dry-run"]
    strategy = build(large.plan(*words, model_name="llama31_8b", accelerator=None)).trainer.strategy
    assert strategy.num_layers_in_last_pipeline_stage == 15 and strategy.num_layers_in_first_pipeline_stage is None
    strategy = build(large.plan(*words, "-VPP", "8", model_name="llama31_8b", accelerator=None)).trainer.strategy
    assert strategy.num_layers_in_last_pipeline_stage is None
    read = PipelineParallelLayerLayout.from_str(strategy.pipeline_model_parallel_layout, 2)
    read.validate_layer_layout(32, None)
    layers = [[chunk.count(LayerType.decoder) for chunk in stage] for stage in read.layout]
    assert layers == [[3, 2, 2, 2, 2, 2, 2, 2], [2, 2, 2, 2, 2, 2, 2, 1]]


def test_the_optimizers_states_are_in_the_type_asked_for(large: Place) -> None:
    """DeepSeek V3's are in bf16 unless asked; whole weights in fp32 beside them, or no checkpoint could be loaded."""
    import torch

    from nemo_workflow.training.recipe import build

    for name, asked, kind in (
        ("llama32_1b", "bf16", torch.bfloat16),
        ("llama32_1b", None, torch.float32),
        ("deepseek_v3", None, torch.bfloat16),
        ("deepseek_v3", "fp32", torch.float32),
    ):
        words = [*own_flags(name), "--seq-length", "128", "--max-steps", "91"]
        words += ["--optimizer-precision", asked] if asked else []
        config = build(large.plan(*words, model_name=name, accelerator=None)).optim.config
        assert config.use_precision_aware_optimizer == (kind == torch.bfloat16)
        assert (config.exp_avg_dtype, config.exp_avg_sq_dtype, config.main_params_dtype) == (kind, kind, torch.float32)
        assert config.store_param_remainders == (kind == torch.float32)


@pytest.mark.parametrize("more", [[], ["--precision", "bf16-mixed"], ["--fp8"]])
@pytest.mark.parametrize("name", ["llama32_1b", "nemotronh_8b"])  # the second has a list of plugins
def test_gradients_are_reduced_in_what_is_asked_for(large: Place, name: str, more: list[str]) -> None:
    from nemo.lightning.pytorch.plugins import MegatronMixedPrecision

    from nemo_workflow.training.recipe import build

    words = [*own_flags(name), "--seq-length", "128", "--max-steps", "91", *more]
    for asked in ([], ["--grad-reduce-in-bf16"]):
        plugins = build(large.plan(*words, *asked, model_name=name, accelerator=None)).trainer.plugins
        (mixed,) = [
            plugin
            for plugin in (plugins if isinstance(plugins, list) else [plugins])
            if plugin.__fn_or_cls__ is MegatronMixedPrecision
        ]
        assert mixed.grad_reduce_in_fp32 is not bool(asked)


def assert_precision(recipe: Any, plan: Plan) -> None:
    plugin = recipe.trainer.plugins
    plugin = plugin[0] if isinstance(plugin, list) else plugin
    optimizer = recipe.optim.config
    if plan.settings.precision == "32":
        assert (plugin.precision, optimizer.bf16, optimizer.fp16) == ("32", False, False)
    elif plan.settings.fp8:
        assert (plugin.precision, plugin.fp8, plugin.fp8_recipe, optimizer.bf16) == (
            "bf16-mixed",
            "hybrid",
            "delayed",
            True,
        )


def test_the_dry_run_of_a_slurm_job_shows_its_script(shared: Place) -> None:
    words = "--executor slurm --dry-run -N 2 -TP 2 -gbs 32 --seq-length 128 --max-steps 5 --time 1:00:00"
    plan = shared.plan(*words.split(), model_name="llama3_8b", accelerator=None)
    script = dry_run.render(plan, "text").partition("Job script:\n")[2]
    assert script.startswith("#!/bin/bash")
    assert "#SBATCH --nodes=2" in script
    assert "#SBATCH --time=1:00:00" in script
