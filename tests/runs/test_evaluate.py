"""The two tools for an exported model, evaluate and sample, where the model or the text is no good."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from nemo_workflow.run_dir.run import RunFolder
from nemo_workflow.runs import evaluate, loading, sample
from nemo_workflow.utils.errors import Refusal
from tests.conversion import tiny_models
from tests.runs import fake_runs


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_text_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").touch()
    monkeypatch.setattr(sys, "argv", ["sample", "--hf-model", str(tmp_path), text])
    with pytest.raises(Refusal, match=r"TEXT.* empty"):
        sample.main()


@pytest.mark.parametrize("command", [sample.main, evaluate.main])
def test_a_folder_that_is_no_exported_model(
    command: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's folder leads to its exported model, a checkpoint to the command that exports it."""

    def said(folder: Path) -> str:
        more = ["text"] if command is sample.main else ["--run", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["tried", "--hf-model", str(folder), *more])
        with pytest.raises(Refusal) as caught:
            command()
        return str(caught.value)

    run = tmp_path / "my_run"
    (run / "checkpoint" / "weights").mkdir(parents=True)
    assert f"convert_from_nemo2_to_hf.py --source {run / 'checkpoint'} --output-path checkpoint-hf" in said(
        run / "checkpoint"
    )
    assert "no such folder; export a checkpoint first: python -m nemo_workflow.export RUN" in said(tmp_path / "no")
    monkeypatch.chdir(tmp_path)
    for hub_id in ("gpt2", "org/some_model"):
        assert f"; --hf-model takes a folder, no Hub id: `hf download {hub_id} --local-dir DIR`" in said(Path(hub_id))
    (run / "hf_model").mkdir()
    (run / "hf_model" / "config.json").touch()
    save_file({"weight": numpy.zeros(8)}, run / "hf_model" / "model.safetensors")
    (run / "hf_model" / "model.safetensors").write_bytes((run / "hf_model" / "model.safetensors").read_bytes()[:-1])
    assert said(run / "hf_model").endswith("model.safetensors: is truncated, 1 byte missing: download or copy it again")
    assert said(run).endswith(f"is a run's folder; its exported model is {run / 'hf_model'}")
    run.rename(tmp_path / "nemo_experiments")
    (tmp_path / "nemo_experiments" / "named").mkdir()
    (tmp_path / "nemo_experiments" / "hf_model").rename(tmp_path / "nemo_experiments" / "named" / "hf_model")
    assert said(Path("named")).endswith("is a run's name; its exported model is nemo_experiments/named/hf_model")


def test_a_run_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "plan.json").write_text("{}")
    words = ["evaluate", "--hf-model", str(tmp_path), "--output-dir", str(tmp_path / "runs"), "--run"]
    monkeypatch.setattr(sys, "argv", [*words, "mine"])
    monkeypatch.setattr(evaluate, "refuse_code", lambda flag, folder: None)
    seen: list[Path] = []
    monkeypatch.setattr(evaluate.Plan, "from_json", lambda text: seen.append(tmp_path) or sys.exit(3))
    with pytest.raises(SystemExit):
        evaluate.main()
    assert seen
    monkeypatch.setattr(sys, "argv", [*words, "other"])
    with pytest.raises(Refusal, match=r"other: no such run below .*; there are: mine"):
        evaluate.main()


