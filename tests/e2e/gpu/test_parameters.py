"""Parameter counts of the recipes that only a machine with Transformer Engine can build."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from nemo_workflow.models import catalog, parameters, recipes
from nemo_workflow.training import gpu_settings

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("no_outside")]


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    from nemo_workflow.backends import memory_pool

    memory_pool.leave_out()
    import torch
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(1)
    yield
    parallel_state.destroy_model_parallel()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def mamba() -> None:
    """mamba-ssm is not needed to count: its kernels are only called in training, and its norm has one weight."""
    import torch
    from megatron.core.ssm import mamba_mixer

    if mamba_mixer.HAVE_MAMBA_SSM:
        return

    class GatedNorm(torch.nn.Module):
        def __init__(self, width: int, **_: object):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(width))

    mamba_mixer.HAVE_MAMBA_SSM = True
    mamba_mixer.ExtendedRMSNorm = GatedNorm


class Vocabulary:
    def __init__(self, size: int):
        self.vocab_size = size


@pytest.mark.parametrize("name", list(catalog.load()))
def test_parameters_are_nemos(one_rank: None, mamba: None, name: str) -> None:
    import fiddle as fdl
    import torch

    for variable in ("NVTE_FUSED_ATTN", "NVTE_FLASH_ATTN", "NVTE_UNFUSED_ATTN"):
        os.environ.pop(variable, None)
    package = "nemo_workflow.models.recipes" if name in recipes.NAMES else "nemo.collections.llm.recipes"
    recipe = catalog.find(name)
    module = importlib.import_module(f"{package}.{name}")
    config = fdl.build(module.pretrain_recipe(dir="/recipe", name=name).model.config)
    config.perform_initialization = False
    config.gradient_accumulation_fusion = False  # DeepSeek's needs Apex, or what stands in for it in a training
    if find_spec(gpu_settings.FULL_LAYERS) is None:
        config.use_transformer_engine_full_layer_spec = False
    config.init_model_with_meta_device = True
    with torch.device("meta"):
        model = config.configure_model(Vocabulary(recipe.reference_vocab))
    vocabulary = parameters.padded_vocabulary(recipe.sizes, recipe.reference_vocab)
    count = parameters.count(recipe.family, recipe.model_class, recipe.sizes, vocabulary)
    assert count.total == sum(parameter.numel() for parameter in model.parameters())
