"""Bad input and lossy configs: refused with the name of what is wrong, before anything is written. No torch, no NeMo."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from nemo_workflow.conversion import checks, config_fields, hf_folder, inputs
from nemo_workflow.conversion.background import beside
from nemo_workflow.conversion.command import _checked_import, export_main, import_main, import_parser
from nemo_workflow.conversion.output_dir import _here, check_output, whole_folder
from nemo_workflow.conversion.report import NAME, Report
from nemo_workflow.models import foreign_code
from nemo_workflow.models.families import FAMILIES, by_model_type, reads
from nemo_workflow.utils.errors import Failure, Refusal
from tests import forked
from tests.waiting import lives

ROOT = Path(__file__).resolve().parents[2]


def refusal(run: Callable[[], Any]) -> str:
    with pytest.raises(Refusal) as caught:
        run()
    return str(caught.value)


def convert(folder: Path, *more: str) -> str:
    """What the import says no with; the output must not exist afterwards."""
    output = folder.parent / "nemo"
    said = refusal(lambda: import_main(["--source", str(folder), "--output-path", str(output), *more]))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["hf"]
    return said


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "config.json" in convert(folder)


def test_config_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "config.json" in convert(folder) and "JSON" in convert(folder)


def test_unknown_architecture(folder: Path) -> None:
    change(folder, model_type="bert")
    assert "'bert' is not converted: an encoder" in convert(folder)
    change(folder, model_type="made_up")
    assert "'made_up'" in convert(folder) and "qwen3_moe" in convert(folder)


def test_another_head(folder: Path) -> None:
    change(folder, architectures=["LlamaForSequenceClassification"])
    assert "LlamaForSequenceClassification" in convert(folder)


def test_config_lacks_a_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "hidden_size" in convert(folder)


def test_missing_shard(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in convert(folder)


@pytest.mark.parametrize("left", [4, 100, -7])
def test_truncated_shard(folder: Path, left: int) -> None:
    shard = folder / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:left])
    assert shard.name in convert(folder) and "truncated" in convert(folder)


def test_index_names_what_is_not_there(folder: Path) -> None:
    index = json.loads((folder / hf_folder.INDEX).read_text())
    index["weight_map"]["model.layers.7.mlp.up_proj.weight"] = "model-00001-of-00002.safetensors"
    (folder / hf_folder.INDEX).write_text(json.dumps(index))
    assert "model.layers.7.mlp.up_proj.weight" in convert(folder)


def test_index_leaves_the_folder(folder: Path) -> None:
    (folder / hf_folder.INDEX).write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    assert "../secret.safetensors" in convert(folder)


def test_pickles_are_not_read(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "pickle" in convert(folder)


def test_quantized(folder: Path) -> None:
    change(folder, quantization_config={"quant_method": "fp8"})
    assert "fp8" in convert(folder)


def test_several_dtypes(folder: Path) -> None:
    save_file({"model.norm.weight": np.ones(8, np.float16)}, folder / "extra.safetensors")
    index = json.loads((folder / hf_folder.INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = "extra.safetensors"
    (folder / hf_folder.INDEX).write_text(json.dumps(index))
    assert "several dtypes" in convert(folder)


def test_tensors_that_are_not_carried_may_have_another_dtype(folder: Path) -> None:
    """A rotary table, which older checkpoints hold in fp32, and what --allow-lossy drops."""
    weights = {"model.norm.weight": hf_folder.TensorInfo(folder, "BF16", (4,), 0, 8)}
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": hf_folder.TensorInfo(folder, "F32", (4,), 8, 16)}
    assert checks.dtype(weights | table, folder) == "bfloat16"
    save_file({"model.positions": np.ones(8, np.int32)}, folder / "extra.safetensors")
    index = json.loads((folder / hf_folder.INDEX).read_text())
    index["weight_map"]["model.positions"] = "extra.safetensors"
    (folder / hf_folder.INDEX).write_text(json.dumps(index))
    output = str(folder.parent / "nemo")
    flags = ["--source", str(folder), "--output-path", output, "--allow-lossy", "model.positions"]
    assert _checked_import(import_parser().parse_args(flags), Path("unused")).nemo["params_dtype"] == "float32"


@pytest.mark.parametrize("value", ["flash_attention_2", "org/kernel", "sdpa"])
@pytest.mark.parametrize("field", foreign_code.IMPLEMENTATION)
def test_how_attention_was_computed_is_one_note(folder: Path, field: str, value: str) -> None:
    """It was said to be kept for the way back and to be left out of it, and a plain value to be code of the model."""
    change(folder, **{field: value})
    flags = ["--source", str(folder), "--output-path", str(folder.parent / "nemo")]
    notes = [note for note in _checked_import(import_parser().parse_args(flags), Path("unused")).notes if field in note]
    said = {
        "flash_attention_2": "how attention was computed where it was written",
        "org/kernel": "code that comes with",
    }
    assert len(notes) == (value in said) and all(said[value] in note and "kept" not in note for note in notes)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attention_bias", True),
        ("mlp_bias", True),
        ("hidden_act", "gelu"),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("some_new_field", 3),
    ],
)
def test_what_would_be_lost_is_refused_by_name(folder: Path, field: str, value: Any) -> None:
    change(folder, **{field: value})
    said = convert(folder)
    assert f"config.json {field}" in said and f"--allow-lossy {field}" in said


@pytest.mark.parametrize(
    ("version", "field", "refused"),
    [
        ("4.44.2", "some_field", False),  # the model class of that transformers reads no such field
        ("5.24.0", "some_field", False),
        ("9.0.0", "some_field", True),  # a newer one may
        ("4.44.2", "partial_rotary_factor", True),  # it is read
        ("4.44.2", "quantization", True),
        (None, "some_field", True),
        (None, "unsloth_fixed", False),
        (None, "is_llama_config", False),
        (None, "activation", False),
    ],
)
def test_a_field_is_refused_when_the_model_reads_it(
    folder: Path, version: str | None, field: str, refused: bool
) -> None:
    family = by_model_type("llama")
    assert family is not None
    plain = json.loads((folder / "config.json").read_text())
    hf = config_fields.complete({**plain, "transformers_version": version, field: 3}, family)
    assert [name for name, _ in config_fields.unknown(hf, family)] == ([field] if refused else [])
    assert config_fields.unread(hf, family) == ([] if refused else [field])


def test_the_list_of_fields_that_models_read_is_this_transformers() -> None:
    from tools.generate_read_fields import read_fields

    said = json.loads(reads.READ_FIELDS.read_text())[importlib.metadata.version("transformers")]
    theirs = [family.model_type for family in FAMILIES if not family.reference]
    assert said == {model_type: sorted(read_fields(model_type)) for model_type in theirs}


def test_losses_that_are_named_are_allowed(folder: Path) -> None:
    assert checks.losses([("attention_bias", "lost")], ["attention_bias"], {}) == set()
    assert "nothing of that name" in refusal(lambda: checks.losses([], ["attention_bias"], {}))


def test_model_name_contradicts(folder: Path) -> None:
    assert "LlamaModel" in convert(folder, "--model-name", "Qwen2Model")
    assert "supported_model.txt" in convert(folder, "--model-name", "Llama")


def test_config_name_contradicts(folder: Path) -> None:
    said = convert(folder, "--model-config-name", "Llama31Config8B")
    assert "num_layers is 32" in said and "config.json says 1" in said
    assert "Qwen2Model" in convert(folder, "--model-config-name", "Qwen2Config7B")
    assert "did you mean Llama31Config8B" in convert(folder, "--model-config-name", "Llama31Config8b")


def test_source_is_not_there(folder: Path) -> None:
    assert "no such folder" in refusal(
        lambda: import_main(["--source", "./nowhere", "--output-path", str(folder.parent / "nemo")])
    )


def test_a_runs_folder_as_source(folder: Path) -> None:
    run = folder.parent / "run"
    for part in ("context", "weights"):
        (run / "checkpoints" / "step_00000008" / part).mkdir(parents=True)
    argv = ["--source", str(run), "--output-path", str(folder.parent / "nemo")]
    said = refusal(lambda: import_main(argv))
    assert said.endswith(
        f"; it holds a run's checkpoints; its newest checkpoint goes with --nemo-model {run}/checkpoints/step_00000008 of pretrain_llm.py"
    )
    (run / "hf_model").mkdir()
    (run / "hf_model" / "config.json").touch()
    assert f"; did you mean {run / 'hf_model'}?" in refusal(lambda: import_main(argv))


def test_disk_and_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(lambda: checks.resources(folder.parent / "nemo", 10**18, 10))
    assert "are free there" in said
    monkeypatch.setattr(checks, "memory_available", lambda: 10**8)
    assert "memory" in refusal(lambda: checks.resources(folder.parent / "nemo", 10, 10))


def test_output_exists(folder: Path) -> None:
    (folder.parent / "nemo").mkdir()
    said = refusal(lambda: import_main(["--source", str(folder), "--output-path", str(folder.parent / "nemo")]))
    assert "--overwrite" in said


# --- the other direction ----------------------------------------------------------------------------------------------
def export(path: Path) -> str:
    output = path.parent / "out"
    said = refusal(lambda: export_main(["--source", str(path), "--output-path", str(output)]))
    assert not output.exists()
    return said


def test_nemo_1_file(tmp_path: Path) -> None:
    (tmp_path / "model.nemo").write_bytes(b"")
    assert "NeMo 1" in export(tmp_path / "model.nemo")


def test_checkpoint_being_written(tmp_path: Path) -> None:
    for part in ("context", "weights"):
        (tmp_path / "run-last" / part).mkdir(parents=True)
    (tmp_path / f"run-last{inputs.UNFINISHED}").touch()
    assert "still being written" in export(tmp_path / "run-last")


def test_checkpoint_without_metadata(tmp_path: Path) -> None:
    for part in ("context", "weights"):
        (tmp_path / "run-last" / part).mkdir(parents=True)
    assert ".metadata" in export(tmp_path / "run-last")


def test_run_folder_instead_of_checkpoint(tmp_path: Path) -> None:
    for part in ("context", "weights"):
        (tmp_path / "run" / "checkpoints" / "step-last" / part).mkdir(parents=True)
    assert "did you mean" in export(tmp_path / "run") and "step-last" in export(tmp_path / "run")


def test_hugging_face_folder_given_to_the_export(folder: Path) -> None:
    assert "convert_from_hf_to_nemo2.py" in export(folder)


# --- the output folder ------------------------------------------------------------------------------------------------
def test_failure_leaves_the_old_output_whole(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "old").touch()
    with pytest.raises(OSError, match="No space"), whole_folder(output) as aside:
        (aside / "new").touch()
        raise OSError(28, "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (output / "old").exists()
    with whole_folder(output) as aside:
        (aside / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and not (output / "old").exists()


@pytest.mark.parametrize("output", ["run", "run/ck", "run/ck/hf", "link", "run/ck/weights/.."])
def test_the_source_is_not_overwritten(output: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "ck"
    for part in ("context", "weights"):
        (checkpoint / part).mkdir(parents=True)
    (checkpoint / "weights" / ".metadata").touch()
    (tmp_path / "run" / NAME).touch()  # a model's folder for --overwrite
    (tmp_path / "link").symlink_to(checkpoint)
    flags = ["--source", str(checkpoint), "--output-path", str(tmp_path / output), "--overwrite"]
    assert "choose a path outside it" in refusal(lambda: export_main(flags))
    assert (checkpoint / "weights" / ".metadata").exists()


def test_the_import_does_not_overwrite_its_source(folder: Path) -> None:
    said = refusal(lambda: import_main(["--source", str(folder), "--output-path", str(folder), "--overwrite"]))
    assert "--source" in said and "choose a path outside it" in said and (folder / "config.json").exists()


def test_only_a_models_folder_is_overwritten(tmp_path: Path) -> None:
    def files(*names: str) -> Path:
        output = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        for name in names:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            (output / name).touch()
        return output

    for model in (
        files("config.json", "model.safetensors", "notes.txt"),
        files("config.json", "pytorch_model.bin"),
        files("context/model.yaml", "weights/.metadata"),
        files(NAME),
    ):
        check_output(model, overwrite=True)
    for other in (files("thesis.txt", "ck/context/model.yaml", "ck/weights/.metadata"), files("config.json")):
        said = refusal(lambda other=other: check_output(other, overwrite=True))
        assert str(other) in said and "choose another path, or empty the folder" in said
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty", overwrite=True)


def test_the_output_is_where_a_link_leads(tmp_path: Path) -> None:
    """To a folder that is replaced, and to one that is not there yet."""
    (tmp_path / "disk" / "old").mkdir(parents=True)
    (tmp_path / "disk" / "old" / NAME).touch()
    for name in ("old", "new"):
        link = tmp_path / f"to_{name}"
        link.symlink_to(tmp_path / "disk" / name)
        check_output(link, overwrite=True)
        with whole_folder(link) as aside:
            (aside / "weights").touch()
        assert link.is_symlink() and [path.name for path in link.iterdir()] == ["weights"]
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["new", "old"]
    (tmp_path / "round").symlink_to(tmp_path / "round")
    assert "is a symlink loop" in refusal(lambda: check_output(tmp_path / "round", overwrite=True))


@pytest.mark.parametrize("mount", [("-t", "tmpfs", "tmpfs"), ("--bind", ".")])
def test_a_mount_point_is_refused_before_the_work(mount: tuple[str, ...], tmp_path: Path) -> None:
    """A disk of its own, and a folder of the same disk, which looks like any other; names with spaces are escaped in /proc."""
    output = tmp_path / "an output"
    output.mkdir()
    command = ["mount", *mount, str(output)]
    if subprocess.run(command, cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here (not root)")
    try:
        for overwrite in (False, True):
            said = refusal(lambda overwrite=overwrite: check_output(output, overwrite))
            assert "is a mount point" in said and f"name a folder below it, {output}/model" in said
        check_output(output / "model", overwrite=False)
    finally:
        subprocess.run(["umount", str(output)], check=True)


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "can't be written to" in refusal(lambda: check_output(tmp_path / "file" / "out", overwrite=False))


def test_an_output_that_somebody_made_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="somebody else made it"), whole_folder(tmp_path / "out"):
        (tmp_path / "out").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def kill_between_the_renames(output: Path) -> None:
    """Replace `output` in another process, which is gone before the new folder has its name."""
    code = "import os, sys; from pathlib import Path; from nemo_workflow.conversion import output_dir\n"
    code += "rename = Path.rename\n"
    code += "Path.rename = lambda *both: (rename(*both), os.kill(os.getpid(), 9))\n"
    code += "with output_dir.whole_folder(Path(sys.argv[1])) as aside: (aside / 'new').touch()\n"
    assert subprocess.run([sys.executable, "-c", code, str(output)], cwd=ROOT).returncode == -9
    assert not output.exists() and len(list(output.parent.iterdir())) == 2


def test_a_kill_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    """The next start gives the old folder its name back, and asks before it replaces it."""
    output = tmp_path / "out"
    output.mkdir()
    (output / NAME).touch()
    kill_between_the_renames(output)
    assert "add --overwrite" in refusal(lambda: check_output(output, overwrite=False))
    assert (output / NAME).exists()
    with pytest.raises(KeyboardInterrupt), whole_folder(output):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (output / NAME).exists()


def test_what_was_replaced_goes_though_the_removal_was_killed(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    kill_between_the_renames(output)
    (tmp_path / "out").mkdir()  # somebody has put a folder there
    (output / "mine").touch()
    with pytest.raises(KeyboardInterrupt), whole_folder(output):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (output / "mine").exists()


def test_the_old_output_comes_back_if_the_new_one_cannot_be_named(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "old").touch()
    with pytest.raises(FileNotFoundError), whole_folder(output) as aside:
        aside.rmdir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (output / "old").exists()


def test_remains_of_another_output_are_left_alone(tmp_path: Path) -> None:
    """Of llama.2, whose name goes on like that of llama's own remains."""
    done = subprocess.Popen(["true"])
    done.wait()
    other = tmp_path / f".llama.2.{done.pid}@{_here()}.abc.partial"
    other.mkdir()
    with whole_folder(tmp_path / "llama"):
        pass
    assert other.exists()