def test_a_model_and_a_text_that_are_swapped_and_a_model_without_a_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are told before anything is loaded."""
    model = tmp_path / "hf_model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    monkeypatch.setattr(sys, "argv", ["sample", "--hf-model", "Once upon a time", str(model)])
    with pytest.raises(Refusal, match=r"they look swapped; give --hf-model .*hf_model 'Once upon a time'"):
        sample.main()
    monkeypatch.setattr(sys, "argv", ["sample", "--hf-model", str(model), "Once upon a time"])
    with pytest.raises(Refusal, match=r"hf_model: no tokenizer files in it, such as tokenizer\.json"):
        sample.main()


def test_a_model_of_another_run_is_named_where_the_losses_differ(tmp_path: Path) -> None:
    plan = fake_runs.make_plan(tmp_path / "my_run")
    own = f"python -m nemo_workflow.export {plan.run_dir} writes the run's own, to {plan.folder}/hf_model"
    assert evaluate.of_another_run(tmp_path, plan) == (
        f"; {tmp_path} has no conversion_report.json of an export, so that it may be any model: {own}"
    )
    for run, other in (("my_run", False), ("your_run", True)):
        source = f"/moved/{run}/checkpoints/step_00000100"
        (tmp_path / "conversion_report.json").write_text(json.dumps({"source": source}))
        said = evaluate.of_another_run(tmp_path, plan)
        assert said == (
            f"; the model is of {source}, no checkpoint of this run: give --run the run that it was exported from"
            if other
            else ""
        )


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"num_hidden_layers": 24, "hidden_size": 256}, "num_hidden_layers 24, and the run's model 4"),
        ({"num_hidden_layers": 4, "hidden_size": 1024}, "hidden_size 1024, and the run's model 256"),
        ({"text_config": {"num_hidden_layers": 5}, "hidden_size": 256}, "num_hidden_layers 5, and the run's model 4"),
        ({"num_hidden_layers": 4, "hidden_size": 256, "vocab_size": 7}, ""),
        ({"n_layer": 12}, ""),
    ],
)
def test_a_model_of_another_shape_is_refused_before_it_is_loaded(
    tmp_path: Path, config: dict[str, object], said: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    plan = fake_runs.make_plan(tmp_path / "my_run")
    if not said:
        return evaluate.check_shape(tmp_path, plan)
    with pytest.raises(Refusal) as refusal:
        evaluate.check_shape(tmp_path, plan)
    assert str(refusal.value) == (
        f"--hf-model {tmp_path}: its config.json has {said}: it is not of this run; python -m nemo_workflow.export {plan.run_dir}"
        f" writes the run's own, to {plan.folder}/hf_model"
    )


def test_the_tokens_made_are_counted_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(said, "isatty", lambda: True)
    count = sample._Count(sample.Meter(said), 20_000)
    count.put("the text's own")
    assert said.getvalue() == ""  # no line, nor an empty one, for a text that comes at once
    count.began -= 2 * loading.WORTH_SAYING
    count.put("a token")
    count.end()
    assert said.getvalue().endswith("1 token of up to 20,000")


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_loaded_is_said_in_a_line(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And how long it took, where that was long. A GPU and a terminal can't be had here."""
    said = io.StringIO()
    monkeypatch.setattr(said, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", said)
    for gpu, limit in ((False, 600.0), (True, -1.0)):
        monkeypatch.setattr(loading.machine, "has_gpu", lambda gpu=gpu: gpu)
        monkeypatch.setattr(loading, "WORTH_SAYING", limit)
        with loading.loading(Path("hf_model"), ", for the loss of 3 samples" if gpu else ""):
            pass
    shown = [re.sub(r"\d+ s$", "0 s", line.rpartition("\x1b[K")[2]) for line in said.getvalue().split("\n")[:-1]]
    on_gpu = "hf_model on the GPU, for the loss of 3 samples"
    assert shown == [
        "loading hf_model on the CPU …",
        *([] if terminal else [f"loading {on_gpu} …"]),
        f"loading {on_gpu} … done in 0 s",
    ]


def test_the_two_commands_say_that_they_load_before_they_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    plan = fake_runs.write_run(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    monkeypatch.setattr(evaluate, "refuse_code", lambda *_: None)
    monkeypatch.setattr(evaluate, "quiet", contextlib.nullcontext)
    monkeypatch.setattr(sys, "argv", ["evaluate", "--hf-model", str(tmp_path), "--run", str(plan.folder)])
    for call in (evaluate.main, lambda: sample.generate(tmp_path, "the old", 1, 0, 0)):
        with pytest.raises(ImportError):
            call()
        assert f"loading {tmp_path} on the " in capsys.readouterr().err


def test_a_run_without_a_validation_is_told_what_would_make_one(tmp_path: Path) -> None:
    plan = fake_runs.make_plan(tmp_path / "run")
    fake_runs.append(plan, [])
    with pytest.raises(Refusal, match="not been validated yet; its first validation follows step 25: train until"):
        evaluate.validation_of(plan, tmp_path)
    plan = replace(plan, schedule=replace(plan.schedule, limit_val_batches=0))
    with pytest.raises(Refusal, match=r"leaves nothing for one; train a run with .* --split 98,1,1"):
        evaluate.validation_of(plan, tmp_path)


def test_a_model_is_compared_with_the_validation_of_its_own_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exported at step 50, trained on to 100: another model than that of the last validation, and no worse for it."""
    plan = fake_runs.write_run(tmp_path / "run")
    losses = {one["step"]: one["val_loss"] for one in RunFolder(plan.folder).of_kind("validation")}
    assert list(losses) == [25, 50, 75, 100]
    report = tmp_path / "conversion_report.json"

    def of_step(name: str) -> tuple[float, str]:
        report.write_text(json.dumps({"source": f"{plan.folder}/checkpoints/{name}"}))
        return evaluate.validation_of(plan, tmp_path)

    assert of_step("step_00000050") == (losses[50], "")
    assert of_step("step_00000050-00000100") == (losses[100], "")  # a mean
    assert capsys.readouterr().err == ""
    said = "the model is of step 110, and NeMo's last validation of step 100"
    assert of_step("step_00000110") == (losses[100], said)
    assert capsys.readouterr().err == f"note: {said}\n"
    with pytest.raises(Refusal, match="is of step 60, where the run was not validated, and it has gone on to step 100"):
        of_step("step_00000060")


def test_rows_of_padding_are_named_where_they_make_the_difference(tmp_path: Path) -> None:
    """Seen: 4 steps of a vocabulary of 300, padded to 384, 0.19 nats apart, with the very same logits."""
    plan = replace(fake_runs.make_plan(tmp_path / "run"), vocab_size=300)
    said = "NeMo's loss counts the 84 rows that pad the vocabulary of 300 too, until training has made them unlikely"
    assert evaluate.of_padding(plan, 0.1943).startswith(said)
    for more in (-0.1, 0.0, 0.5, float("nan")):
        assert evaluate.of_padding(plan, more) == ""
    assert evaluate.of_padding(replace(plan, vocab_size=4096), 0.1) == ""


@pytest.mark.slow
def test_a_tokenizer_far_smaller_than_the_model_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a model whose tokenizer was replaced by another's: its text is noise."""
    for name, note in (("llama_scratch", False), ("llama2", True)):
        sample.generate(tiny_models.make(name, tmp_path / name), "hi", 2, 0.0, 1)
        said = capsys.readouterr().err
        assert ("rows: it may not be the model's own" in said) == note, said


@pytest.mark.slow
def test_weights_that_lack_are_no_model(tmp_path: Path) -> None:
    """transformers takes random ones for them, and warns where nobody looks."""
    model = tiny_models.make("llama2", tmp_path / "model")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] += 1
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(Refusal, match=r"lack \d+ tensors of the model .* such as model\.layers\.\d+\.input_layernorm"):
        loading.load_model(model, "auto")


@pytest.mark.parametrize(
    ("named", "refused"), [(["BertForMaskedLM"], True), (["BertLMHeadModel"], False), (["GPT2LMHeadModel"], False), (None, False)]
)  # fmt: skip
@pytest.mark.slow
def test_a_model_of_another_task_is_named(named: list[str] | None, refused: bool, tmp_path: Path) -> None:
    """BERT's weights would be loaded as those of a decoder, and its text be noise."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing", "architectures": named}))
    with pytest.raises(Refusal) as refusal:
        loading.load_model(tmp_path, "auto")
    assert ("names BertForMaskedLM, which doesn't continue text" in str(refusal.value)) == refused


@pytest.mark.slow
def test_tokens_and_positions_that_a_model_lacks_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    learned = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=32, n_embd=8, n_layer=1, n_head=1))
    assert sample._as_many_as_fit(learned, 10, 22) == 22
    assert sample._as_many_as_fit(learned, 10, 23) == 22 and "22 are made, not 23" in capsys.readouterr().err
    with pytest.raises(Refusal, match="TEXT: has 32 tokens, and the model reads 32 at once"):
        sample._as_many_as_fit(learned, 32, 1)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    computed = LlamaForCausalLM(LlamaConfig(vocab_size=32, max_position_embeddings=32, **sizes))
    assert sample._as_many_as_fit(computed, 32, 100) == 100
    loading.check_ids(computed, torch.tensor([[0, 31]]), "x")
    with pytest.raises(Refusal, match="x has the token 32, and the model 32 rows"):
        loading.check_ids(computed, torch.tensor([[0, 32]]), "x")


@pytest.mark.slow
def test_a_damaged_model_is_refused_in_a_line(tmp_path: Path) -> None:
    """Without its weights, with sizes that they don't have, and without its tokenizer."""
    model = tiny_models.make("llama2", tmp_path / "model")
    for file in model.glob("tokenizer*"):
        file.unlink()
    config = (model / "config.json").read_text(encoding="utf-8")
    sizes = json.loads(config)
    with pytest.raises(Refusal, match=r"no tokenizer files in it, such as tokenizer\.json"):
        sample.generate(model, "hi", 2, 0.0, 1)
    (model / "config.json").write_text(json.dumps(sizes | {"hidden_size": 2 * sizes["hidden_size"]}), encoding="utf-8")
    with pytest.raises(Refusal, match=r"model: transformers can't load it: .*size mismatch"):
        loading.load_model(model, "auto")
    (model / "config.json").write_text(json.dumps(sizes | {"model_type": "made_up"}), encoding="utf-8")
    with pytest.raises(Refusal, match=r"transformers 4\.\S+ doesn't know the model_type made_up of its config\.json"):
        loading.load_model(model, "auto")
    (model / "config.json").write_text(config, encoding="utf-8")
    for weights in model.glob("*.safetensors"):
        weights.unlink()
    (model / "pytorch_model.bin").write_bytes(b"no zip file")
    with pytest.raises(Refusal, match=r"can't load it: pytorch_model\.bin is no file of PyTorch's, or damaged: copy"):
        loading.load_model(model, "auto")
    (model / "pytorch_model.bin").unlink()
    with pytest.raises(Refusal, match=r"no weights in it \(\*\.safetensors\): give the folder of a whole model"):
        loading.load_model(model, "auto")
