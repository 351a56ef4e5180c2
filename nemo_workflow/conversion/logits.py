"""Both models' logits on one fixed batch, a decoder layer at a time, so that neither model is ever in memory whole.

Each model is built without weights; hooks read a layer's weights when its turn comes and let go of them after it. Both are
computed in fp32, where rounding explains differences of about 1e-5 of the logits' spread, and a lost bias, a wrong rotary
table or a swapped projection makes differences that are thousands of times larger.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nemo_workflow.conversion import context
from nemo_workflow.conversion.convert import Model
from nemo_workflow.conversion.family import Config
from nemo_workflow.conversion.hf_folder import HFReader
from nemo_workflow.conversion.nemo_folder import NemoReader

TOKENS = 64
ALLOWED = 1e-3  # of the logits' standard deviation

Read = Callable[[str], torch.Tensor]


def compare_logits(
    model: Model, hf_folder: Path, hf: HFReader, nemo: NemoReader, config_class: str, fields: Config
) -> dict[str, Any]:
    """The report's `logits` entry. `fields` are the NeMo config's. Imports NeMo.

    Logits are [tokens, vocabulary] in fp32; the batch is the same for every model of a vocabulary size.
    """
    tokens = fixed_tokens(model)
    with torch.no_grad():
        ours = megatron_logits(model, nemo, config_class, fields, tokens)
        theirs = transformers_logits(model, hf_folder, hf, tokens)
    difference = (ours - theirs).abs().max().item()
    spread = theirs.std().item()
    agreement = (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
    same = difference <= ALLOWED * spread and torch.isfinite(ours).all().item()
    return {
        "verdict": "same" if same else "different",
        "tokens": tokens.numel(),
        "computed_in": "float32",
        "largest_difference": difference,
        "allowed_difference": ALLOWED * spread,
        "standard_deviation": spread,
        "argmax_agreement": agreement,
    }


def fixed_tokens(model: Model) -> torch.Tensor:
    """[1, TOKENS] token ids, longer where a small sliding window would otherwise not be used."""
    window = model.hf.get("sliding_window") or 0
    count = window + TOKENS // 2 if TOKENS // 2 < window <= 512 else TOKENS
    count = min(count, model.hf["max_position_embeddings"])
    return torch.randint(model.dims.vocab, (1, count), generator=torch.Generator().manual_seed(1234))


# --- transformers -----------------------------------------------------------------------------------------------------
def transformers_logits(model: Model, folder: Path, reader: HFReader, tokens: torch.Tensor) -> torch.Tensor:
    """[tokens, vocabulary] logits of the Hugging Face folder, computed by transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with parameters_on_meta():
        built = AutoModelForCausalLM.from_config(config, torch_dtype=torch.float32, attn_implementation="eager")
    built.eval()
    tied = built.get_input_embeddings().weight is built.get_output_embeddings().weight

    def read(name: str) -> torch.Tensor:
        return reader.read("model.embed_tokens.weight" if tied and name == "lm_head.weight" else name)

    layers = {f"model.layers.{i}": layer for i, layer in enumerate(built.model.layers)}
    with weights_on_demand(built, layers, read, keep=set()):
        return built(input_ids=tokens, use_cache=False).logits[0]


# --- Megatron ---------------------------------------------------------------------------------------------------------
# names of Megatron's own layers -> names in a checkpoint, which are those of Transformer Engine's fused layers
CHECKPOINT_NAMES = (
    (r"\.input_layernorm\.(weight|bias)$", r".self_attention.linear_qkv.layer_norm_\1"),
    (r"\.pre_mlp_layernorm\.(weight|bias)$", r".mlp.linear_fc1.layer_norm_\1"),
    (r"\.mlp\.experts\.local_experts\.(\d+)\.", r".mlp.experts.experts.\1."),
)


def megatron_logits(
    model: Model, reader: NemoReader, config_class: str, fields: Config, tokens: torch.Tensor
) -> torch.Tensor:
    """[tokens, vocabulary] logits of the NeMo checkpoint, computed by Megatron as NeMo configures it."""
    with one_rank():
        config = context.build_config(model.family, config_class, {**fields, "params_dtype": "float32"})
        config.perform_initialization = False
        config.moe_token_dispatcher_type = "allgather"  # one rank: nothing to dispatch, and no CUDA stream to wait for
        config.moe_shared_expert_overlap = False  # which only the other dispatcher computes
        if model.family.local_spec:
            from nemo_workflow.conversion import local_specs

            config.transformer_layer_spec = getattr(local_specs, model.family.local_spec)
        if model.family.tanh_gelu:
            config.activation_func = partial(torch.nn.functional.gelu, approximate="tanh")
        with parameters_on_meta():
            built = nemo_model(model, config_class, config)
        built.eval()

        def read(name: str) -> torch.Tensor:
            tensor = read_megatron(reader, name)
            return tensor[: model.dims.vocab] if "word_embeddings" in name or "output_layer" in name else tensor

        layers = {f"decoder.layers.{i}": layer for i, layer in enumerate(built.decoder.layers)}
        tied = built.share_embeddings_and_output_weights
        keep = {"embedding.word_embeddings"} if tied else set()
        count = tokens.shape[1]
        with weights_on_demand(built, layers, read, keep):
            mask = torch.ones(1, 1, count, count).tril() < 0.5
            return built(tokens, torch.arange(count)[None], mask).float()[0, :, : model.dims.vocab]


