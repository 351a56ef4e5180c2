"""Every family, Hugging Face -> NeMo -> Hugging Face: the same bits, the same config, logits compared both ways."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.conversion import checks, config_fields
from nemo_workflow.conversion.command import export_main, import_main
from nemo_workflow.conversion.config_fields import to_nemo
from nemo_workflow.conversion.report import NAME
from nemo_workflow.utils.errors import Failure, Refusal
from tests.conversion import tiny_models as tiny
from tests.later import later

transforms = later("nemo_workflow.conversion.transforms")

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny vocabularies take several pieces of an output layer too, the last not whole."""
    from nemo_workflow.conversion import compare_logits

    monkeypatch.setattr(compare_logits, "PIECE", 100)


@pytest.mark.parametrize("name", tiny.EXACT)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    source = tiny.make(name, tmp_path / "hf")
    import_main(["--source", str(source), "--output-path", str(tmp_path / "nemo")])
    export_main(["--source", str(tmp_path / "nemo"), "--output-path", str(tmp_path / "back")])
    reports = [json.loads((tmp_path / side / NAME).read_text()) for side in ("nemo", "back")]
    for report in reports:
        assert report["verified"]
        assert report["logits"]["argmax_agreement"] == 1.0
    same_tensors(source, tmp_path / "back")
    same_files(source, tmp_path / "back")
    note(name, reports)


def same_tensors(first: Path, second: Path) -> None:
    """Compared by another reader than the one under test."""
    import torch
    from safetensors.torch import load_file

    ours, theirs = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    ours = {key: value for key, value in ours.items() if not key.endswith("rotary_pos_emb.inv_freq")}  # a table
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert value.dtype == theirs[key].dtype and value.shape == theirs[key].shape, key
        assert torch.equal(value.view(torch.uint8), theirs[key].view(torch.uint8)), key


