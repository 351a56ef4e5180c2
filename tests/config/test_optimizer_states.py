"""--optimizer-precision in the plan: bytes, recipe fields, the time of a step."""

from __future__ import annotations

from nemo_workflow.backends import UPDATE_PIECE
from nemo_workflow.config import step_time
from nemo_workflow.config.memory import fullest
from nemo_workflow.config.recipe_fields import field_values
from nemo_workflow.launch import dry_run
from nemo_workflow.models import catalog
from nemo_workflow.utils import gpus
from tests.config.test_memory import EVERY_LAYER, job, on
from tests.places import Place

FIELD = "optim.config.use_precision_aware_optimizer"


def test_moments_in_bf16_take_four_bytes_a_parameter_less() -> None:
    fp32, bf16 = fullest(job(2)), fullest(job(2, bf16_moments=True))
    assert fp32.optimizer - bf16.optimizer == 4 * fp32.parameters
    assert fp32.total - bf16.total == 4 * fp32.parameters  # a step with activations is the most
    assert (fp32.weights, fp32.gradients) == (bf16.weights, bf16.gradients)
    shared = fullest(on(job(2, bf16_moments=True), data=8))
    assert shared.optimizer == bf16.optimizer // 8


def test_an_update_holds_fp32_copies_of_a_piece() -> None:
    fp32 = fullest(job(1))
    assert fp32.update == fp32.weights + fp32.gradients + fp32.optimizer
    bf16 = fullest(job(1, bf16_moments=True))
    embedding = 128_256 * 2048
    assert embedding > UPDATE_PIECE
    assert bf16.update - bf16.weights - bf16.gradients - bf16.optimizer == 10 * embedding
    shared = fullest(on(job(1, bf16_moments=True), data=64))  # of a share that is smaller than the embedding, all
    assert shared.update - shared.weights - shared.gradients - shared.optimizer == 10 * bf16.parameters // 64
    few = fullest(job(1, seq_length=128, bf16_moments=True, **EVERY_LAYER))
    assert few.total == few.update + few.libraries > few.setup + few.libraries


def test_gradients_in_bf16_take_two_bytes_a_parameter_less(place: Place) -> None:
    words = ["--accelerator", "gpu", "--dry-run", "-G", "1", "--gpu", "h100"]
    plain, bf16 = (place.plan(*words, *more) for more in ([], ["--grad-reduce-in-bf16"]))
    told = [dry_run.describe(plan)["memory"] for plan in (plain, bf16)]
    assert told[0]["gradients"] - told[1]["gradients"] == 2 * told[0]["parameters_on_gpu"]


def test_the_plan_has_it(place: Place) -> None:
    words = ["--accelerator", "gpu", "--dry-run", "-G", "1", "--gpu", "h100"]
    plain, bf16 = (place.plan(*words, *more) for more in ([], ["--optimizer-precision", "bf16"]))
    told = [dry_run.describe(plan) for plan in (plain, bf16)]
    parameters = told[0]["memory"]["parameters_on_gpu"]
    assert told[0]["memory"]["optimizer"] - told[1]["memory"]["optimizer"] == 4 * parameters
    assert {"field": FIELD, "stock": False, "ours": True} in told[1]["differences"]
    assert FIELD not in field_values(plain)
    assert field_values(place.plan(*words, "--optimizer-precision", "fp32"))[FIELD] is False


def test_a_recipe_that_keeps_its_moments_in_bf16_is_planned_so() -> None:
    own = [name for name, recipe in catalog.load().items() if recipe.fields[FIELD]]
    assert own == ["deepseek_v3"]


def test_copies_to_fp32_and_back_take_time() -> None:
    cluster = step_time.Cluster(gpus.BY_KEY["h100"], 1)
    plain, bf16 = (step_time.estimate(job(2, bf16_moments=on), cluster).parts["optimizer"] for on in (False, True))
    assert 1.5 < bf16 / plain < 2
