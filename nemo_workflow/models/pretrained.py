"""What a Hugging Face folder and a NeMo 2 checkpoint say about themselves, read without transformers and NeMo."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_workflow.models import convertible
from nemo_workflow.models.catalog import Recipe, load
from nemo_workflow.models.families import FAMILIES, by_model_type
from nemo_workflow.models.families.not_converted import NOT_CONVERTED_TYPES
from nemo_workflow.models.tokenizer_entries import added_by_transformers, end_of_document, vocabulary_of
from nemo_workflow.models.tokenizer_files import (
    CONFIG,
    check_class_named,
    check_ids,
    files_of,
    has_tokenizer,
    json_of,
    readable,
    well_formed,
)
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import absolute, from_here, no_such_folder
from nemo_workflow.utils.folder_kinds import MODEL, NEMO, TOKENIZERS, meant
from nemo_workflow.utils.safe_pickle import check_weights

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# the models from before the Hub had organisations, which it still gives out by these names
ALONE = re.compile(
    r"(distil)?gpt2(-medium|-large|-xl)?|openai-gpt|t5-(small|base|large|3b|11b)|bert-(base|large)-[\w-]+|ctrl"
    r"|(xlm-)?roberta-(base|large)[\w-]*|distil(ro)?bert-base[\w-]*|albert-\w+-v\d|xlnet-(base|large)-cased"
)

# how the address of a model's page, of its repository or of a file of it begins
ADDRESS = re.compile(r"(?:(?:https?|ssh)://|git@)?(?:\w+@)?(?:www\.)?(?:huggingface|hf)\.co[/:]|hf://", re.IGNORECASE)

# model_type of a Hugging Face config.json -> NeMo's model class; some have a recipe and no conversion
MODEL_CLASSES = (
    {family.model_type: family.model_class for family in FAMILIES} | NOT_CONVERTED_TYPES | {"llama4": "LlamaModel"}
)
# Hugging Face's name of a size -> NeMo's
SIZES = {
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_query_groups",
    "num_local_experts": "num_moe_experts",
    "num_experts": "num_moe_experts",
}

# names of the layers' number and of the hidden size: transformers' usual ones, then GPT-2's, T5's, MPT's and others'
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model")


@dataclass(frozen=True)
class Tokenizer:
    """What is known of a tokenizer. `vocab_size` counts added tokens; `eos` is the text of its end-of-document token."""

    folder: Path
    vocab_size: int | None
    eos: str | None
    eos_id: int | None
    plain: bool  # its class has no end-of-document token of its own


@dataclass(frozen=True)
class NemoModel:
    """The model of a NeMo 2 checkpoint: class names, and the configuration's fields that are plain values."""

    folder: Path
    model_class: str
    config_module: str
    config_class: str
    sizes: dict[str, Any]


# organisations of models that are often called without one
OWNERS = {
    "gpt": "openai-community",
    "bert": "google-bert",
    "t": "google-t5",
    "roberta": "FacebookAI",
    "distilgpt": "distilbert",
    "llama": "meta-llama",
    "meta": "meta-llama",
    "qwen": "Qwen",
    "gemma": "google",
    "mistral": "mistralai",
    "mixtral": "mistralai",
    "phi": "microsoft",
    "deepseek": "deepseek-ai",
}


# models that the Hub has, the most usual of each organisation first: for names that aren't a whole one
HUB_MODELS = (
    "openai-community/gpt2", "distilbert/distilgpt2", "google-bert/bert-base-uncased", "google-t5/t5-small", "FacebookAI/roberta-base",
    "Qwen/Qwen3-0.6B-Base", "Qwen/Qwen2.5-0.5B", "Qwen/Qwen2-0.5B", "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B",
    "meta-llama/Meta-Llama-3-8B", "meta-llama/Llama-2-7b-hf", "google/gemma-3-1b-pt", "google/gemma-2-2b", "google/gemma-2b",
    "mistralai/Mistral-7B-v0.3", "mistralai/Mixtral-8x7B-v0.1", "microsoft/Phi-3-mini-4k-instruct", "microsoft/phi-2", "microsoft/phi-4",
    "deepseek-ai/DeepSeek-V2-Lite", "deepseek-ai/DeepSeek-V3-Base",
)  # fmt: skip


