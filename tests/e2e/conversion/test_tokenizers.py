"""What lies beside the weights comes back as it went: tokenizers of every kind, or none, config.json and its like."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_workflow.conversion.command import export_main, import_main
from nemo_workflow.models import tokenizer_files
from nemo_workflow.runs import sample
from nemo_workflow.utils.errors import Refusal
from tests.conversion import tiny_models as tiny
from tests.e2e.conversion.test_families import same_tensors
from tests.models import sentencepiece_folders

pytestmark = pytest.mark.e2e


def without(folder: Path) -> None:
    for path in tokenizer_files.files_of(folder):
        path.unlink()
    change(folder / "generation_config.json", eos_token_id=[1, 3], top_k=7)


def of_transformers_5(folder: Path) -> None:
    change(folder / "tokenizer_config.json", tokenizer_class="TokenizersBackend", extra_special_tokens=["<bos>"])


def of_a_newer_library(folder: Path) -> None:
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    change(folder / "tokenizer.json", model={**model, "type": "BPE2"})


def with_code_of_its_own(folder: Path) -> None:
    change(folder / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]})


def sentencepiece_alone(folder: Path) -> None:
    without(folder)
    sentencepiece_folders.save(folder, "LlamaTokenizer")


def with_templates_and_tekken(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "tekken.json").write_text("{}")


def with_settings_of_another_version(folder: Path) -> None:
    change(folder / "generation_config.json", do_sample=False, temperature=0.6, max_length=None, new={"a": 1})


CASES: dict[Callable[[Path], None], str | None] = {
    without: "note: the source has no tokenizer files",
    of_transformers_5: None,
    of_a_newer_library: "note: the tokenizer can't be loaded",
    with_code_of_its_own: "note: the tokenizer can't be loaded",
    sentencepiece_alone: None,
    with_templates_and_tekken: None,
    with_settings_of_another_version: None,
}


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make("llama2", tmp_path_factory.mktemp("model") / "hf")


def assert_settings_come_back(source: Path, back: Path) -> None:
    """But for the inputs of a plain tokenizer that names none, to which its class would add token types."""
    if not source.exists():
        return
    settings, got = json.loads(source.read_text()), json.loads(back.read_text())
    plain = settings.get("tokenizer_class") in ("PreTrainedTokenizerFast", "TokenizersBackend")
    if plain and "model_input_names" not in settings:
        assert got.pop("model_input_names") == ["input_ids", "attention_mask"] and got == settings
    else:
        assert source.read_bytes() == back.read_bytes()


def test_code_that_the_model_came_with_is_left_out_and_its_own_export_is_sampled(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Llama that was saved with auto_map: transformers and NeMo have its class, and nothing that we write names files that aren't there."""
    source, nemo, back = shutil.copytree(model, tmp_path / "hf"), tmp_path / "nemo", tmp_path / "back"
    change(source / "config.json", auto_map={"AutoModelForCausalLM": "own.Own"}, _attn_implementation="org/kernel")
    change(source / "generation_config.json", custom_generate="own/generate.py")
    change(source / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", None]})
    assert import_main(["--source", str(source), "--output-path", str(nemo)]) == 0
    assert "code that comes with the model is not run" in capsys.readouterr().out
    assert export_main(["--source", str(nemo), "--output-path", str(back)]) == 0
    said = capsys.readouterr().out
    for left in (
        "config.json auto_map, _attn_implementation",
        "generation_config.json custom_generate",
        "tokenizer_config.json auto_map",
    ):
        assert f"note: {left} is left out" in said, said
    same_tensors(source, back)
    came = json.loads((model / "config.json").read_text())
    assert json.loads((back / "config.json").read_text()) == came
    monkeypatch.setattr("sys.argv", ["sample", "--hf-model", str(back), "--tokens", "3", "w1 w2"])
    assert sample.main() == 0 and capsys.readouterr().out.strip()
    monkeypatch.setattr("sys.argv", ["sample", "--hf-model", str(source), "w1"])
    with pytest.raises(Refusal, match=r"config\.json has auto_map"):  # from elsewhere, as before
        sample.main()


@pytest.mark.parametrize("dress", CASES, ids=lambda dress: dress.__name__)
def test_it_comes_back_as_it_went(
    dress: Callable[[Path], None], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, nemo, back = shutil.copytree(model, tmp_path / "hf"), tmp_path / "nemo", tmp_path / "back"
    dress(source)
    assert import_main(["--source", str(source), "--output-path", str(nemo)]) == 0
    said = capsys.readouterr().out
    assert CASES[dress] in said if CASES[dress] else "note:" not in said
    assert export_main(["--source", str(nemo), "--output-path", str(back)]) == 0
    names = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    got = {path.relative_to(back).as_posix() for path in back.rglob("*") if path.is_file()}
    assert got - {"conversion_report.json"} == names
    same_tensors(source, back)
    assert_settings_come_back(source / "tokenizer_config.json", back / "tokenizer_config.json")
    for name in names - {"model.safetensors", "config.json", "tokenizer_config.json"}:
        assert (back / name).read_bytes() == (source / name).read_bytes(), name
    assert json.loads((back / "config.json").read_text()) == json.loads((source / "config.json").read_text())
