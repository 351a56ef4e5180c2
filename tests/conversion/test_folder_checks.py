"""Damaged and odd folders: taken, or refused with the name of the file, in the checks that come before everything else."""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nemo_workflow.conversion import hf_folder
from nemo_workflow.conversion.command import _checked_import, import_main, import_parser
from nemo_workflow.models import pretrained
from nemo_workflow.models.tokenizer_files import well_formed
from nemo_workflow.preprocess import tokenizer as preprocess_tokenizer
from nemo_workflow.utils.errors import Refusal
from tests.models import sentencepiece_folders

WHOLE = hf_folder.SINGLE
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4976698672\n"


def check(folder: Path) -> Any:
    """The checks of an import."""
    arguments = ["--source", str(folder), "--output-path", str(folder.parent / "nemo")]
    return _checked_import(import_parser().parse_args(arguments), folder.parent / "unused")


def refusal(folder: Path) -> str:
    with pytest.raises(Refusal) as caught:
        check(folder)
    return str(caught.value)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def merge(folder: Path) -> dict[str, np.ndarray]:
    """Save the folder's two shards as one file, and return the tensors; the index stays."""
    tensors = {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}
    for path in folder.glob("*.safetensors"):
        path.unlink()
    save_file(tensors, folder / WHOLE)
    return tensors


