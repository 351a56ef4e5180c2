"""Both models' logits on one fixed batch, a stage at a time (embedding, each decoder layer, output), so that neither model is
ever in memory whole.

Each model is built without weights. Both compute at once, in step: when both have come to a stage, its tensors are read and
compared (`verify`), hooks give each module its weights, and let go of them after it. Both are computed in fp32, where rounding
explains differences of about 1e-5 of the logits' spread, and a lost bias, a wrong rotary table or a swapped projection makes
differences that are thousands of times larger.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nemo_workflow.backends.patching import replaced
from nemo_workflow.backends.registry import find
from nemo_workflow.conversion import nemo_context, reference
from nemo_workflow.conversion.buffers import only_rows
from nemo_workflow.conversion.compare_tensors import Comparison, Weights
from nemo_workflow.conversion.convert import Model, Place
from nemo_workflow.conversion.nemo_folder import NemoReader
from nemo_workflow.models.families.base import Config
from nemo_workflow.utils.errors import Failure, Refusal

TOKENS = 64
ALLOWED = 1e-3  # of the logits' standard deviation
PIECE = 8192  # entries of the vocabulary

Read = Callable[[str], torch.Tensor]
Forward = Callable[[], torch.Tensor]


def prove(comparison: Comparison, hf_folder: Path, config_class: str, fields: Config) -> tuple[Config, Config]:
    """The report's `tensors` and `logits` entries. `fields` are the NeMo config's. Imports NeMo.

    Logits are [tokens, vocabulary] in fp32; the batch is the same for every model of a vocabulary size.
    """
    model = comparison.model
    tokens = fixed_tokens(model)
    walk = Walk(comparison)
    with one_rank():
        with computing("transformers"):
            theirs = transformers_forward(model, hf_folder, walk, tokens)
        with computing("NeMo"):
            ours = megatron_forward(model, walk, config_class, fields, tokens)
        logits = compare_logits(*walk.run(ours, theirs))
    return comparison.result(), {**logits, "tokens": tokens.numel()}


@contextlib.contextmanager
def computing(library: str) -> Iterator[None]:
    """Whatever a library stumbles over when it builds or computes a model is a refusal in words; memory that is out is not."""
    try:
        yield
    except (MemoryError, threading.BrokenBarrierError):
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise Refusal(
            f"config.json: {library} can't compute the model that it describes, to compare both ({first}); take the one that the"
            " model came with"
        ) from error


def compare_logits(ours: torch.Tensor, theirs: torch.Tensor) -> Config:
    """The verdict on NeMo's and the Hugging Face model's logits."""
    difference = (ours - theirs).abs().max().item()
    spread = theirs.std().item()
    agreement = (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
    same = difference <= ALLOWED * spread and torch.isfinite(ours).all().item()
    return {
        "verdict": "same" if same else "different",
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
    longest = model.family.exact_up_to(model.hf) or count
    count = min(count, longest, model.hf["max_position_embeddings"])
    return torch.randint(model.dims.vocab, (1, count), generator=torch.Generator().manual_seed(1234))


# --- two models in step -----------------------------------------------------------------------------------------------
class Walk:
    """Leads both models through the stages of a Comparison; one that comes to a stage first waits for the other.

    While they compute a stage, the next one is compared.
    """

    def __init__(self, comparison: Comparison):
        self.comparison = comparison
        self.last = len(comparison.stages) - 1
        self.weights = Weights()
        self._number = -1
        self._pool = ThreadPoolExecutor(2)  # one model, and the comparison
        self._coming = self._pool.submit(comparison.stage, 0)
        self._both = threading.Barrier(2, action=self._next)

    def _next(self) -> None:
        self.weights = self._coming.result()
        self._number += 1
        if self._number < self.last:
            self._coming = self._pool.submit(self.comparison.stage, self._number + 1)

    def enter(self, number: int) -> None:
        """Wait for the other model; from then on `weights` are those of stage `number`."""
        self._both.wait()
        if self._number != number:
            raise AssertionError(f"stage {number} of one model is stage {self._number} of the other")

    def run(self, ours: Forward, theirs: Forward) -> tuple[torch.Tensor, torch.Tensor]:
        """Both models' logits; if one fails, its error."""
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads // 2))
        try:
            with self._pool:
                other = self._pool.submit(self._guarded, theirs)
                try:
                    first = self._guarded(ours)
                except threading.BrokenBarrierError:
                    other.result()
                    raise
                return first, other.result()
        finally:
            torch.set_num_threads(threads)

    def _guarded(self, forward: Forward) -> torch.Tensor:
        try:
            with torch.no_grad():
                return forward()
        except BaseException:
            self._both.abort()
            raise