def hf_folder(hf_model_id: str) -> Path | None:
    """The folder of a tokenizer: a local one, or the newest snapshot in the hub's cache; None if not here.

    A snapshot without a tokenizer, such as reading a model's config alone leaves, is not here. Raises Refusal when the text
    can be neither a folder nor an id.
    """
    folder = Path(hf_model_id).expanduser()
    if folder.is_dir():
        return absolute(folder)
    cached = _cached_snapshot(hf_model_id)
    cached = cached if cached and has_tokenizer(cached) else None
    if cached is None and (folder.is_file() or not is_hub_id(hf_model_id)):
        raise Refusal(no_hub_id("--hf-model-id", hf_model_id))
    if cached is None and (mistyped := lacking_here(hf_model_id)):
        raise Refusal(f"--hf-model-id {hf_model_id}: {mistyped}")
    return cached


def lacking_here(name: str) -> str:
    """'conv is a folder here and has no nope', where a name that a Hub id may have looks like a folder's, mistyped; else nothing."""
    folder = Path(name).expanduser()
    if "/" not in name or folder.exists() or not folder.parent.is_dir():
        return ""
    return f"{folder.parent} is a folder here and has no {folder.name}{from_here(name)}"


def is_hub_id(name: str) -> bool:
    """Whether the Hub can have a model of this name; any other is a folder's, mistyped."""
    return not ADDRESS.match(name) and any(form.fullmatch(name) for form in (HUB_ID, ALONE))


def no_hub_id(flag: str, name: str) -> str:
    """The refusal of a name that is neither a folder nor a Hub id."""
    recipe = " (it is a recipe's name, which pretrain_llm.py takes as --model-name)" if name in load() else ""
    wrong = f"{flag} {name}: {no_such_folder(name)}, and not of the form organisation/name{recipe}"
    if named := _named_in(name):
        return f"{wrong}; did you mean {flag} {named}?"
    return (
        f"{wrong}; give a folder, or a Hub id such"
        f" as {example_of(name)}{meant(name, MODEL if flag == '--source' else TOKENIZERS, flag)}"
    )


def example_of(name: str) -> str:
    """A Hub id: the one that a name without its organisation was meant for, if that is known; of one without a size a usual one."""
    owner = OWNERS.get(re.split(r"[-_.\d]", name, maxsplit=1)[0].lower())
    if owner and re.search(r"\d[bm]\b", name.lower()) and "_" not in name:
        return f"{owner}/{name}"
    theirs = [hub_id for hub_id in HUB_MODELS if owner and hub_id.startswith(f"{owner}/")]
    return max(theirs, key=lambda hub_id: _alike(hub_id.partition("/")[2], name), default="Qwen/Qwen3-0.6B-Base")


def _named_in(name: str) -> str:
    """The Hub id in the address of a model's page, of its repository or of a file of it, or before a slash; '' where there is none."""
    address = ADDRESS.match(name)
    if address is None:
        alone = name.rstrip("/")
        return alone if alone != name and is_hub_id(alone) and not lacking_here(alone) else ""
    words = [word for word in re.split(r"[?#]", name[address.end() :], maxsplit=1)[0].split("/") if word]
    words = [word.partition("@")[0].removesuffix(".git") for word in words[1 if words[:1] == ["models"] else 0 :][:2]]
    ids = [] if words[:1] in (["datasets"], ["spaces"]) else [*words[:1], "/".join(words)]
    return next((one for one in ids if is_hub_id(one)), "")