def write_header(path: Path, header: Any, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


# --- which weights ----------------------------------------------------------------------------------------------------


def test_two_sets_of_weights_are_refused(folder: Path) -> None:
    shards = sorted(folder.glob("*.safetensors"))
    save_file({"model.norm.weight": np.zeros(8, np.float32)}, folder / WHOLE)
    assert all(name in refusal(folder) for name in ("two sets of weights", WHOLE, hf_folder.INDEX))
    shards[0].unlink()  # some of the shards are enough to doubt which is meant
    assert "two sets of weights" in refusal(folder)


def test_an_index_whose_shards_are_gone_gives_way_to_the_whole_file(folder: Path) -> None:
    """Saved in shards, later whole: save_pretrained removes the shards, and the index stays."""
    merge(folder)
    assert {info.file.name for info in check(folder).tensors.values()} == {WHOLE}


def test_a_shard_may_lie_in_a_subfolder(folder: Path) -> None:
    index = json.loads((folder / hf_folder.INDEX).read_text())
    (folder / "shards").mkdir()
    for path in folder.glob("*.safetensors"):
        path.rename(folder / "shards" / path.name)
    places = {name: f"shards/{file}" for name, file in index["weight_map"].items()}
    (folder / hf_folder.INDEX).write_text(json.dumps({**index, "weight_map": places}))
    assert len(check(folder).tensors) == 12
    for out in ("../shards/x.safetensors", "/shards/x.safetensors", "shards/../../x.safetensors"):
        change(folder / hf_folder.INDEX, weight_map=dict.fromkeys(places, out))
        assert "leaves the folder" in refusal(folder)


def move(folder: Path, name: str, file: str) -> None:
    """Say in the index that a tensor lies in another shard."""
    places = json.loads((folder / hf_folder.INDEX).read_text())["weight_map"]
    change(folder / hf_folder.INDEX, weight_map={**places, name: file})


def test_a_tensor_is_read_from_the_shard_that_holds_it(folder: Path) -> None:
    """transformers reads all shards that the index names, whatever it says of each tensor."""
    first, second = sorted(path.name for path in folder.glob("*.safetensors"))
    before = check(folder).tensors
    move(folder, "model.embed_tokens.weight", second)
    move(folder, "lm_head.weight", first)
    assert check(folder).tensors == before
    places = json.loads((folder / hf_folder.INDEX).read_text())["weight_map"]
    del places["model.norm.weight"]
    (folder / hf_folder.INDEX).write_text(json.dumps({"weight_map": places}))
    assert check(folder).tensors == before


def test_where_two_shards_hold_a_tensor_the_index_decides(folder: Path) -> None:
    first, second = sorted(folder.glob("*.safetensors"))
    held = json.loads((folder / hf_folder.INDEX).read_text())["weight_map"]["model.norm.weight"]
    other = first if held == second.name else second
    save_file({**load_file(other), "model.norm.weight": np.zeros(8, np.float32)}, other)
    for file in (first.name, second.name):
        move(folder, "model.norm.weight", file)
        assert check(folder).tensors["model.norm.weight"].file.name == file


def test_a_shard_that_the_index_forgot_is_said(folder: Path) -> None:
    first, second = sorted(path.name for path in folder.glob("*.safetensors"))
    places = json.loads((folder / hf_folder.INDEX).read_text())["weight_map"]
    shutil.copyfile(folder / second, folder / "model-00001-of-00009.safetensors")  # what another save left behind
    assert check(folder)
    (folder / hf_folder.INDEX).write_text(json.dumps({"weight_map": {n: f for n, f in places.items() if f == first}}))
    assert f"shard {second} is there and not named by" in refusal(folder)


def instead(name: str) -> Callable[[Path], None]:
    """A file or folder of that name, and no safetensors."""

    def damage(folder: Path) -> None:
        for path in folder.glob("*.safetensors*"):
            path.unlink()
        (folder / name).touch()

    return damage


OTHER_WEIGHTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "GGUF": (instead("model-q4_k_m.gguf"), "is GGUF, llama.cpp's form"),
    "a download broken off": (instead("model.safetensors.incomplete"), "broken off: start it again"),
    "FSDP's shards": (instead("pytorch_model_fsdp_0"), "accelerate merge-weights"),
    "DeepSpeed's": (instead("zero_to_fp32.py"), "python zero_to_fp32.py . OUT --safe_serialization"),
    "its maker's own": (instead("consolidated.00.pth"), "is not the form that transformers saves"),
    "ONNX": (instead("model.onnx"), "is not the form that transformers saves"),
    "pickles in parts": (instead("pytorch_model-00001-of-00002.bin"), "is a pickle"),
    "an adapter with a config.json": (instead("adapter_config.json"), "says that it is an adapter"),
    "shards without their index": (lambda f: (f / hf_folder.INDEX).unlink(), "one of several shards, and their index is missing"),
    "an adapter beside": (lambda f: (f / "adapter_config.json").write_text("{}"), "holds a model and an adapter"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_WEIGHTS)
def test_weights_of_another_form_are_named(name: str, folder: Path) -> None:
    """By those who only look, too: config.json alone is looked at where there are no weights at all."""
    damage, words = OTHER_WEIGHTS[name]
    damage(folder)
    assert words in refusal(folder)
    with pytest.raises(Refusal, match=re.escape(words)):
        import_main(["--source", str(folder), "--dry-run"])


# --- one thing wrong --------------------------------------------------------------------------------------------------


def config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / "config.json", **values)


def index(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / hf_folder.INDEX).write_text(text) and None