# --- transformers -----------------------------------------------------------------------------------------------------
def transformers_forward(model: Model, folder: Path, walk: Walk, tokens: torch.Tensor) -> Forward:
    """Gives [tokens, vocabulary] logits of the Hugging Face folder, computed by transformers."""
    from transformers import AutoModelForCausalLM

    config = reference.config_of(model, folder)
    with parameters_on_meta():
        built = AutoModelForCausalLM.from_config(config, torch_dtype=torch.float32, attn_implementation="eager")
    built.eval()
    if model.family.mend_reference:
        model.family.mend_reference(built, model.hf)
    embedding, output = built.get_input_embeddings(), built.get_output_embeddings()
    names = {module: name for name, module in built.named_modules()}
    tied = {f"{names[output]}.weight": f"{names[embedding]}.weight"} if embedding.weight is output.weight else {}

    def read(name: str) -> torch.Tensor:
        name, taken = reference.source_of(model, tied.get(name, name))
        if name not in walk.comparison.hf.tensors:
            raise Failure(f"{name} is a parameter of the Hugging Face model and not in its folder")
        found = walk.weights.hf.get(name)
        return taken(walk.comparison.hf.read(name) if found is None else found)

    layers = {
        name: module for name, module in built.named_modules() if name.rsplit(".", 1)[0] == model.family.hf_layers
    }

    ends = Ends(embedding, output, f"{names[output]}.weight")

    def forward() -> torch.Tensor:
        with computing("transformers"), weights_on_demand(built, layers, walk, read, ends, tokens):
            return built(input_ids=tokens, use_cache=False).logits[0]

    return forward


# --- Megatron ---------------------------------------------------------------------------------------------------------
# names of Megatron's own layers -> names in a checkpoint, which are those of Transformer Engine's fused layers
CHECKPOINT_NAMES = (
    (r"\.input_layernorm\.(weight|bias)$", r".self_attention.linear_qkv.layer_norm_\1"),
    (r"\.pre_mlp_layernorm\.(weight|bias)$", r".mlp.linear_fc1.layer_norm_\1"),
    (r"\.mlp\.experts\.local_experts\.(\d+)\.", r".mlp.experts.experts.\1."),
)


def megatron_forward(model: Model, walk: Walk, config_class: str, fields: Config, tokens: torch.Tensor) -> Forward:
    """Gives [tokens, vocabulary] logits of the NeMo checkpoint, computed by Megatron as NeMo configures it."""
    config = nemo_context.build_config(model.family, config_class, {**fields, "params_dtype": "float32"})
    config.perform_initialization = False
    config.moe_token_dispatcher_type = "allgather"  # one rank: nothing to dispatch, and no CUDA stream to wait for
    config.moe_shared_expert_overlap = False  # which only the other dispatcher computes
    if model.family.local_spec:
        from nemo_workflow.conversion import local_specs

        config.transformer_layer_spec = getattr(local_specs, model.family.local_spec)
    if model.family.tanh_gelu:
        config.activation_func = partial(torch.nn.functional.gelu, approximate="tanh")
    with parameters_on_meta():
        built = nemo_model(model, config)
    built.eval()

    def read(name: str) -> torch.Tensor:
        place = place_of(walk.comparison.nemo, name)
        found = walk.weights.nemo.get(place)
        tensor = walk.comparison.nemo.read(*place) if found is None else found
        return tensor[: model.dims.vocab] if "word_embeddings" in name or "output_layer" in name else tensor

    layers = {f"decoder.layers.{i}": layer for i, layer in enumerate(built.decoder.layers)}
    tied = built.share_embeddings_and_output_weights
    ends = Ends(
        built.embedding.word_embeddings,
        built.output_layer,
        "embedding.word_embeddings.weight" if tied else "output_layer.weight",
    )
    count = tokens.shape[1]

    def forward() -> torch.Tensor:
        with computing("NeMo"), weights_on_demand(built, layers, walk, read, ends, tokens):
            mask = torch.ones(1, 1, count, count).tril() < 0.5
            return built(tokens, torch.arange(count)[None], mask).float()[0, :, : model.dims.vocab]

    return forward


def nemo_model(model: Model, config: Any) -> torch.nn.Module:
    """The Megatron module, as NeMo's model class makes it."""
    lightning = nemo_context.find_class(model.family, model.family.model_class)(config)
    lightning.configure_model()
    return lightning.module


def place_of(reader: NemoReader, name: str) -> Place:
    """Where in a checkpoint a parameter of Megatron's own layers is, by the name that it has there."""
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
            return place
    raise Failure(f"{name} is a parameter of NeMo's model and not in the checkpoint")


@contextlib.contextmanager
def one_rank() -> Iterator[None]:
    """Megatron's process groups, of this process alone."""
    nemo_context.prepare()
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
    with replaced(find("conversion.compare_logits:on_meta")):
        yield


