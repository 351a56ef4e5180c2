"""--extend-vocabulary: what is refused and what is planned, by transformers' tokenizers, without torch's models."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from nemo_workflow.conversion import vocabulary
from nemo_workflow.conversion.command import _checked_import, import_main, import_parser
from nemo_workflow.conversion.extension import Extension
from nemo_workflow.conversion.import_job import Import
from nemo_workflow.models.families import by_model_type
from nemo_workflow.utils.errors import Refusal
from tests.conversion.conftest import CONFIG, SHAPES
from tests.conversion.larger_tokenizers import SPECIAL, WORD, add_pieces
from tests.conversion.tiny_models import TOKENIZER_SIZE, save_tokenizer
from tests.models import sentencepiece_folders

pytestmark = pytest.mark.slow  # transformers


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A Llama of 290 entries with its tokenizer."""
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": TOKENIZER_SIZE}))
    shapes = {name: (TOKENIZER_SIZE, *shape[1:]) if shape[0] == 11 else shape for name, shape in SHAPES.items()}
    save_file({name: np.ones(shape, np.float32) for name, shape in shapes.items()}, folder / "model.safetensors")
    save_tokenizer(folder)
    return folder


def checked(source: Path, tokenizer: Path) -> Import:
    flags = [
        "--source",
        str(source),
        "--output-path",
        str(source.parent / "nemo"),
        "--extend-vocabulary",
        str(tokenizer),
    ]
    return _checked_import(import_parser().parse_args(flags), source.parent / "scratch")


def refusal(source: Path, tokenizer: Path) -> str:
    with pytest.raises(Refusal) as caught:
        checked(source, tokenizer)
    assert not (source.parent / "nemo").exists()
    return str(caught.value)


def extension(source: Path, tokenizer: Path) -> Extension:
    found = checked(source, tokenizer).extension
    assert found is not None
    return found


def change(folder: Path, **ids: int) -> None:
    """Give tokens of the vocabulary other ids."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] |= ids
    path.write_text(json.dumps(content))


def test_new_tokens_their_pieces_and_the_rows(source: Path, tmp_path: Path) -> None:
    job = checked(source, add_pieces(source, tmp_path / "larger"))
    found = job.extension
    assert found is not None and (found.before, found.rows) == (TOKENIZER_SIZE, 384)
    assert list(found.pieces) == [TOKENIZER_SIZE, TOKENIZER_SIZE + 1] and found.pieces[TOKENIZER_SIZE + 1] == ()
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    names = {identity: token for token, identity in vocabulary.items()}
    assert "".join(names[piece] for piece in found.pieces[TOKENIZER_SIZE]) == WORD
    assert "1 (special, or without old pieces)" in found.line() and "rows: 290 -> 384" in found.line()
    assert job.hf["vocab_size"] == job.nemo["vocab_size"] == 384
    assert json.loads((job.folder / "config.json").read_text())["vocab_size"] == 384
    assert {job.tensors[name].shape for name in ("lm_head.weight", "model.embed_tokens.weight")} == {(384, 8)}
    assert SPECIAL in (job.folder / "tokenizer.json").read_text()


def test_part_of_a_letter_has_pieces(source: Path, tmp_path: Path) -> None:
    """Two of the three bytes of a Chinese character, as byte-level tokenizers write them."""
    found = extension(source, add_pieces(source, tmp_path / "larger", words=["ä¸"]))
    assert len(found.pieces[TOKENIZER_SIZE]) == 2


def test_spare_rows_are_taken(source: Path, tmp_path: Path) -> None:
    (source / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": 300}))
    shapes = {name: (300, *shape[1:]) if shape[0] == 11 else shape for name, shape in SHAPES.items()}
    save_file({name: np.ones(shape, np.float32) for name, shape in shapes.items()}, source / "model.safetensors")
    found = extension(source, add_pieces(source, tmp_path / "larger"))
    assert found.rows == 300 and "2 of them take rows that no old token had; rows: 300, as before" in found.line()


def test_old_tokens_with_other_ids_are_refused(source: Path, tmp_path: Path) -> None:
    larger = add_pieces(source, tmp_path / "larger")
    vocabulary = json.loads((larger / "tokenizer.json").read_text())["model"]["vocab"]
    first, second = [token for token, identity in vocabulary.items() if identity in (20, 21)]
    change(larger, **{first: vocabulary[second], second: vocabulary[first]})
    said = refusal(source, larger)
    assert (
        f"the token {min((first, second), key=lambda t: vocabulary[t])!r} has the id 20 in the model's tokenizer and the id 21"
        in said
    )


def test_no_new_tokens_another_kind_and_none_are_refused(source: Path, tmp_path: Path) -> None:
    same = tmp_path / "same"
    save_tokenizer(same)
    assert "has no token that the model's own tokenizer, of 290 entries, lacks" in refusal(source, same)
    other = sentencepiece_folders.save(tmp_path / "other", "T5Tokenizer")
    assert "is a tokenizer of another kind (Unigram" in refusal(source, other)
    (tmp_path / "empty").mkdir()
    assert "no tokenizer files in it; --extend-vocabulary needs a tokenizer" in refusal(source, tmp_path / "empty")
    assert "nowhere: no such folder" in refusal(source, tmp_path / "nowhere")
    for path in source.glob("*token*"):
        path.unlink()
    assert "needs the tokenizer that the model has" in refusal(source, same)


def test_a_look_says_what_would_come(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    larger = add_pieces(source, tmp_path / "larger")
    assert import_main(["--source", str(source), "--dry-run", "--extend-vocabulary", str(larger)]) == 0
    said = capsys.readouterr().out
    assert "vocabulary 384" in said and "2 new tokens: 1 begin with the mean" in said and f"source     {source}" in said


def test_the_size_is_written_under_each_name_that_config_json_has_for_it(source: Path, tmp_path: Path) -> None:
    """ChatGLM's name of it is padded_vocab_size, and GLM 4's folders have both."""
    family = by_model_type("chatglm")
    raw = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**raw, "padded_vocab_size": TOKENIZER_SIZE}))
    vocabulary._write_folder(SimpleNamespace(folder=source, family=family), source, tmp_path / "scratch", 384)
    written = json.loads((tmp_path / "scratch" / "config.json").read_text())
    assert (written["vocab_size"], written["padded_vocab_size"]) == (384, 384)


def test_rows_are_plain_means() -> None:
    """Against the sums written out; several blocks of rows, and of new tokens."""
    import torch

    from nemo_workflow.conversion import grown_rows

    table = torch.randn(9000, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    pieces = {9000 + i: (i, 2 * i, 7) for i in range(4200)} | {20: (1, 2), 14_000: ()}
    made = grown_rows.grown(table, pieces, 14_080)
    for token, found in [*list(pieces.items())[::500], (20, (1, 2))]:
        if found:
            expected = sum(table[piece].float() for piece in found) / len(found)
            assert torch.equal(made[token], expected.bfloat16()), token
    kept = [row for row in range(9000) if row != 20]
    assert torch.equal(made[kept], table[kept])
    assert torch.allclose(made[13_999].float(), table.float().mean(0), atol=1e-3)
    assert not torch.equal(made[14_000], made[13_999])
    assert torch.equal(made, grown_rows.grown(table, pieces, 14_080))  # seeded
