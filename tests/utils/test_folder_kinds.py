"""A folder of one kind for a flag that takes another: every command says what it is and what takes it, in the same words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_workflow.config.settings import Settings
from nemo_workflow.models import convertible
from nemo_workflow.models.pretrained import read_nemo_model
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.folder_kinds import BRANCH, DATA, MODEL, NEMO, OUTPUT_DIR, TEXT, TOKENIZERS, meant
from tests import forked
from tests.places import Place, write_nemo_model, write_pair, write_tokenizer

REPOSITORY = Path(__file__).parents[2]
STEP = "checkpoints/step_00000008"


def run_of(root: Path) -> Path:
    write_nemo_model(root / STEP)
    settings = {"hf_model_id": "my_tokenizer", "dataset_dir": ["one", "two"]}
    (root / "plan.json").write_text(json.dumps({"settings": settings}))
    return root


def checkpoint(root: Path) -> Path:
    write_tokenizer(write_nemo_model(root) / "context" / "nemo_tokenizer", 9)
    return root


def model(root: Path) -> Path:
    write_tokenizer(root, 9, model_type="llama")
    (root / "model.safetensors").touch()
    return root


def holding(name: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        root.mkdir(exist_ok=True)
        (root / name).write_text("{}")
        return root

    return make


def data(root: Path) -> Path:
    write_pair(root / "preprocessed" / "a_text_document", [3])
    return root


MAKERS = {
    "run": run_of, "checkpoint": checkpoint, "model": model, "data": data, "gguf": holding("x-Q4.gguf"), "litgpt": holding("lit_model.pth"),
    "megatron": holding("latest_checkpointed_iteration.txt"),
    "adapter": holding("adapter_config.json"), "tokenizer": lambda root: write_tokenizer(root, 9), "other": holding("x"),
}  # fmt: skip
TO_NEMO = (
    "it is a Hugging Face model: python ckpt_conversion/convert_from_hf_to_nemo2.py --source {0} --output-path model-nemo, then"
    " --nemo-model model-nemo"
)
GGUF = "x-Q4.gguf is GGUF, llama.cpp's form, most often quantized: take the folder of safetensors that it was made from"
MERGE = "adapter_config.json says that it is an adapter, LoRA or the like: merge it into its base model"
SAID = [
    ("run", TOKENIZERS, "it is a run's folder, and the run was trained with --x my_tokenizer"),
    ("run", DATA, "it is a run's folder, and the run was trained with --x one two"),
    ("run", TEXT, "it is a run's folder; its newest checkpoint goes with --nemo-model {0}/" + STEP),
    ("run", MODEL, "it is a run's folder; its newest checkpoint goes with --nemo-model {0}/" + STEP),
    ("run", NEMO, "it is a run's folder; did you mean --x {0}/" + STEP + "?"),
    ("run", BRANCH, "it is a run's folder; did you mean --x {0}/" + STEP + "?"),
    ("checkpoint", TOKENIZERS, "it is a NeMo 2 checkpoint, whose tokenizer is --x {0}/context/nemo_tokenizer"),
    ("checkpoint", DATA, "it is a NeMo 2 checkpoint, which goes with --nemo-model {0}"),
    ("checkpoint", TEXT, "it is a NeMo 2 checkpoint, which goes with --nemo-model {0}"),
    ("checkpoint", BRANCH, "it is a NeMo 2 checkpoint, which goes with --nemo-model {0}"),
    ("model", DATA, "it is a Hugging Face model: its tokenizer goes with --hf-model-id"),
    ("model", TEXT, "it is a Hugging Face model: its tokenizer goes with --tokenizer"),
    ("model", NEMO, TO_NEMO),
    ("model", BRANCH, TO_NEMO),
    ("data", TOKENIZERS, "it holds data, which goes with --dataset-dir"),
    ("data", TEXT, "it holds what preprocessing has made of a text, which goes with --dataset-dir"),
    ("data", NEMO, "it holds data, which goes with --dataset-dir"),
    *(("litgpt", wanted, "it holds LitGPT's weights (lit_model.pth): ") for wanted in (TOKENIZERS, MODEL, NEMO)),
    *(("megatron", wanted, "it is a Megatron-LM checkpoint: ") for wanted in (MODEL, NEMO, BRANCH)),
    *(("gguf", wanted, GGUF) for wanted in (TOKENIZERS, DATA, TEXT, MODEL, NEMO, BRANCH)),
    *(("adapter", wanted, MERGE) for wanted in (TOKENIZERS, DATA, TEXT, MODEL, NEMO, BRANCH)),
    ("tokenizer", DATA, "it is a tokenizer, which goes with --hf-model-id"),
    ("tokenizer", TEXT, "it is a tokenizer, which goes with --tokenizer"),
    ("tokenizer", NEMO, "it is a tokenizer, which goes with --hf-model-id"),
]


@pytest.mark.parametrize(("kind", "wanted", "said"), SAID)
def test_what_a_folder_is(tmp_path: Path, kind: str, wanted: str, said: str) -> None:
    folder = MAKERS[kind](tmp_path / kind)
    assert meant(folder, wanted, "--x").startswith("; " + said.format(folder))
    assert (
        meant(str(tmp_path / "nowhere"), wanted, "--x") == "" == meant(MAKERS["other"](tmp_path / "o"), wanted, "--x")
    )


def test_a_part_of_a_folder_a_file_and_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = run_of(Path("nemo_experiments") / "mine")
    step = run / STEP
    assert meant("mine", BRANCH, "--decay-from") == f"; it is a run's name; did you mean --decay-from {step}?"
    newest = f"the newest whole one is --x {step}"
    assert meant(run / "checkpoints" / "step_00000002", NEMO, "--x") == f"; {newest}"
    (interrupted := run / "checkpoints" / "step_00000099").mkdir()
    assert meant(interrupted, NEMO, "--x") == f"; its save did not come to its end; {newest}"
    interrupted.rmdir()
    Path("mine").mkdir()  # a folder of one's own text, say, as the quick start calls both
    assert meant("mine", NEMO, "--source") == f"; it is a run's name; did you mean --source {step}?"
    assert meant(run / "checkpoints", NEMO, "--x") == f"; it is a run's folder; did you mean --x {step}?"
    assert meant(step / "weights", NEMO, "--x") == f"; did you mean --x {step}?"
    assert meant(holding("x-Q4.gguf")(Path("g")) / "x-Q4.gguf", MODEL, "--x") == f"; {GGUF}"
    adapter = holding("adapter_config.json")(Path("a"))
    assert MERGE in meant(adapter / "adapter_config.json", MODEL, "--x")
    assert meant(model(Path("m")) / "model.safetensors", TOKENIZERS, "--x") == "; did you mean --x m?"
    (run / "plan.json").write_text('{"my": "plans"}')  # of the user's own
    assert (
        meant(run, TEXT, "--x")
        == f"; it holds a run's checkpoints; its newest checkpoint goes with --nemo-model {step} of pretrain_llm.py"
    )


def test_paths_with_a_blank_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"hf_model_id": "my tokenizer", "dataset_dir": ["my data", "two"]}
    run = run_of(Path("my run"))
    (run / "plan.json").write_text(json.dumps({"settings": settings}))
    step, own = run / STEP, checkpoint(Path("a step")) / "context" / "nemo_tokenizer"
    for path, wanted, said in (
        (model(Path("my model")), NEMO, "--source 'my model' --output-path 'my model-nemo', then --nemo-model 'my model-nemo'"),
        (Path("my model/tokenizer.json"), TOKENIZERS, "--x 'my model'?"),
        (run, TOKENIZERS, "--x 'my tokenizer'"),
        (run, DATA, "--x 'my data' two"),
        (run, NEMO, f"--x '{step}'?"),
        (run, TEXT, f"--nemo-model '{step}' of pretrain_llm.py"),
        (step / "weights", NEMO, f"--x '{step}'?"),
        (step, TEXT, f"--nemo-model '{step}' of pretrain_llm.py"),
        (step.with_name("step_00000002"), NEMO, f"--x '{step}'"),
        (Path("a step"), TOKENIZERS, f"--x '{own}'"),
    ):  # fmt: skip
        assert meant(path, wanted, "--x").endswith(f" {said}"), meant(path, wanted, "--x")


@pytest.mark.parametrize(
    ("kind", "wanted"), [("tokenizer", NEMO), ("tokenizer", MODEL), ("data", MODEL), ("run", MODEL), ("model", DATA)]
)
def test_whose_flag_takes_it(tmp_path: Path, kind: str, wanted: str) -> None:
    folder = MAKERS[kind](tmp_path / kind)
    assert meant(folder, wanted, "--hf-model").endswith(" of pretrain_llm.py")
    assert "of pretrain_llm.py" not in meant(folder, wanted, "--nemo-model")


NOT_CONVERTED = [
    ("gpt2", "model.safetensors", "model_type 'gpt2' is not converted: NeMo 2.7.3 has no model that it imports it to; these are"),
    ("t5", "model.safetensors", "model_type 't5' is not converted: an encoder and decoder, not a causal language model"),
    ("llama", "pytorch_model.bin", "its weights are no safetensors (pytorch_model.bin is a pickle: load it with transformers and"),
    ("baichuan", "model.safetensors", "Baichuan's 13B (40 layers"),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "weights", "why"), NOT_CONVERTED)
def test_a_conversion_that_refuses_is_not_proposed(place: Place, model_type: str, weights: str, why: str) -> None:
    sizes = {"hidden_size": 5120, "num_hidden_layers": 40}
    folder = write_tokenizer(place.root / "m", 4096, model_type=model_type, **sizes)
    (folder / weights).touch()
    for flag, wanted in (("--nemo-model", NEMO), ("--decay-from", BRANCH)):
        said = convertible.meant(folder, wanted, flag)
        assert said.startswith(f"; it is a Hugging Face model, and {why}") and "convert_from" not in said
    notes = place.plan(hf_model_id=str(folder)).notes
    assert [note for note in notes if f"random ones. It can't begin with them: {why}" in note], notes
    with pytest.raises(Refusal, match=r"and .*(not converted|no safetensors|13B)"):
        read_nemo_model(str(folder))


def test_every_command_uses_it(place: Place) -> None:
    """Each flag that takes a folder, with a folder of another kind; exit code 2, one line, nothing written."""
    root = place.root
    for name in ("run", "checkpoint", "model", "data"):
        MAKERS[name](root / "kinds" / name)
    kinds = root / "kinds"
    (root / "t.txt").write_text("text")
    train = [str(REPOSITORY / "pretrain_llm.py")]
    into = ["--output-dir", "new"]
    preprocess = ["-m", "nemo_workflow.preprocess", *into]
    to_nemo = [str(REPOSITORY / "ckpt_conversion/convert_from_hf_to_nemo2.py"), "--output-path", "new"]
    to_hf = [str(REPOSITORY / "ckpt_conversion/convert_from_nemo2_to_hf.py"), "--output-path", "new"]
    extend = ["-m", "nemo_workflow.tokenizer", "--input", "t.txt", *into, "--extend"]
    run_of(root / "nemo_experiments" / "mine")
    write_nemo_model(root / "whole", num_layers=2, hidden_size=64, num_attention_heads=4)
    MAKERS["adapter"](root / "both")
    model(root / "both")
    (root / "g.gguf").touch()
    commands = {
        "a file, not a folder, and not of the form": [*train, *place.flags(hf_model_id="both/tokenizer.json")],
        "g.gguf is GGUF": [*train, *place.flags(dataset_dir="g.gguf")],
        "holds a model and an adapter": ["-m", "nemo_workflow.sample", "--hf-model", "both", "text"],
        "a run's folder, and the run": [*train, *place.flags(hf_model_id=str(kinds / "run"))],
        "whose tokenizer is --hf-model-id": [*train, *place.flags(hf_model_id=str(kinds / "checkpoint"))],
        "trained with --dataset-dir one two": [*train, *place.flags(dataset_dir=str(kinds / "run"))],
        "a run's folder; did you mean --decay-from": [*train, *place.flags(decay_from=str(kinds / "run"))],
        "convert_from_hf_to_nemo2.py --source": [*train, *place.flags(nemo_model=str(kinds / "model"))],
        "its tokenizer goes with --tokenizer": [*preprocess, "--tokenizer", str(place.hf), "--input", str(kinds / "model")],
        "no text to learn from; it is a run's": [*preprocess, "--tokenizer", str(place.hf), "--input-dir", str(kinds / "run")],
        "holds what preprocessing": [*preprocess, "--tokenizer", str(place.hf), "--input", str(kinds / "data")],
        "whose tokenizer is --tokenizer": [*preprocess, "--tokenizer", str(kinds / "checkpoint"), "--input", "t.txt"],
        "its newest checkpoint goes with": [*to_nemo, "--source", str(kinds / "run")],
        "it holds data": [*to_hf, "--source", str(kinds / "data")],
        "holds data, which goes": ["-m", "nemo_workflow.sample", "--hf-model", str(kinds / "data"), "text"],
        "whose tokenizer is --extend ": [*extend, str(kinds / "checkpoint")],
        "trained with --extend my_tokenizer": [*extend, "mine"],
        "--hf-tokenizer kinds/data: no tokenizer files in it": [*to_hf, "--source", "whole", "--hf-tokenizer", "kinds/data"],
        "which goes with --nemo-model": ["-m", "nemo_workflow.dataset", str(kinds / "checkpoint")],
    }  # fmt: skip
    for said, words in commands.items():
        done = forked.run(words, cwd=root, env=os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"})
        assert done.returncode == 2 and said in done.stderr, (words, done.stderr)
        assert done.stderr.count("error:") == 1 and "Traceback" not in done.stderr and not (root / "new").exists()


def test_runs_are_looked_up_where_they_are_written() -> None:
    assert Settings.output_dir == OUTPUT_DIR