def on_meta(original: Any) -> Any:
    """torch's `register_parameter` that keeps a parameter's shape and type alone."""

    def register(self: torch.nn.Module, name: str, param: torch.nn.Parameter | None) -> None:
        original(self, name, param)
        if param is not None and not param.is_meta:  # a tied parameter stays one object
            meta = torch.nn.Parameter(param.detach().to("meta"), requires_grad=False)
            meta.__dict__.update(param.__dict__)
            self._parameters[name] = meta

    return register


@dataclass(frozen=True)
class Ends:
    """A model's embedding and output layer, and the name of the latter's weight, which may be the embedding's."""

    embedding: torch.nn.Module
    output: torch.nn.Module
    output_weight: str


@contextlib.contextmanager
def weights_on_demand(
    root: torch.nn.Module, layers: dict[str, torch.nn.Module], walk: Walk, read: Read, ends: Ends, tokens: torch.Tensor
) -> Iterator[None]:
    """Give each layer, and each module outside the layers, its weights for its own forward pass only.

    `layers` are in order. `read` gives a parameter by its name, in any dtype. Of the embedding only the rows of `tokens` are
    widened, of the output layer some rows at a time.
    """
    inside = {id(module) for layer in layers.values() for module in layer.modules()} | {id(ends.output)}
    outside = {name: module for name, module in root.named_modules() if id(module) not in inside and module._parameters}
    stages = {id(layer): number for number, layer in enumerate(layers.values(), start=1)}
    at = -1

    def load(prefix: str) -> Callable[..., None]:
        def hook(unit: torch.nn.Module, inputs: Any) -> None:
            nonlocal at
            stage = stages.get(id(unit), 0 if at <= 0 else walk.last)
            if stage != at:
                walk.enter(stage)
                at = stage
            widen = partial(only_rows, rows=tokens) if unit is ends.embedding else torch.Tensor.float
            _fill(unit, prefix, read, widen)

        return hook

    def output_weight() -> torch.Tensor:
        return _checked(ends.output_weight, read(ends.output_weight), ends.embedding.weight.shape)

    handles = []
    for name, unit in {**layers, **outside}.items():
        handles.append(unit.register_forward_pre_hook(load(name)))
        handles.append(unit.register_forward_hook(_release))
    ends.output.forward = partial(_in_pieces, ends.output, ends.output.forward, output_weight)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        del ends.output.forward
        _release(root, None, None)  # after an error: the module itself waits for the garbage collector


def _in_pieces(
    unit: torch.nn.Module,
    forward: Callable[..., Any],
    read_table: Callable[[], torch.Tensor],
    hidden: torch.Tensor,
    **given: Any,
) -> Any:
    """The logits [..., vocabulary] of an output layer, computed for PIECE entries at a time, which are widened for it."""
    given.pop("weight", None)  # Megatron hands a tied model's embedding over
    table = read_table()
    room = torch.empty(PIECE, table.shape[1])
    found = []
    for rows in table.split(PIECE):
        unit.weight = torch.nn.Parameter(room[: len(rows)].copy_(rows), requires_grad=False)
        found.append(forward(hidden, **given))
    _release(unit, None, None)
    if isinstance(found[0], tuple):  # Megatron's layers give their bias too, which no family has here
        return torch.cat([logits for logits, _ in found], -1), None
    return torch.cat(found, -1)


def _checked(path: str, found: torch.Tensor, wanted: torch.Size) -> torch.Tensor:
    if found.shape != wanted:
        raise Failure(f"{path}: {tuple(found.shape)} in the files, {tuple(wanted)} in the model")
    return found


def _fill(unit: torch.nn.Module, prefix: str, read: Read, widen: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Give `unit` its weights, and the buffers that are saved with them (the bias that DeepSeek's router keeps)."""

    def value(path: str, wanted: torch.Size) -> torch.Tensor:
        return widen(_checked(path, read(path), wanted))

    for name, module in unit.named_modules():
        path = ".".join(part for part in (prefix, name) if part)
        for own, param in module._parameters.items():
            if param is not None and param.is_meta:
                weight = value(f"{path}.{own}", param.shape)
                module._parameters[own] = torch.nn.Parameter(weight, requires_grad=False)
        for own, buffer in module._buffers.items():
            if buffer is not None and own not in module._non_persistent_buffers_set:
                module._buffers[own] = value(f"{path}.{own}", buffer.shape)


def _release(unit: torch.nn.Module, inputs: Any, output: Any) -> None:
    for module in unit.modules():
        for own, param in module._parameters.items():
            if param is not None:
                module._parameters[own] = torch.nn.Parameter(param.detach().to("meta"), requires_grad=False)