def test_remains_of_a_killed_run_are_cleared(tmp_path: Path) -> None:
    done = subprocess.Popen(["true"])
    done.wait()
    (tmp_path / f".out.{done.pid}@{_here()}.abc.partial").mkdir()  # its process is gone
    (tmp_path / f".out.{os.getpid()}@{_here()}.abc.partial").mkdir()  # another conversion is at work
    with whole_folder(tmp_path / "out"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".out.{os.getpid()}@{_here()}.abc.partial", "out"]


def test_full_disk_is_a_failure_in_words(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no space left"), checks.full_disk(tmp_path / "out"):
        raise OSError(28, "No space left on device")


# --- the report ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("verdict", "proved"), [("same", True), ("different", False)])
def test_a_loss_with_permission_is_no_proof_of_the_logits(verdict: str, proved: bool) -> None:
    tensors = {"compared": 1, "bytes": 1, "different": [], "vocabulary_rows": 1, "padded_rows_cut": 0}
    logits = {"verdict": verdict, "largest_difference": 3.0, "allowed_difference": 1.0, "standard_deviation": 1.0}
    logits |= {"argmax_agreement": 0.5, "tokens": 64}
    report = Report("hf to nemo2", "a", "b", {"tensors": tensors, "logits": logits, "lossy": ["model.positions"]})
    assert report.failures() == [] and report.as_dict()["verified"] is proved
    assert any(line.startswith("not verified") for line in report.lines()) is not proved


# --- the process beside ------------------------------------------------------------------------------------------------
def test_beside_hands_on_what_went_wrong(tmp_path: Path) -> None:
    with beside(lambda: (tmp_path / "done").touch(), "writing"):
        pass
    assert (tmp_path / "done").exists()

    def fill_the_disk() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught, beside(fill_the_disk, "writing"):
        pass
    assert caught.value.errno == 28


def test_beside_is_killed() -> None:
    with (
        pytest.raises(Failure, match="writing was ended from outside"),
        beside(lambda: os.kill(os.getpid(), 9), "writing"),
    ):
        pass


def test_an_error_here_ends_the_work_beside(tmp_path: Path) -> None:
    def work() -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt), beside(work, "writing"):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert not lives(int((tmp_path / "pid").read_text()))


