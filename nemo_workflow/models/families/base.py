"""What the conversion needs to know of one architecture. Plain data: no torch here.

A tensor rule names the Hugging Face tensors and the one Megatron tensor that hold the same numbers; `{l}` is the layer,
`{e}` the expert. A field rule names the config.json field and the NeMo config field. What has no rule is refused:
nothing is dropped because nobody thought of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nemo_workflow.models.architecture import TRAINING

Config = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """`kind` names the pair of functions in `transforms` that turn `hf` into `nemo` and back."""

    kind: str
    nemo: str
    hf: tuple[str, ...]
    alias: str | None = None  # a second name under which NeMo may look for the tensor
    layers: Callable[[Config], range] = lambda hf: range(hf["num_hidden_layers"])


@dataclass(frozen=True)
class Field:
    """One config.json field carried to one NeMo field.

    `default` is what transformers takes when config.json lacks it, or a function of the other fields that gives it.
    """

    hf: str
    nemo: str
    default: Any = None


@dataclass(frozen=True)
class Reference:
    """A model of transformers' own that computes what a model does whose code comes with its weights, and is never run.

    `config(hf)` is its config.json, of a completed one. `tensors`: its tensors -> the folder's, and the part of it: its rows
    of "q", "k" or "v", all rows at length one ("unit"), or the whole ("").
    """

    model_type: str
    config: Callable[[Config], Config]
    tensors: dict[str, tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Family:
    """One architecture.

    `module` is the one of nemo.collections.llm.gpt.model that holds `model_class` and `config_class`.
    `fixed`: config.json fields that NeMo's model has no setting for, with the values that it computes.
    `nemo_fixed`: NeMo fields that the Hugging Face architecture has no setting for, with the values that it computes.
    `special(hf) -> (NeMo fields, losses)`: fields that need more than a copy; a loss is (field, what would be lost).
    `special_fields`, `special_nemo`: the config.json and NeMo fields that it speaks of. `special_back(nemo) -> config.json fields`: its inverse.
    `experts(hf)`: experts a layer. `stacked(hf)`: all layers are alike, so Megatron stacks them in one tensor.
    `tanh_gelu`: NeMo says F.gelu and computes its tanh form, in a fused kernel.
    `hf_layers`: the Hugging Face model's list of decoder layers.
    `renamed`: config.json's own names of fields -> the names that most families, and the rules here, have for them.
    `special_training`: those of `special_fields` that say how a model is trained, such as dropouts.
    `renamed5`: names that transformers 5 has for fields -> transformers 4's.
    `learned_positions`: a position has a row of a table, so seq_length is part of the weights' shape.
    `exact_up_to(hf)`: tokens up to which both models compute the same; None for any number.
    `losses_back(nemo)`: what an export would lose, like `special`'s losses.
    `mend_reference(model, hf)`: corrects what transformers 4 computes wrongly, before the logits are compared.
    `local_spec`: the function of `local_specs` to compute logits with where Transformer Engine is missing.
    `other_architectures`: further names that a config.json has for `architecture`.
    `refuses(raw)`: why a config.json of this model_type is of another model, which NeMo can't compute.
    `reference`: for an architecture that transformers has no class for.
    `trained_as`: the family that says what NeMo's model computes once training has changed what this one can't say, and
    `as_trained(config.json)` the config.json in its words.
    """

    name: str
    title: str
    model_type: str
    architecture: str
    module: str
    model_class: str
    config_class: str
    rules: Callable[[Config], list[Rule]]
    fields: tuple[Field, ...]
    fixed: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    nemo_fixed: Config = field(default_factory=dict)
    special: Callable[[Config], tuple[Config, list[tuple[str, str]]]] = lambda hf: ({}, [])
    special_fields: frozenset[str] = frozenset()
    special_nemo: frozenset[str] = frozenset()
    special_training: frozenset[str] = frozenset()
    special_back: Callable[[Config], Config] = lambda nemo: {}
    config_class_for: Callable[[Config], str] | None = None
    experts: Callable[[Config], int] = lambda hf: 0
    stacked: Callable[[Config], bool] = lambda hf: True
    tanh_gelu: bool = False
    local_spec: str | None = None
    hf_layers: str = "model.layers"
    renamed: dict[str, str] = field(default_factory=dict)
    renamed5: dict[str, str] = field(default_factory=dict)
    learned_positions: bool = False
    exact_up_to: Callable[[Config], int | None] = lambda hf: None
    losses_back: Callable[[Config], list[tuple[str, str]]] = lambda nemo: []
    mend_reference: Callable[[Any, Config], None] | None = None
    other_architectures: tuple[str, ...] = ()
    refuses: Callable[[Config], str | None] = lambda raw: None
    reference: Reference | None = None
    trained_as: Family | None = None
    as_trained: Callable[[Config], Config] = lambda origin: origin

    @property
    def training_fields(self) -> frozenset[str]:
        """config.json fields that say how a model is trained, not what it is: training may have changed them."""
        carried = {rule.hf for rule in self.fields if rule.nemo in TRAINING or rule.nemo == "init_method_std"}
        return frozenset(carried - {"max_position_embeddings"}) | self.special_training

    def nemo_class(self, hf: Config) -> str:
        """Name of the NeMo config class for this config.json."""
        return self.config_class_for(hf) if self.config_class_for else self.config_class


# config.json fields that don't change what the model computes, or that only transformers itself reads
WITHOUT_EFFECT = frozenset((
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "_name_or_path",
    "add_cross_attention", "architectures", "classifier_dropout", "experts_implementation", "num_labels",
    "attn_implementation", "auto_map", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
    "chunk_size_feed_forward", "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty",
    "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label",
    "is_decoder", "is_encoder_decoder", "label2id", "length_penalty", "max_length", "min_length", "model_type",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_scores", "pad_token_id", "prefix", "pretraining_tp", "problem_type",
    "pruned_heads", "remove_invalid_values", "repetition_penalty", "return_dict", "return_dict_in_generate",
    "sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss",
    "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript",
    "transformers_version", "typical_p", "unk_token_id", "use_bfloat16", "use_cache",
))  # fmt: skip