def _alike(one: str, other: str) -> int:
    """How many letters two names begin with alike, whatever their case and marks."""
    pairs = zip(*(re.sub(r"[-_.]", "", name.lower()) for name in (one, other)), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _cached_snapshot(hub_id: str) -> Path | None:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    try:
        snapshot = repository / "snapshots" / (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return snapshot if snapshot.is_dir() else None


def hf_config(folder: Path) -> dict[str, Any]:
    """config.json, or nothing; raises Refusal if it is no JSON object."""
    return json_of(folder / "config.json")


def cached_config(hub_id: str) -> dict[str, Any]:
    """config.json in the Hub's cache, which may have it without the tokenizer; or nothing. Raises Refusal."""
    cached = _cached_snapshot(hub_id)
    return hf_config(cached) if cached else {}


def read_tokenizer(folder: Path) -> Tokenizer:
    """Vocabulary and end-of-document token from the folder's JSON files; raises Refusal if one is damaged or hostile."""
    if files_of(folder):
        check_class_named(folder)
        check_ids(folder)
    config = json_of(folder / CONFIG)
    with well_formed(folder):
        read = _tokenizer(folder, config)
    if config.get("auto_map"):
        _check_own_code(folder)
    return read


def _tokenizer(folder: Path, config: dict[str, Any]) -> Tokenizer:
    vocabulary = json_of(folder / "tokenizer.json")
    ids = vocabulary_of(folder, vocabulary, config)
    size = None
    if ids is not None:
        new = [token for token in added_by_transformers(folder, config) if token not in ids]
        size = max(ids.values(), default=-1) + 1 + len(new)
    eos = end_of_document(folder, config)
    plain = config.get("tokenizer_class") in ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend")
    return Tokenizer(folder, size, eos, ids.get(eos) if ids and isinstance(eos, str) else None, plain)


def _check_own_code(folder: Path) -> None:
    """Raise Refusal for a tokenizer that only its own code can load. In a process of its own: it takes 2 s."""
    program = (
        "import sys; from transformers import AutoTokenizer\n"
        "try: AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=False)\n"
        "except Exception as error: sys.exit(str(error).strip().splitlines()[0])"
    )
    light = os.environ | {"USE_TORCH": "0", "USE_TF": "0", "USE_FLAX": "0", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], env=light, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refusal(
            f"--hf-model-id {folder}: the tokenizer comes with code of its own (auto_map), which training never runs,"
            f" and without it transformers says: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}; give a folder"
            " with a tokenizer.json and a tokenizer_class of transformers' own"
        )


def read_nemo_model(path: str) -> NemoModel:
    """The model of a NeMo 2 checkpoint folder; raises Refusal if it isn't one."""
    folder = absolute(path)
    missing = [name for name in ("context", "weights") if not (folder / name).is_dir()]
    if missing and path in ("scratch", "none", "None", "random"):
        raise Refusal(f"--nemo-model {path}: a run begins with random weights where --nemo-model is left out")
    if missing:
        what = (
            f"{' and '.join(f'{name}/' for name in missing)} missing{from_here(path)}"
            if folder.is_dir()
            else no_such_folder(path)
        )
        raise Refusal(
            f"--nemo-model {path}: {what}; give the folder of a NeMo 2 checkpoint"
            f" (convert_from_hf_to_nemo2.py writes one){convertible.meant(path, NEMO, '--nemo-model')}"
        )
    check_weights(folder / "weights")
    file = folder / "context" / "model.yaml"
    if not readable(file):
        raise Refusal(f"--nemo-model {path}: context/model.yaml missing; convert or save the checkpoint again")
    raw = _load_yaml(file)
    config = raw.get("config")
    if not isinstance(config, dict):
        raise Refusal(f"--nemo-model {path}: context/model.yaml holds no model; convert or save the checkpoint again")
    module, _, name = str(config.get("_target_", "")).rpartition(".")
    plain = {k: v for k, v in config.items() if isinstance(v, int | float | str | list | None) and k[0] != "_"}
    model_class = str(raw.get("_target_", "")).rpartition(".")[2]
    model = NemoModel(folder, model_class, config_module=module, config_class=name, sizes=_filled(plain))
    if not _is_nemos(model):
        raise Refusal(no_such_class(model))
    return model


NEMO_MODELS = "nemo.collections.llm."


def _is_nemos(model: NemoModel) -> bool:
    """Whether NeMo has the configuration's class, as far as it can be told without importing NeMo (seconds).

    Where NeMo isn't installed, such as on a login node, any name in its package will do.
    """
    if not (model.config_module + ".").startswith(NEMO_MODELS):
        return False
    nemo = importlib.util.find_spec("nemo")
    if nemo is None or not nemo.submodule_search_locations:
        return True
    place = Path(nemo.submodule_search_locations[0]).joinpath(*model.config_module.split(".")[1:])
    file = place.with_suffix(".py")
    return file.is_file() and f"class {model.config_class}(" in file.read_text(encoding="utf-8")


def no_such_class(model: NemoModel) -> str:
    """Why a checkpoint can't be trained whose configuration's class is not NeMo's."""
    return (
        f"--nemo-model {model.folder}: context/model.yaml names {model.config_module}.{model.config_class}, and the"
        " installed NeMo has no configuration of that name; convert the model again, or install the NeMo that wrote it"
    )


def _filled(sizes: dict[str, Any]) -> dict[str, Any]:
    """Sizes that a configuration leaves open, as megatron-core's TransformerConfig fills them; a run's own checkpoint has them open."""
    hidden, heads = sizes.get("hidden_size"), sizes.get("num_attention_heads")
    if not (isinstance(hidden, int) and isinstance(heads, int) and heads):
        return sizes
    ffn = sizes.get("ffn_hidden_size") or 4 * hidden
    defaults = {"kv_channels": hidden // heads, "num_query_groups": heads, "ffn_hidden_size": ffn}
    if sizes.get("num_moe_experts"):
        defaults["moe_ffn_hidden_size"] = ffn
    return sizes | {name: value for name, value in defaults.items() if sizes.get(name) is None}


def _load_yaml(path: Path) -> dict[str, Any]:
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        """Takes tags that it doesn't know for nothing."""

    Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node))
    Loader.add_multi_constructor("", lambda loader, suffix, node: None)
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Refusal(f"{path}: cannot be read: {error}") from None
    return loaded if isinstance(loaded, dict) else {}


def recipe_of_nemo(model: NemoModel) -> str:
    """The recipe whose model a checkpoint holds; raises Refusal when none or only the family fits."""
    recipes = [recipe for recipe in load().values() if recipe.model_class == model.model_class]
    exact = [recipe for recipe in recipes if recipe.config_class == model.config_class]
    same = [recipe for recipe in exact or recipes if _same_sizes(recipe, model.sizes)]
    if same:
        return _plainest(same)
    any_does = (
        f"; any of its family does, for the sizes are the checkpoint's: --model-name {_nearest(recipes, model.sizes)} is the"
        " nearest"
        if recipes
        else ""
    )
    raise Refusal(
        f"--model-name is required: the checkpoint of --nemo-model ({model.model_class}, {model.config_class}) fits no"
        f" recipe exactly{any_does}{_one_of(recipes)}"
    )


def recipe_of_hf(config: dict[str, Any]) -> str:
    """The recipe of a Hugging Face configuration by family and sizes; raises Refusal when none fits."""
    kind = str(config.get("model_type", ""))
    recipes = [recipe for recipe in load().values() if recipe.model_class == MODEL_CLASSES.get(kind)]
    family = by_model_type(kind)
    config = {**config, **({c: config[o] for o, c in family.renamed.items() if o in config} if family else {})}
    sizes = {ours: config[theirs] for theirs, ours in SIZES.items() if config.get(theirs) is not None}
    same = [recipe for recipe in recipes if _same_sizes(recipe, sizes)]
    context = config.get("max_position_embeddings")
    best = [recipe for recipe in same if recipe.longest_sequence == context] or same
    vocabulary = [recipe for recipe in best if recipe.reference_vocab == config.get("vocab_size")] or best
    if vocabulary:
        return _plainest(vocabulary)
    told = ", ".join([f"model_type {kind or 'unknown'}", *_told(config)])
    raise Refusal(
        f"--model-name is required: the model of --hf-model-id ({told}) fits no recipe exactly{_one_of(recipes)}"
    )


def _told(config: dict[str, Any]) -> Iterator[str]:
    """How large a model is by its config.json, whose names some model types have for themselves."""
    for names, words in ((LAYERS, "{} layers"), (HIDDEN, "hidden size {}")):
        if value := next((config[name] for name in names if isinstance(config.get(name), int)), None):
            yield words.format(value)


def _nearest(recipes: list[Recipe], sizes: dict[str, Any]) -> str:
    """The recipe whose layers and hidden size are by the smallest factors off those of a checkpoint."""
    names = [name for name in ("num_layers", "hidden_size") if isinstance(sizes.get(name), int) and sizes[name] > 0]

    def off(recipe: Recipe) -> float:
        return sum(abs(math.log(float(recipe.sizes.get(name) or 1) / sizes[name])) for name in names)

    least = min(map(off, recipes))
    return _plainest([recipe for recipe in recipes if off(recipe) == least])


def _same_sizes(recipe: Recipe, sizes: dict[str, Any]) -> bool:
    compared = set(SIZES.values())
    return all(recipe.sizes.get(name) in (None, value) for name, value in sizes.items() if name in compared and value)


def _plainest(recipes: list[Recipe]) -> str:
    """The shortest name: llama3_8b before llama3_8b_16k."""
    return min((recipe.name for recipe in recipes), key=lambda name: (len(name), name))


def _one_of(recipes: list[Recipe]) -> str:
    return f"; recipes of its family: {', '.join(recipe.name for recipe in recipes)}" if recipes else " (--list-models)"
