"""convert_from_hf_to_nemo2.py --dry-run: what an import would do, without torch and without writing."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_workflow.conversion import command
from nemo_workflow.conversion.command import export_main, import_main
from nemo_workflow.utils.console import Meter
from nemo_workflow.utils.errors import Refusal
from tests import forked
from tests.later import later
from tests.waiting import LIMIT

torch = later("torch")

# the command, and whether it imported what takes seconds
PROGRAM = """
import sys
from nemo_workflow.conversion.command import import_main
from nemo_workflow.utils.errors import run_command
try:
    run_command(import_main, "import")
finally:
    print("heavy:", [name for name in ("torch", "transformers", "nemo") if name in sys.modules])
"""


def look(folder: Path, *more: str) -> tuple[int, str, str]:
    done = forked.run(["-c", PROGRAM, "--source", folder, "--dry-run", *more], timeout=LIMIT)
    assert "heavy: []" in done.stdout
    return done.returncode, done.stdout, done.stderr


def state(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in [folder.parent, *folder.parent.rglob("*")]}


def test_it_says_what_would_be_done_and_writes_nothing(folder: Path) -> None:
    before = state(folder)
    code, said, _ = look(folder)
    assert code == 0 and state(folder) == before
    assert "(LlamaForCausalLM) -> NeMo's LlamaModel, LlamaConfig" in said
    assert "weights    2 files, 12 tensors, " in said and "float32" in said
    assert "1 layer, hidden size 8, 2 heads, vocabulary 11, 32 positions" in said
    assert "tokenizer  none here" in said and "of disk for the output" in said


def test_it_refuses_as_the_import_would(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mlp_bias": True}))
    code, _, said = look(folder)
    assert code == 2 and "config.json mlp_bias" in said and "Traceback" not in said
    assert look(folder, "--allow-lossy", "mlp_bias")[0] == 0
    (folder / "model-00001-of-00002.safetensors").unlink()
    code, _, said = look(folder, "--allow-lossy", "mlp_bias")
    assert code == 2 and "shard model-00001-of-00002.safetensors is named by" in said


def test_config_json_alone_will_do(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "config.json":
            path.unlink()
    code, said, _ = look(folder)
    assert code == 0 and "weights    none here: they were not looked at" in said


def test_a_tokenizer_that_no_training_takes_is_said(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    code, said, _ = look(folder)
    assert code == 0 and "a training would refuse it" in said and "tokenizer.json: not JSON" in said


def test_without_it_the_output_is_required(folder: Path) -> None:
    done = forked.run(["ckpt_conversion/convert_from_hf_to_nemo2.py", "--source", folder])
    assert done.returncode == 2 and "--output-path (or --dry-run)" in done.stderr


@pytest.mark.parametrize(("main", "made"), [(import_main, "config.json"), (export_main, "weights/.metadata")])
def test_swapped_folders_are_named(main: Callable[[list[str]], int], made: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / made).parent.mkdir(parents=True)
    (model / made).touch()
    with pytest.raises(Refusal, match="is a model: are the two swapped"):
        main(["--source", str(tmp_path / "new"), "--output-path", str(model)])
    with pytest.raises(Refusal, match=r"are the two swapped\?$"):  # where it would be worst
        main(["--source", str(tmp_path / "new"), "--output-path", str(model), "--overwrite"])


def test_a_checkpoint_that_a_run_has_removed_is_not_taken_for_a_swap(tmp_path: Path) -> None:
    checkpoints, model = tmp_path / "run" / "checkpoints", tmp_path / "hf"
    for part in ("context", "weights"):
        (checkpoints / "step_00000200" / part).mkdir(parents=True)
    model.mkdir()
    (model / "config.json").touch()  # of an earlier conversion
    with pytest.raises(Refusal, match=r"the newest whole one is --source \S+/step_00000200$"):
        export_main(["--source", str(checkpoints / "step_00000100"), "--output-path", str(model)])


def test_folders_that_are_both_there_and_swapped_are_told_by_what_they_are(tmp_path: Path) -> None:
    """Before the output, which is there: --overwrite would be the next try."""
    hf, nemo = tmp_path / "hf", tmp_path / "nemo"
    hf.mkdir()
    (hf / "config.json").write_text("{}")
    for part in ("context", "weights"):
        (nemo / part).mkdir(parents=True)
    for main, source, output in ((import_main, nemo, hf), (export_main, hf, nemo)):
        with pytest.raises(Refusal, match=rf"--output-path {output} is what --source wants: are the two swapped\?"):
            main(["--source", str(source), "--output-path", str(output)])
    with pytest.raises(Refusal, match=r"is a NeMo 2 folder already; convert_from_nemo2_to_hf\.py goes the other way"):
        import_main(["--source", str(nemo), "--output-path", str(tmp_path / "new")])
    with pytest.raises(Refusal, match=r"a Hugging Face folder: convert_from_hf_to_nemo2\.py goes the other way"):
        export_main(["--source", str(hf), "--output-path", str(tmp_path / "new")])


def test_the_folder_below_is_named(tmp_path: Path) -> None:
    """A run's folder, where its exported model is meant; a Hugging Face folder's own parent."""
    (tmp_path / "run" / "hf_model").mkdir(parents=True)
    (tmp_path / "run" / "hf_model" / "config.json").touch()
    with pytest.raises(Refusal, match=r"not a Hugging Face model folder; did you mean .*/run/hf_model\?$"):
        import_main(["--source", str(tmp_path / "run"), "--output-path", str(tmp_path / "out")])


def test_a_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    code, _, err = look(tmp_path / "model", "--revision", "main")
    assert code == 2
    assert f"--revision main: --source {tmp_path / 'model'} is a folder here; a revision is of a Hub id" in err


def test_a_log_shows_the_end_of_the_work_too() -> None:
    """A small model is written within the seconds between two lines of a log, which ended with '(3%)'."""
    stream = io.StringIO()
    on_bytes = command._progress(Meter(stream), "writing", 300)
    for _ in range(30):
        on_bytes(10)
    assert stream.getvalue() == "writing 10 B of 300 B (3%)\nwriting 300 B of 300 B (100%)\n"


@pytest.mark.parametrize("main", [import_main, export_main])
def test_a_token_that_nothing_is_downloaded_with_is_said(
    main: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Refusal):
        main(["--source", str(tmp_path), "--output-path", str(tmp_path / "out"), "--hf-token", "hf_secret"])
    said = capsys.readouterr().err
    assert said == "note: --hf-token: has no effect: all that is named is on this machine\n"
    with pytest.raises(Refusal):
        main(["--source", "nowhere", "--output-path", str(tmp_path / "out"), "--hf-token", "hf_secret"])
    assert capsys.readouterr().err == ""


def test_an_export_counts_the_last_tensor_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log ended short of 100 %. Stand-ins for the checkpoint and its rules; the real writer of the files."""
    from nemo_workflow.conversion import convert, hf_folder

    tensor = torch.ones(4, 2)
    kind = SimpleNamespace(split=lambda whole, dims: [whole])
    monkeypatch.setattr(convert, "KINDS", {"as it is": kind})
    plan = [
        (SimpleNamespace(kind="as it is", hf=[name]), name, None, [hf_folder.Planned(name, "float32", (4, 2))])
        for name in ("a", "b", "c")
    ]
    counts: list[int] = []
    reader = SimpleNamespace(read=lambda key, lead: tensor)
    convert.write_hf(tmp_path, SimpleNamespace(dims=None), reader, plan, counts.append)
    assert counts == [32, 32, 32] and (tmp_path / "model.safetensors").is_file()