def whole(write: Callable[[Path], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        merge(folder)
        (folder / hf_folder.INDEX).unlink()
        write(folder / WHOLE)

    return damage


def entry(**values: Any) -> Callable[[Path], None]:
    """A header whose entry of model.norm.weight is changed."""

    def damage(path: Path) -> None:
        content = path.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        header["model.norm.weight"] |= values
        write_header(path, header, content[8 + length :])

    return whole(damage)


def only(**files: str) -> Callable[[Path], None]:
    """A folder without config.json, with these files (a point is written as __)."""

    def damage(folder: Path) -> None:
        (folder / "config.json").unlink()
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)

    return damage


def quantized_weights(path: Path) -> None:
    tensors = load_file(path)
    tensors["model.layers.0.mlp.up_proj.qweight"] = np.zeros((4, 4), np.int32)
    save_file(tensors, path)


def renamed_tensors(change_all: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Callable[[Path], None]:
    """The tensors, all in one file, as a function makes them."""
    return whole(lambda path: save_file(change_all(load_file(path)), path))


def norm_of_seven(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**tensors, "model.layers.0.post_attention_layernorm.weight": np.ones(7, np.float32)}


def value_head(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**tensors, "v_head.weight": np.ones(8, np.float16)}


def one_deeper(name: str) -> Callable[[Path], None]:
    def move(folder: Path) -> None:
        (folder / name).mkdir(parents=True)
        for path in folder.iterdir():
            if path.is_file():
                path.rename(folder / name / path.name)

    return move


ROPE = {"rope_type": "llama3", "factor": 8.0}
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "size as text": (config(hidden_size="8"), "config.json: hidden_size is '8'; a whole number from 1"),
    "size with a fraction": (config(intermediate_size=12.5), "intermediate_size is 12.5"),
    "no layers": (config(num_hidden_layers=0), "num_hidden_layers is 0"),
    "layers without end": (config(num_hidden_layers=10**9), "a whole number from 1 to 10000"),
    "no key-value heads": (config(num_key_value_heads=0), "num_key_value_heads is 0"),
    "epsilon as text": (config(rms_norm_eps="1e-5"), "rms_norm_eps is '1e-5'; a number is expected"),
    "theta is NaN": (config(rope_theta=float("nan")), "rope_theta is nan"),
    "a size is null": (config(vocab_size=None), "config.json: lacks vocab_size"),
    "heads and groups": (config(num_key_value_heads=3, num_attention_heads=4), "not a multiple of num_key_value_heads 3"),
    "heads and hidden size": (config(num_attention_heads=3, num_key_value_heads=3), "8 is not a multiple of num_attention"),
    "another width": (config(intermediate_size=16), "_proj.weight has the shape [12, 8] in the weights, and [16, 8]"),
    "another vocabulary": (config(vocab_size=12), "has the shape [11, 8] in the weights, and [12, 8] by config.json"),
    "more layers": (config(num_hidden_layers=2), "lacks 9 tensors"),
    "theta is nothing": (config(rope_theta=0), "rope_theta is 0; a number above 0"),
    "a rate above one": (config(attention_dropout=1.5), "attention_dropout is 1.5; a rate from 0 to below 1"),
    "a norm's width": (renamed_tensors(norm_of_seven), "post_attention_layernorm.weight has the shape [7] in the weights, and [8]"),
    "fewer layers": (
        renamed_tensors(lambda t: t | {k.replace("layers.0", "layers.1"): v for k, v in t.items()}),
        ": the weights have 2 layers, and config.json says num_hidden_layers 1 (to lose them: --allow-lossy model.layers.1.input_layernorm.weight --allow-lossy",
    ),
    "wrapped": (renamed_tensors(lambda t: {f"_orig_mod.{k}": v for k, v in t.items()}), "without what it was wrapped in (_orig_mod.)"),
    "LoRA's tensors": (renamed_tensors(lambda t: {"x.q_proj.lora_A.weight": t["model.norm.weight"]}), "an adapter's tensors (LoRA)"),
    "no output layer": (renamed_tensors(lambda t: {k: v for k, v in t.items() if k != "lm_head.weight"}), "tie_word_embeddings: true"),
    "a value head, in fp16": (renamed_tensors(value_head), "has no place for, e.g. v_head.weight"),
    "no model_type": (config(model_type=None), "config.json names no model_type"),
    "a wrapper without its text": (config(model_type="mistral3", vision_config={}), "and lacks its text_config"),
    "a model of images, flat": (config(model_type="qwen2_vl", vision_config={}), "it is a model of more than text"),
    "a trainer's folder": (one_deeper("checkpoint-500"), "did you mean"),
    "the Hub's cache": (one_deeper("models--a--b/snapshots/abc"), "did you mean"),
    "a model in the Hub's cache": (one_deeper("snapshots/abc"), "snapshots/abc?"),
    "rope_scaling is text": (config(rope_scaling="linear"), "rope_scaling is 'linear'; an object"),
    "rope_scaling lacks its factor": (config(rope_scaling={"type": "linear"}), "of type 'linear' lacks factor"),
    "rope_scaling is incomplete": (config(rope_scaling=ROPE), "lacks low_freq_factor, high_freq_factor, original"),
    "rope_scaling's factor is nothing": (config(rope_scaling={"type": "linear", "factor": 0}), "factor is 0; a number above 0"),
    "Llama 3's frequencies cross": (config(rope_scaling={**ROPE, "low_freq_factor": 4.0, "high_freq_factor": 1.0, "original_max_position_embeddings": 64}), "low_freq_factor 4.0 is not below"),
    "rope_scaling's factor is text": (config(rope_scaling={"type": "linear", "factor": "4"}), "factor is '4'"),
    "rope_scaling is empty": (config(rope_scaling={}), "names no rope_type; add it, or write null"),
    "rope_scaling lacks its type": (config(rope_scaling={"factor": 2.0}), "names no rope_type; add it, or write null"),
    "rope_scaling's type is a list": (config(rope_scaling={"type": []}), "rope_type is []; a name"),
    "architectures is text": (config(architectures="LlamaForCausalLM"), "architectures is 'LlamaForCausalLM'; a list"),
    "quantized, as text": (config(quantization_config="awq"), "the weights are quantized (awq)"),
    "quantized for MLX": (config(quantization={"bits": 4}), "the weights are quantized (quantization)"),
    "compressed": (config(compression_config={"quant_method": "compressed-tensors"}), "quantized (compressed-tensors)"),
    "quantized weights": (whole(quantized_weights), "qweight is I32: the weights are quantized"),
    "an adapter": (only(adapter_config__json="{}"), "says that it is an adapter, LoRA or the like: merge it"),
    "its maker's own form": (only(params__json="{}"), "take the one for transformers"),
    "generation_config is cut off": (
        lambda folder: (folder / "generation_config.json").write_text("{"), "generation_config.json: can't be read as JSON",
    ),
    "config is a pointer": (lambda folder: (folder / "config.json").write_text(POINTER), "is a Git LFS pointer"),
    "the map is null": (index('{"weight_map": null}'), "its weight_map is not a map of tensors to files"),
    "the map is empty": (index('{"weight_map": {}}'), "names no tensors"),
    "the map's files are numbers": (index('{"weight_map": {"a": 1}}'), "its weight_map is not a map"),
    "the index is a list": (index("[]"), "a JSON object is expected"),
    "the index is a pointer": (index(POINTER), "is a Git LFS pointer"),
    "the weights are a pointer": (whole(lambda path: path.write_text(POINTER)), f"{WHOLE}: is a Git LFS pointer"),
    "the weights are empty": (whole(lambda path: save_file({}, path)), "holds no tensors"),
    "the header is a list": (whole(lambda path: write_header(path, [])), "its header is not a JSON object"),
    "the header is deep": (whole(lambda path: write_header(path, b"[" * 50_000)), "its header is not JSON"),
    "the header's length lies": (whole(lambda path: path.write_bytes(b"\xff" * 8 + b"{}")), "header truncated"),
    "an entry is a number": (whole(lambda path: write_header(path, {"a": 1})), "its header describes a wrongly (1)"),
    "offsets are missing": (entry(data_offsets=None), "describes model.norm.weight wrongly"),
    "offsets run backwards": (entry(data_offsets=[64, 32]), "describes model.norm.weight wrongly"),
    "offsets are negative": (entry(data_offsets=[-32, 0]), "describes model.norm.weight wrongly"),
    "the shape lies": (entry(shape=[7]), "describes model.norm.weight wrongly"),
    "the dtype is a number": (entry(dtype=32), "describes model.norm.weight wrongly"),
    "the dtype is unknown": (entry(dtype="F4"), "model.norm.weight is F4"),
}  # fmt: skip


def test_a_dry_run_looks_at_the_place_of_the_output_too(folder: Path) -> None:
    for output, said in (
        (folder, "choose a path outside it"),
        (folder.parent, ""),
        (folder / "inner", "lies inside --source"),
    ):
        with pytest.raises(Refusal, match=said):
            import_main(["--source", str(folder), "--output-path", str(output), "--overwrite", "--dry-run"])
    assert import_main(["--source", str(folder), "--output-path", str(folder.parent / "new"), "--dry-run"]) == 0


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_is_said(name: str, folder: Path) -> None:
    damage, words = DAMAGES[name]
    damage(folder)
    said = refusal(folder)
    assert words in said and (str(folder) in said or "the source " in said)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["hf"]


def test_a_whole_number_may_be_written_with_a_point(folder: Path) -> None:
    change(folder / "config.json", max_position_embeddings=32.0)
    assert check(folder).hf["max_position_embeddings"] == 32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_a_number_is_found_as_it_is_read(value: float) -> None:
    import torch

    from nemo_workflow.conversion.convert import _finite

    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        good = torch.full((3, 5), 60_000.0, dtype=dtype)  # whose sum is past fp16's largest number
        assert _finite("w", good) is good
        good[1, 2] = value
        with pytest.raises(Refusal, match="w: holds NaN or infinity"):
            _finite("w", good)


# --- a thousand things wrong ------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2**31, 10**30, 0.5, -1e308, float("nan"), float("inf"), "", "x", "8", "linear", [],
    [None], [1, "a"], ["full_attention"], {}, {"type": "linear"}, {"a": {"b": []}}, "\ud800", "é" * 300,
)  # fmt: skip
ROUNDS = 1_000


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*at, key)
        yield from places(part, (*at, key))