def same_files(first: Path, second: Path) -> None:
    assert json.loads((first / "config.json").read_text()) == json.loads((second / "config.json").read_text())
    for name in ("generation_config.json", "tokenizer.json", "special_tokens_map.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    before, after = (json.loads((folder / "tokenizer_config.json").read_text()) for folder in (first, second))
    assert after == {"model_input_names": ["input_ids", "attention_mask"]} | before  # what a model's forward takes


def note(name: str, reports: list[dict]) -> None:
    """Append a row for the table of docs/conversion.md, when a run asks for it (see benchmarks/conversion_table.py)."""
    if table := os.environ.get("CONVERSION_TABLE"):
        row = {"model": name, **reports[0]["model"], "logits": [report["logits"] for report in reports]}
        row["tensors"] = reports[0]["tensors"]["compared"]
        with Path(table).open("a") as stream:
            stream.write(json.dumps(row) + "\n")


@pytest.mark.parametrize("direction", ["import", "export"])
def test_disk_fills_up_half_way(direction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real disk that is too small; the check before (which another process's writing would outrun) is left out."""
    source = tiny.make("llama3", tmp_path / "hf")
    if direction == "export":
        import_main(["--source", str(source), "--output-path", str(tmp_path / "nemo"), "--no-verify"])
        source = tmp_path / "nemo"
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("a small disk can't be mounted here (not root)")
    try:
        monkeypatch.setattr(checks, "resources", lambda *sizes: None)
        main = import_main if direction == "import" else export_main
        with pytest.raises(Failure, match="no space left"):
            main(["--source", str(source), "--output-path", str(small / "out")])
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_loss_with_permission(tmp_path: Path) -> None:
    """Without it the biases are refused; with it they are dropped and the report says so."""
    source = tiny.make("llama_bias", tmp_path / "hf")
    with pytest.raises(Refusal, match="attention_bias"):
        import_main(["--source", str(source), "--output-path", str(tmp_path / "nemo")])
    lossy = ["--allow-lossy", "attention_bias", "--allow-lossy", "mlp_bias"]
    import_main(["--source", str(source), "--output-path", str(tmp_path / "nemo"), *lossy])
    report = json.loads((tmp_path / "nemo" / NAME).read_text())
    assert report["lossy"] == ["attention_bias", "mlp_bias"]
    assert report["logits"]["verdict"] == "different" and not report["verified"]
    assert "model.layers.0.mlp.up_proj.bias" in report["tensors"]["not_carried"]
    assert any("on the way back" in note for note in report["notes"])
    export_main(["--source", str(tmp_path / "nemo"), "--output-path", str(tmp_path / "back")])
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["attention_bias"] is False and config["mlp_bias"] is False
    assert json.loads((tmp_path / "back" / NAME).read_text())["verified"]


def test_a_loss_that_the_way_back_needs_permission_for_too(tmp_path: Path) -> None:
    """NeMo ranks these groups of experts otherwise, and config.json can't say so."""
    source = tiny.make("deepseek_v3_groups", tmp_path / "hf")
    flags = ["--source", str(source), "--output-path", str(tmp_path / "nemo")]
    with pytest.raises(Refusal, match="--allow-lossy topk_group"):
        import_main(flags)
    import_main([*flags, "--allow-lossy", "topk_group"])
    report = json.loads((tmp_path / "nemo" / NAME).read_text())
    assert any("convert_from_nemo2_to_hf.py --allow-lossy topk_group" in note for note in report["notes"])
    back = ["--source", str(tmp_path / "nemo"), "--output-path", str(tmp_path / "back")]
    with pytest.raises(Refusal, match="--allow-lossy topk_group"):
        export_main(back)
    assert not (tmp_path / "back").exists()
    export_main([*back, "--allow-lossy", "topk_group"])
    same_tensors(source, tmp_path / "back")
    same_files(source, tmp_path / "back")
    assert json.loads((tmp_path / "back" / NAME).read_text())["lossy"] == ["topk_group"]


def test_gemma_2_is_exact_up_to_its_window(tmp_path: Path) -> None:
    """Trained on longer sequences in NeMo, it comes back with permission only."""
    source = tiny.make("gemma2_long", tmp_path / "hf")
    import_main(["--source", str(source), "--output-path", str(tmp_path / "nemo")])
    assert any(
        "--seq-length 48 at most" in note for note in json.loads((tmp_path / "nemo" / NAME).read_text())["notes"]
    )
    model = tmp_path / "nemo" / "context" / "model.yaml"
    assert "  seq_length: 48\n" in model.read_text()
    model.write_text(model.read_text().replace("  seq_length: 48\n", "  seq_length: 512\n"))
    back = ["--source", str(tmp_path / "nemo"), "--output-path", str(tmp_path / "back")]
    with pytest.raises(Refusal, match="equal up to 48 only"):
        export_main(back)
    export_main([*back, "--allow-lossy", "sliding_window"])
    same_files(source, tmp_path / "back")


def test_layers_that_predict_further_tokens_are_left_out_by_name(tmp_path: Path) -> None:
    """DeepSeek V3's last layer (MTP) stands behind the others; transformers passes over it too."""
    from safetensors.torch import load_file, save_file

    source = tiny.make("deepseek_v3", tmp_path / "hf")
    weights = load_file(source / "model.safetensors")
    more = {
        name.replace("layers.2.", "layers.3."): weight.clone()
        for name, weight in weights.items()
        if "layers.2." in name
    }
    more["model.layers.3.eh_proj.weight"] = weights["model.layers.0.self_attn.o_proj.weight"].clone()
    save_file({**weights, **more}, source / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    flags = ["--source", str(source), "--output-path", str(tmp_path / "nemo")]
    (source / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 0}))
    with pytest.raises(Refusal, match=f"has {len(more)} tensors that NeMo's"):
        import_main(flags)
    (source / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
    import_main(flags)
    report = json.loads((tmp_path / "nemo" / NAME).read_text())
    assert report["verified"]
    assert any(f"{len(more)} tensors of model.layers.3, which predict further" in note for note in report["notes"])


def test_with_transformer_engine_installed(tmp_path: Path) -> None:
    """The models are computed on the CPU all the same. The package is a stand-in: the real one needs a GPU to be installed."""
    source = tiny.make("llama3", tmp_path / "hf")
    package = tmp_path / "site" / "transformer_engine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('no GPU')\n")
    command = [sys.executable, "ckpt_conversion/convert_from_hf_to_nemo2.py", "--source", str(source)]
    command += ["--output-path", str(tmp_path / "nemo")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "nemo" / NAME).read_text())["verified"]


@pytest.mark.parametrize("name", tiny.WITH_IMAGES)
@pytest.mark.parametrize("older", [False, True])
def test_the_text_part_of_a_model_of_images(name: str, older: bool, tmp_path: Path) -> None:
    """Under the names that transformers saves today, and those from before version 4.52."""
    from safetensors.torch import load_file, save_file

    source = tiny.make(name, tmp_path / "hf")
    weights = load_file(source / "model.safetensors")
    prefix = re.compile(r"^(model\.language_model|language_model\.model)\.")
    now = {prefix.sub("model.", key) for key in weights if prefix.match(key)}
    saved = "language_model.model." if older else "model.language_model."
    named = {prefix.sub(saved, key): value for key, value in weights.items()}
    save_file(named, source / "model.safetensors", metadata={"format": "pt"})
    import_main(["--source", str(source), "--output-path", str(tmp_path / "nemo")])
    report = json.loads((tmp_path / "nemo" / NAME).read_text())
    assert report["verified"] and any("tensors for images" in note for note in report["notes"])
    export_main(["--source", str(tmp_path / "nemo"), "--output-path", str(tmp_path / "back")])
    assert json.loads((tmp_path / "back" / NAME).read_text())["verified"]
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert now and now <= set(back)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["model_type"] == json.loads((source / "config.json").read_text())["text_config"]["model_type"]


@pytest.mark.parametrize("harm", ["a tensor", "the embedding", "the rotary base"])
def test_damage_is_found(harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a wrong conversion would do: other numbers in one tensor, a config that says something else."""
    source = tiny.make("llama3", tmp_path / "hf")
    if harm == "a tensor":
        kind = transforms.KINDS["gate_up"]
        swapped = transforms.Kind(lambda parts, dims: kind.merge(parts[::-1], dims), kind.split)
        monkeypatch.setitem(transforms.KINDS, "gate_up", swapped)
    elif harm == "the embedding":
        kind = transforms.KINDS["vocab"]
        moved = transforms.Kind(lambda parts, dims: kind.merge(parts, dims).roll(1, 0), kind.split)
        monkeypatch.setitem(transforms.KINDS, "vocab", moved)
    else:
        monkeypatch.setattr(
            config_fields, "to_nemo", lambda hf, family: ({**to_nemo(hf, family)[0], "rotary_base": 1e4}, [])
        )
    said = {"a tensor": "mlp.gate_proj", "the embedding": "embed_tokens", "the rotary base": "logits differ"}
    with pytest.raises(Failure, match=said[harm]):
        import_main(["--source", str(source), "--output-path", str(tmp_path / "nemo")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", f"nemo.failed_{NAME}"]
