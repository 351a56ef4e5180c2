"""Models of images and text whose text part is a family of ours: only that part is converted."""

from __future__ import annotations

from collections.abc import Iterable

from nemo_workflow.models.families.base import Config

# model_type of the whole -> that of its text part where text_config doesn't say; with text alone it computes the same
WRAPPERS = {"gemma3": "gemma3_text", "mistral3": "mistral", "llava": "llama", "llava_next": "llama"}
# names of the text part's tensors in the whole, as transformers before 4.52 and since then saves them -> its own
PREFIXES = {"language_model.model.": "model.", "language_model.lm_head.": "lm_head.", "model.language_model.": "model."}
# transformers' own sizes, which a text_config leaves out; the families have the defaults of the other fields
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
         "max_position_embeddings")  # fmt: skip
DEFAULTS = {
    "llama": (32000, 4096, 11008, 32, 32, None, 2048),
    "mistral": (32000, 4096, 14336, 32, 32, 8, 4096 * 32),
    "qwen2": (151936, 4096, 22016, 32, 32, 32, 32768),
    "gemma3_text": (262208, 2304, 9216, 26, 8, 4, 131072),
}
# those of the whole that the text part takes over, if its own config says nothing
SHARED = (
    "torch_dtype",
    "dtype",
    "transformers_version",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "quantization_config",
)


def text_part(raw: Config) -> Config:
    """The config.json of a model's text part; the config.json itself where the model is nothing else."""
    text, whole = raw.get("text_config"), raw.get("model_type")
    if not isinstance(whole, str) or whole not in WRAPPERS or not isinstance(text, dict):
        return raw
    taken = {name: raw[name] for name in SHARED if raw.get(name) is not None}
    if isinstance(raw.get("tie_word_embeddings"), bool):
        taken["tie_word_embeddings"] = raw["tie_word_embeddings"]
    own = {"model_type": WRAPPERS[whole], **{name: value for name, value in text.items() if name != "architectures"}}
    sizes = dict(zip(SIZES, DEFAULTS.get(str(own["model_type"]), ()), strict=False))
    return {**{name: size for name, size in sizes.items() if size is not None}, **taken, **own}


def text_name(name: str) -> str:
    """The name that a tensor of the whole has in its text part."""
    for prefix, own in PREFIXES.items():
        if name.startswith(prefix):
            return own + name.removeprefix(prefix)
    return name


def of_images(names: Iterable[str]) -> set[str]:
    """Tensors of the whole that are not its text part's."""
    return {name for name in names if not name.startswith((*PREFIXES, "lm_head."))}