# --- the tables -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_field_has_two_meanings(family: Any) -> None:
    carried = {rule.hf for rule in family.fields}
    assert not carried & set(family.special_fields)
    assert not set(family.fixed) & set(family.special_fields)


def test_the_table_of_published_models_is_what_the_import_says() -> None:
    from tools import generate_config_table

    page = generate_config_table.PAGE.read_text(encoding="utf-8")
    _, begin, rest = page.partition(generate_config_table.BEGIN)
    assert begin and rest.startswith(generate_config_table.table() + generate_config_table.END)


@pytest.mark.parametrize(
    "script", ["convert_from_hf_to_nemo2", "convert_from_nemo2_to_hf", "list_supported_model_config"]
)
def test_help_is_light(script: str) -> None:
    path = ROOT / "ckpt_conversion" / f"{script}.py"
    code = f"import sys, runpy; sys.argv = ['{script}', '--help']\ntry: runpy.run_path({str(path)!r}, run_name='__main__')\n"
    code += "except SystemExit: pass\nheavy = {'torch', 'nemo', 'transformers', 'numpy'} & set(sys.modules)\nassert not heavy, heavy"
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"}
    )
    assert done.returncode == 0, done.stderr
    print(f"{script} --help: {time.monotonic() - before:.2f} s")


# --- the Hub ----------------------------------------------------------------------------------------------------------
def offline(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it, with a Hub cache and no network."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    script = str(ROOT / "ckpt_conversion" / "convert_from_hf_to_nemo2.py")
    return forked.run([script, *arguments], env=environment)


def test_hub_id_is_found_in_the_cache(folder: Path) -> None:
    cached = folder.parent / "hub" / "models--somebody--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")
    (cached / "snapshots").mkdir()
    folder.rename(cached / "snapshots" / "0123456789abcdef0123456789abcdef01234567")
    output = str(folder.parent / "nemo")
    done = offline(
        folder.parent / "hub", "--source", "somebody/tiny", "--output_path", output, "--model-name=Qwen2Model"
    )
    assert done.returncode == 2
    assert "the source is a LlamaForCausalLM" in done.stderr and "Traceback" not in done.stderr


def test_hub_out_of_reach(tmp_path: Path) -> None:
    done = offline(tmp_path / "hub", "--source", "somebody/tiny", "--output-path", str(tmp_path / "nemo"))
    assert done.returncode == 2
    assert "somebody/tiny" in done.stderr and "Hub" in done.stderr and "Traceback" not in done.stderr