def mutated(value: Any, chance: random.Random) -> Any:
    """A JSON value with one to three parts taken away, put in place of others, or replaced by something odd."""
    value = json.loads(json.dumps(value))
    for _ in range(chance.randint(1, 3)):
        ways = list(places(value))
        if not ways or chance.random() < 0.03:
            return chance.choice(ODD)
        *way, last = chance.choice(ways)
        holder = value
        for key in way:
            holder = holder[key]
        action = chance.random()
        if action < 0.25:
            del holder[last]
        elif action < 0.35 and isinstance(holder, dict):
            holder[chance.choice(["x", "rope_scaling", "rope_parameters", "layer_types", "head_dim"])] = holder[last]
        else:
            holder[last] = chance.choice(ODD)
    return value


def bytes_of(value: Any, chance: random.Random) -> bytes:
    """It as JSON, now and then cut off or with a byte changed."""
    text = json.dumps(value).encode()
    if chance.random() < 0.15 and text:
        at = chance.randrange(len(text))
        text = text[:at] if chance.random() < 0.5 else text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]
    return text


def only_refusals(check: Callable[[], Any], named: Path, seed: int) -> bool:
    """Whether it was refused, with the name of a file of the folder; any other error than a Refusal is the test's."""
    try:
        check()
    except Refusal as refused:
        said = str(refused)
        assert said.strip() and (str(named) in said or "config.json" in said or "the source " in said), (seed, said)
        return True
    return False


