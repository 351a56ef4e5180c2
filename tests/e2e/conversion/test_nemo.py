"""Our checkpoints and lists against what the installed NeMo and transformers say."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import pickle
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow import REPOSITORY
from nemo_workflow.conversion import supported
from nemo_workflow.conversion.command import export_main, import_main
from nemo_workflow.conversion.config_fields import unknown
from nemo_workflow.conversion.report import NAME
from nemo_workflow.models.architecture import ARCHITECTURE, OF_THE_CLASS, TRAINING
from nemo_workflow.models.families import FAMILIES
from nemo_workflow.utils.errors import Refusal
from tests.conversion import tiny_models as tiny
from tests.e2e.conversion.test_families import same_tensors

pytestmark = pytest.mark.e2e


def test_lists_match_nemo(tmp_path: Path) -> None:
    supported.main(["--output-dir", str(tmp_path)])
    for path in sorted(tmp_path.iterdir()):
        known = supported.SIZES_FILE if path.name == supported.SIZES_FILE.name else REPOSITORY / path.name
        assert path.read_text() == known.read_text(), f"{path.name}: run ckpt_conversion/list_supported_model_config.py"


def test_every_field_of_nemos_configurations_is_in_one_list() -> None:
    from nemo_workflow.conversion.nemo_context import prepare

    prepare()
    import nemo.collections.llm.gpt.model as package
    from megatron.core.transformer.transformer_config import TransformerConfig

    fields = set()
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, TransformerConfig):
                fields |= {field.name for field in dataclasses.fields(kind)}
    lists = {"ARCHITECTURE": ARCHITECTURE, "OF_THE_CLASS": OF_THE_CLASS, "TRAINING": TRAINING}
    for name in fields:
        assert len([listed for listed in lists if name in lists[listed]]) == 1, name
    assert not (ARCHITECTURE | OF_THE_CLASS | TRAINING) - fields, "NeMo has no such field any more"


@pytest.mark.parametrize("family", [f for f in FAMILIES if not f.reference], ids=lambda family: family.name)
def test_every_field_of_transformers_has_a_rule(family: Any) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(family.model_type)
    assert unknown(config.to_dict(), family) == []
    for rule in family.fields:
        if rule.default is not None and not callable(rule.default):
            assert getattr(config, rule.hf) == rule.default, (
                f"{family.name}: transformers' default of {rule.hf} is another"
            )


def test_same_bits() -> None:
    import torch

    from nemo_workflow.conversion.compare_tensors import same_bits

    numbers = torch.arange(23, dtype=torch.bfloat16)
    assert same_bits(numbers[1:], numbers[1:].clone())  # an odd offset, no whole number of words
    for at in (0, 5, 22):
        other = numbers.clone()
        other[at] += 1
        assert not same_bits(numbers, other)
    nan, zero = torch.tensor([float("nan")]), torch.tensor([0.0])
    assert same_bits(nan, nan.clone()) and not same_bits(zero, -zero)
    assert not same_bits(numbers, numbers.float()) and not same_bits(numbers, numbers[:, None])


@pytest.mark.parametrize("name", ["llama_tiny", "gemma3"])  # four layers, seven; untied, tied
def test_the_logits_are_those_of_the_whole_models(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against transformers with all weights in memory: what both models share must not be wrong for both."""
    import torch
    from transformers import AutoModelForCausalLM

    from nemo_workflow.conversion import compare_logits

    source, seen, compare, draw = (
        tiny.make(name, tmp_path / "hf"),
        {},
        compare_logits.compare_logits,
        compare_logits.fixed_tokens,
    )
    monkeypatch.setattr(compare_logits, "PIECE", 100)
    monkeypatch.setattr(compare_logits, "fixed_tokens", lambda model: seen.setdefault("tokens", draw(model)))
    monkeypatch.setattr(
        compare_logits, "compare_logits", lambda *both: seen.setdefault("both", both) and compare(*both)
    )
    import_main(["--source", str(source), "--output-path", str(tmp_path / "nemo")])
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        whole = model(input_ids=seen["tokens"], use_cache=False).logits[0]
    for found in seen["both"]:
        assert (found - whole).abs().max() <= 1e-4 * whole.std()


def test_a_stage_stays_while_the_next_is_compared(tmp_path: Path) -> None:
    """They are in memory at once; the one after them may take the first one's."""
    from nemo_workflow.conversion import convert
    from nemo_workflow.conversion import inputs as source
    from nemo_workflow.conversion.compare_tensors import Comparison
    from nemo_workflow.conversion.hf_folder import HFReader, list_tensors
    from nemo_workflow.conversion.nemo_folder import NemoReader

    folder = tiny.make("llama_tiny", tmp_path / "hf")
    import_main(["--source", str(folder), "--output-path", str(tmp_path / "nemo"), "--no-verify"])
    reader, model = HFReader(list_tensors(folder)), convert.Model(*source.read_hf(folder))
    comparison = Comparison(model, reader, NemoReader(tmp_path / "nemo" / "weights"), lambda count: None)
    stages = [comparison.stage(number) for number in range(2)]
    for number in range(2, len(comparison.stages)):
        stages.append(comparison.stage(number))
        for found in stages[-2:]:
            assert all((values == reader.read(name).float()).all() for name, values in found.hf.items())
    assert stages[-1].hf and comparison.different == []