def nemo_model(model: Model, config_class: str, config: Any) -> torch.nn.Module:
    """The Megatron module, as NeMo's model class makes it."""
    lightning = context.find_class(model.family, model.family.model_class)(config)
    lightning.configure_model()
    return lightning.module


def read_megatron(reader: NemoReader, name: str) -> torch.Tensor:
    """A parameter of Megatron's own layers, by the name that it has there."""
    names = [name]
    for pattern, replacement in CHECKPOINT_NAMES:
        names += [re.sub(pattern, replacement, known) for known in list(names)]
    for known in names:
        layer = re.search(r"decoder\.layers\.(\d+)\.", known)
        expert = re.search(r"experts\.experts\.(\d+)\.", known)
        template = re.sub(r"decoder\.layers\.\d+\.", "decoder.layers.{l}.", known)
        template = re.sub(r"experts\.experts\.\d+\.", "experts.experts.{e}.", template)
        place = reader.locate(template, int(layer[1]) if layer else None, int(expert[1]) if expert else None)
        if place is not None:
            return reader.read(*place)
    raise KeyError(f"{name} is a parameter of NeMo's model and not in the checkpoint")


@contextlib.contextmanager
def one_rank() -> Iterator[None]:
    """Megatron's process groups, of this process alone."""
    context.prepare()
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("NVTE_")}
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        parallel_state.initialize_model_parallel()
        model_parallel_cuda_manual_seed(1234)
        yield
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()
        for name in [name for name in os.environ if name.startswith("NVTE_")]:  # Megatron sets them for each model
            del os.environ[name]
        os.environ.update(kept)


# --- models without weights -------------------------------------------------------------------------------------------
@contextlib.contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Modules made inside have parameters without storage; buffers (rotary tables) are real."""
    original = torch.nn.Module.register_parameter

    def register(self: torch.nn.Module, name: str, param: torch.nn.Parameter | None) -> None:
        original(self, name, param)
        if param is not None and not param.is_meta:  # a tied parameter stays one object
            meta = torch.nn.Parameter(param.detach().to("meta"), requires_grad=False)
            meta.__dict__.update(param.__dict__)
            self._parameters[name] = meta

    torch.nn.Module.register_parameter = register
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = original


@contextlib.contextmanager
def weights_on_demand(
    root: torch.nn.Module, layers: dict[str, torch.nn.Module], read: Read, keep: set[str]
) -> Iterator[None]:
    """Give each layer, and each module outside the layers, its weights (in fp32) for its own forward pass only.

    Modules named in `keep` hold theirs until the end.
    """
    inside = {id(module) for layer in layers.values() for module in layer.modules()}
    units = dict(layers)
    for name, module in root.named_modules():
        if id(module) not in inside and module._parameters:
            units[name] = module
    handles = []
    for name, unit in units.items():
        handles.append(unit.register_forward_pre_hook(_load(name, read)))
        if name not in keep:
            handles.append(unit.register_forward_hook(_release))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _load(prefix: str, read: Read) -> Callable[..., None]:
    def hook(unit: torch.nn.Module, inputs: Any) -> None:
        for name, module in unit.named_modules():
            for own, param in module._parameters.items():
                if param is not None and param.is_meta:
                    path = ".".join(part for part in (prefix, name, own) if part)
                    value = read(path)
                    if value.shape != param.shape:
                        raise ValueError(
                            f"{path}: {tuple(value.shape)} in the files, {tuple(param.shape)} in the model"
                        )
                    module._parameters[own] = torch.nn.Parameter(value.float(), requires_grad=False)

    return hook


def _release(unit: torch.nn.Module, inputs: Any, output: Any) -> None:
    for module in unit.modules():
        for own, param in module._parameters.items():
            if param is not None:
                module._parameters[own] = torch.nn.Parameter(param.detach().to("meta"), requires_grad=False)