FAMILIES = {
    "llama": {}, "qwen3_moe": {"num_experts": 2, "moe_intermediate_size": 4, "norm_topk_prob": True},
    "gemma3_text": {"head_dim": 4, "sliding_window": 8, "layer_types": ["full_attention"], "query_pre_attn_scalar": 4},
    "deepseek_v3": {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "q_lora_rank": None, "kv_lora_rank": 4,
                    "moe_intermediate_size": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
                    "rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0}},
    "phi3": {"rope_scaling": None}, "mistral": {"sliding_window": 4}, "gpt_oss": {"num_local_experts": 2},
    "qwen2": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "use_sliding_window": False},
    "starcoder2": {}, "gpt_bigcode": {"n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 32, "multi_query": True},
}  # fmt: skip


@pytest.mark.slow
def test_a_thousand_configs(folder: Path) -> None:
    from nemo_workflow.models.families import by_model_type

    path = folder / "config.json"
    plain = json.loads(path.read_text())
    refused = 0
    for seed in range(ROUNDS):
        chance = random.Random(seed)
        kind = chance.choice(["llama", *FAMILIES])
        family = by_model_type(kind)
        assert family is not None
        config = {**plain, **FAMILIES[kind], "model_type": kind, "architectures": [family.architecture]}
        path.write_bytes(bytes_of(mutated(config, chance), chance))
        refused += only_refusals(lambda: check(folder), folder, seed)
    assert ROUNDS * 0.7 < refused < ROUNDS  # the rest is taken


@pytest.mark.slow
def test_a_thousand_indexes(folder: Path) -> None:
    path = folder / hf_folder.INDEX
    plain = json.loads(path.read_text())
    for seed in range(ROUNDS):
        chance = random.Random(seed)
        path.write_bytes(bytes_of(mutated(plain, chance), chance))
        only_refusals(lambda: check(folder), folder, seed)


@pytest.mark.slow
def test_a_thousand_headers(folder: Path) -> None:
    merge(folder)
    (folder / hf_folder.INDEX).unlink()
    path = folder / WHOLE
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    for seed in range(ROUNDS):
        chance = random.Random(seed)
        write_header(path, bytes_of(mutated(header, chance), chance), data[: chance.choice([None, 0, 100])])
        only_refusals(lambda: check(folder), folder, seed)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json of every kind of part, a tokenizer_config.json, and what lies beside."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.NFC()])
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<unk>"]
    made.train_from_iterator(sentencepiece_folders.TEXTS, trainers.BpeTrainer(vocab_size=60, special_tokens=special))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    place = tmp_path_factory.mktemp("tokenizer") / "tok"
    place.mkdir()
    made.save(str(place / "tokenizer.json"))
    added = {str(i): {"content": word, "special": True, "normalized": False} for i, word in enumerate(special)}
    words = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>", "added_tokens_decoder": added}
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "extra_special_tokens": [], **words}
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    (place / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>"}))
    (place / "added_tokens.json").write_text(json.dumps({"<a>": 60}))
    return place


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
)
def test_a_thousand_tokenizers(name: str, tokenizer: Path, tmp_path: Path) -> None:
    """In the plan of a training, and where preprocessing reads a folder without transformers."""
    folder = shutil.copytree(tokenizer, tmp_path / "tok")
    plain = json.loads((folder / name).read_text())
    for seed in range(ROUNDS // 4):
        chance = random.Random(seed)
        (folder / name).write_bytes(bytes_of(mutated(plain, chance), chance))
        if chance.random() < 0.5:
            change_class(folder, tokenizer, chance)
        only_refusals(lambda: pretrained.read_tokenizer(folder), folder, seed)
        only_refusals(lambda: read_light(folder), folder, seed)


def read_light(folder: Path) -> None:
    with well_formed(folder):
        preprocess_tokenizer._read_light(folder)


def change_class(folder: Path, tokenizer: Path, chance: random.Random) -> None:
    """Another class's folder, where tokenizer_config.json can be read at all."""
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    name = chance.choice(
        ["PreTrainedTokenizerFast", "GPT2Tokenizer", "Qwen2Tokenizer", "GemmaTokenizer", "T5Tokenizer"]
    )
    try:
        change(folder / "tokenizer_config.json", tokenizer_class=chance.choice([name, config["tokenizer_class"]]))
    except (ValueError, TypeError):
        shutil.copyfile(tokenizer / "tokenizer_config.json", folder / "tokenizer_config.json")