@pytest.fixture(scope="module")
def nemos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama imported by NeMo's own `import_ckpt`."""
    place = tmp_path_factory.mktemp("nemos")
    source = tiny.make("llama3_1", place / "hf")
    import_main(["--source", str(source), "--output-path", str(place / "ours")])
    from nemo.collections import llm

    address = f"hf://{source}"
    config = llm.LlamaModel.importer(address).config
    with process_group_closed():
        llm.import_ckpt(llm.LlamaModel(config), address, output_path=place / "nemos")
    return place


@contextlib.contextmanager
def process_group_closed() -> Iterator[None]:
    """NeMo's exporter leaves it open, and its importer where it fails."""
    import torch
    from megatron.core import parallel_state

    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            parallel_state.destroy_model_parallel()
            torch.distributed.destroy_process_group()


def test_the_same_checkpoint_as_nemos(nemos: Path) -> None:
    """Tensor by tensor; NeMo's loader asks for no name that ours lacks."""
    import torch

    from nemo_workflow.conversion.nemo_folder import NemoReader

    ours, theirs = (NemoReader(nemos / name / "weights") for name in ("ours", "nemos"))
    assert ours.tensors.keys() == theirs.tensors.keys()
    for key in ours.tensors:
        assert torch.equal(ours.read(key), theirs.read(key)), key
    assert names(nemos / "nemos") <= names(nemos / "ours")


def names(folder: Path) -> set[str]:
    from torch.distributed.checkpoint import FileSystemReader

    return set(FileSystemReader(folder / "weights").read_metadata().state_dict_metadata)


def test_nemos_checkpoint_exports(nemos: Path) -> None:
    export_main(["--source", str(nemos / "nemos"), "--output-path", str(nemos / "back")])
    same_tensors(nemos / "hf", nemos / "back")
    from transformers import AutoConfig

    before, after = (AutoConfig.from_pretrained(nemos / name).to_dict() for name in ("hf", "back"))
    # NeMo's importer drops original_max_position_embeddings of rope_scaling; the rest of config.json comes back
    different = {name for name in before | after if before.get(name) != after.get(name)}
    assert different <= {"_name_or_path", "dtype", "torch_dtype", "transformers_version", "rope_scaling"}


def test_nemo_loads_ours(nemos: Path) -> None:
    """NeMo's own exporter reads context/ and weights/ of our folder and gives back what went in."""
    from nemo.collections import llm

    with process_group_closed():
        llm.export_ckpt(nemos / "ours", "hf", output_path=nemos / "nemos_back")
    from safetensors.torch import load_file

    ours, theirs = load_file(nemos / "hf" / "model.safetensors"), load_file(nemos / "nemos_back" / "model.safetensors")
    cut = min(ours["lm_head.weight"].shape[0], theirs["lm_head.weight"].shape[0])  # NeMo cuts to the tokenizer's length
    for key, value in theirs.items():
        rows = slice(cut if key in ("lm_head.weight", "model.embed_tokens.weight") else None)
        assert (value == ours[key][rows]).all(), key


class Evil:
    """What a stranger's checkpoint may hold."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_strangers_metadata_runs_nothing(tmp_path: Path) -> None:
    from nemo_workflow.conversion.nemo_folder import NemoReader

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "owned")))
    with pytest.raises(Refusal, match="has no place"):
        NemoReader(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_a_dotted_name_in_a_strangers_metadata_runs_nothing(tmp_path: Path) -> None:
    """From a class of torch's it leads to every built-in function."""
    from nemo_workflow.conversion.nemo_folder import NemoReader

    def text(value: str) -> bytes:
        return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()

    call = pickle.TUPLE1 + pickle.REDUCE
    name = "FileSystemWriter.__init__.__builtins__.__getitem__"
    evil = text("torch.distributed.checkpoint.filesystem") + text(name) + pickle.STACK_GLOBAL + text("eval") + call
    evil += text(f"open({str(tmp_path / 'owned')!r}, 'w')") + call
    (tmp_path / ".metadata").write_bytes(pickle.PROTO + b"\x04" + evil + pickle.STOP)
    with pytest.raises(Refusal, match="has no place"):
        NemoReader(tmp_path)
    assert not (tmp_path / "owned").exists()


