"""convert_from_hf_to_nemo2.py --extend-vocabulary: rows for new tokens, as transformers reads them, against plain torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nemo_workflow.conversion.command import export_main, import_main
from nemo_workflow.conversion.report import NAME
from tests.conversion import tiny_models as tiny
from tests.conversion.larger_tokenizers import WORD, add_pieces

pytestmark = pytest.mark.e2e
MODELS = (
    "llama3",
    "gemma3",
    "gemma3_images",
    "starcoder_untied",
)  # untied, tied, the text part of another, other names


def converted(source: Path, tokenizer: Path, place: Path) -> Path:
    """There with a larger tokenizer, and back; each proved."""
    import_main(["--source", str(source), "--output-path", str(place / "nemo"), "--extend-vocabulary", str(tokenizer)])
    export_main(["--source", str(place / "nemo"), "--output-path", str(place / "back")])
    for side in ("nemo", "back"):
        assert json.loads((place / side / NAME).read_text())["verified"]
    return place / "back"


@pytest.mark.parametrize("name", MODELS)
def test_old_rows_stay_and_new_ones_are_the_mean_of_their_pieces(name: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = tiny.make(name, tmp_path / "hf")
    larger = add_pieces(source, tmp_path / "larger", fill_to=1003)
    back = converted(source, larger, tmp_path)
    old, new = AutoTokenizer.from_pretrained(source), AutoTokenizer.from_pretrained(back)
    assert new.get_vocab() == AutoTokenizer.from_pretrained(larger).get_vocab()
    ours, text = AutoModelForCausalLM.from_pretrained(back), " thequick"
    assert ours.config.get_text_config().vocab_size == ours.get_input_embeddings().num_embeddings == 1024
    identity = new.convert_tokens_to_ids(WORD)
    pieces = old(text)["input_ids"]
    assert identity == 1003 and len(pieces) > 1
    before = load_file(source / "model.safetensors")
    for layer, names in ((ours.get_input_embeddings(), ("embed_tokens.weight", "wte.weight")),
                         (ours.get_output_embeddings(), ("lm_head.weight", "embed_tokens.weight"))):  # fmt: skip
        table = next(value for end in names for key, value in before.items() if key.endswith(end))
        assert torch.equal(layer.weight[:290], table[:290])
        assert torch.equal(layer.weight[identity], table[pieces].float().mean(0).to(table.dtype))
    everything = load_file(back / "model.safetensors")
    for key, value in everything.items():
        theirs = before.get(key, before.get(f"language_model.{key}"))
        assert theirs is None or len(value) == 1024 or torch.equal(value, theirs)


def test_a_sentencepiece_alphabet(tmp_path: Path) -> None:
    """Bytes as pieces of a letter that the old tokenizer lacks, and a sign for a leading space."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    from tests.models import sentencepiece_folders

    source = tiny.make("llama2", tmp_path / "hf")
    for path in source.glob("*token*"):
        path.unlink()
    sentencepiece_folders.save(source, "LlamaTokenizer")
    old = AutoTokenizer.from_pretrained(source)
    old.save_pretrained(tmp_path / "fast")
    shutil.copy(tmp_path / "fast" / "tokenizer.json", source)
    larger = add_pieces(source, tmp_path / "larger", words=["國", "▁國"])
    before, after = (
        load_file(folder / "model.safetensors") for folder in (source, converted(source, larger, tmp_path))
    )
    new, table = AutoTokenizer.from_pretrained(larger), before["model.embed_tokens.weight"]
    raw = [old.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "國".encode()]
    for token, pieces in (("國", raw), ("▁國", [old.convert_tokens_to_ids("▁"), *raw])):
        row = after["model.embed_tokens.weight"][new.convert_tokens_to_ids(token)]
        assert torch.equal(row, table[pieces].float().mean(0).to(table.dtype)), token
    assert len(after["model.embed_tokens.weight"]) == 1003  # the new tokens found rows that no token had


def test_transformers_own_resizing_gives_the_same_where_nothing_is_known_of_a_token(tmp_path: Path) -> None:
    """`resize_token_embeddings`: old rows as they are, new ones the old ones' mean, with noise of a hundred-thousandth."""
    import torch
    from transformers import AutoModelForCausalLM

    from nemo_workflow.conversion.grown_rows import grown

    model = AutoModelForCausalLM.from_pretrained(tiny.make("llama3", tmp_path / "hf"), dtype=torch.float32)
    tables = [layer().weight.detach().clone() for layer in (model.get_input_embeddings, model.get_output_embeddings)]
    model.resize_token_embeddings(len(tables[0]) + 64, mean_resizing=True)
    for table, layer in zip(tables, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True):
        ours, theirs = grown(table, {}, len(table) + 64), layer.weight.detach()
        assert torch.equal(ours[: len(table)], theirs[: len(table)])
        torch.testing.assert_close(ours, theirs, atol=2e-3 * float(table.std()), rtol=0)