FOREIGN = {
    "empty": b"",
    "text": b"a b c",
    "cut": pickle.dumps([1, 2, 3])[:-3],
    "no such object": b"\x80\x04h\x05.",
    "not on the stack": b"\x80\x040.",
    "no text": b"\x80\x04\x8c\x02\xff\xff.",
    "a dict": pickle.dumps({"state_dict_metadata": {}}),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_metadata_that_is_none_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    from nemo_workflow.conversion.nemo_folder import NemoReader

    (tmp_path / ".metadata").write_bytes(content)
    with pytest.raises(Refusal, match=rf"{tmp_path}/\.metadata: .*again"):
        NemoReader(tmp_path)


def test_an_index_of_nothing_known_is_refused_by_name(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.metadata import Metadata, TensorProperties, TensorStorageMetadata

    from nemo_workflow.conversion.nemo_folder import NemoReader

    def said(**fields: Any) -> str:
        (tmp_path / ".metadata").write_bytes(pickle.dumps(Metadata(**fields)))
        with pytest.raises(Refusal) as caught:
            NemoReader(tmp_path)
        return str(caught.value)

    assert f"{tmp_path}/.metadata: not the index" in said(state_dict_metadata=[])
    assert f"{tmp_path}/.metadata: not the index" in said(state_dict_metadata={}, storage_data=None)
    tensor = TensorStorageMetadata(TensorProperties(), torch_size(4), [whole_chunk(4)])
    assert "doesn't say where a lies" in said(state_dict_metadata={"module.a": tensor}, storage_data={})


def torch_size(*sizes: int) -> Any:
    import torch

    return torch.Size(sizes)


def whole_chunk(rows: int) -> Any:
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

    return ChunkStorageMetadata(torch_size(0), torch_size(rows))


def train_from_scratch(place: Path) -> Path:
    """An imported llama_scratch as training leaves one: NeMo pads the tokenizer's rows to a multiple of 128 times TP, with
    values here, and vocab_size stays unset."""
    import torch

    from nemo_workflow.conversion.nemo_folder import Chunk, NemoReader, write_weights

    source, nemo = tiny.make("llama_scratch", place / "hf"), place / "nemo"
    import_main(["--source", str(source), "--output-path", str(nemo), "--no-verify"])
    reader = NemoReader(nemo / "weights")
    tensors = {key: reader.read(key) for key in reader.tensors}
    for key in ("embedding.word_embeddings.weight", "output_layer.weight"):
        rows = tensors[key]
        tensors[key] = torch.cat((rows, rows.new_ones(512 - len(rows), rows.shape[1])))
    (nemo / "weights").rename(place / "before")
    chunks = [
        Chunk(key, tuple(t.shape), (0,) * t.dim(), tuple(t.shape), t.dtype, lambda t=t: t) for key, t in tensors.items()
    ]
    write_weights(nemo / "weights", chunks, [])
    set_vocabulary(nemo, None)
    return nemo


def set_vocabulary(nemo: Path, size: int | None) -> None:
    import yaml

    path = nemo / "context" / "model.yaml"
    model = yaml.safe_load(path.read_text())
    model["config"]["vocab_size"] = size
    path.write_text(yaml.safe_dump(model))


def test_padded_rows_are_cut(tmp_path: Path) -> None:
    nemo = train_from_scratch(tmp_path)
    (nemo / "context" / "nemo_tokenizer" / "config.json").unlink()
    export_main(["--source", str(nemo), "--output-path", str(tmp_path / "back")])
    same_tensors(tmp_path / "hf", tmp_path / "back")
    report = json.loads((tmp_path / "back" / NAME).read_text())
    assert report["verified"] and report["tensors"]["padded_rows_cut"] == 512 - report["tensors"]["vocabulary_rows"]


@pytest.mark.parametrize("said", [None, tiny.TOKENIZER_SIZE])
def test_rows_of_added_tokens_are_kept(said: int | None, tmp_path: Path) -> None:
    """The config.json beside the tokenizer, and NeMo's config where it says, are those of the model before tokens were added."""
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    nemo = train_from_scratch(tmp_path)
    set_vocabulary(nemo, said)
    folder = nemo / "context" / "nemo_tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<tool>", "<think>"])
    tokenizer.save_pretrained(folder)
    export_main(["--source", str(nemo), "--output-path", str(tmp_path / "back"), "--no-verify"])
    size = tiny.TOKENIZER_SIZE + 2
    assert json.loads((tmp_path / "back" / "config.json").read_text())["vocab_size"] == size
    tensors = load_file(tmp_path / "back" / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert len(tensors[name]) == size and (tensors[name][-2:] == 1).all()


def test_ids_are_counted_past_gaps(tmp_path: Path) -> None:
    from nemo_workflow.conversion.hf_config import Beside

    tiny.save_tokenizer(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    ids = content["model"]["vocab"]
    ids[max(ids, key=ids.get)] = 299
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert Beside(tmp_path, None).rows == 300


def test_a_tokenizer_beyond_the_embedding_changes_nothing(tmp_path: Path) -> None:
    """Llama 2's with a padding token that the model has no row for: what went in comes back."""
    from transformers import AutoTokenizer

    source = tiny.make("llama_scratch", tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(source)
    for main, before, after in ((import_main, "hf", "nemo"), (export_main, "nemo", "back")):
        main(["--source", str(tmp_path / before), "--output-path", str(tmp_path / after), "--no-verify"])
    same_tensors(source, tmp_path / "back")
