"""What other tools call a flag leads to ours, never to a secret; what an unset shell variable leaves is said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.config.flags import TABLE
from nemo_workflow.config.resolve import steps_of_epochs
from nemo_workflow.config.synonyms import MEANINGS
from nemo_workflow.utils.errors import Refusal
from tests.places import Place

OURS = {spelling for option in TABLE for spelling in option.spellings}


def test_no_flag_of_ours_is_explained_as_another_tools() -> None:
    assert not OURS & MEANINGS.keys()
    for said in MEANINGS.values():
        flags = [word.rstrip("?,;") for word in said.split() if word.startswith("--")]
        assert flags and set(flags) <= OURS, said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--tokenizer x", "did you mean --hf-model-id?"),
        ("--epochs 4", "leave --max-steps out for one epoch"),
        (
            "--rope-base 500000",
            "for a longer --seq-length raise rope_theta and max_position_embeddings in the config.json",
        ),
        ("--resume", "the same command continues"),
        (
            "--max-tokens 5",
            "a step takes --global-batch-size x --seq-length tokens: give the tokens over that as --max-steps",
        ),
        (
            "--dp 2",
            "it follows from the rest: the ranks, --num-nodes x --num-gpus, over --tensor-model-parallel-size x",
        ),
        ("--data_parallel_size 2", "it follows from the rest"),
        ("--checkpoint.enable", "checkpoints are written by default, every --save-every steps"),
        ("--lerning-rate 3", "did you mean --lr?"),
        ("--optimizer.lr 3", "did you mean --lr?"),
        ("--trainer.max_steps 3", "did you mean --max-steps?"),
        ("trainer.max_steps=3", "flags begin with two dashes: did you mean --max-steps?"),
        ("\u2013max-step 3", "unrecognized arguments: \u2013max-step; did you mean --max-steps?"),
        ("-tp 2", "-tp: capital letters are told from small ones: type -TP 2"),
        ("-hf-model-id x", "-hf-model-id: a long flag has two dashes: type --hf-model-id x"),
        ("--gpu 2", "did you mean --num-gpus 2?"),
        ("--nproc 2", "did you mean --num-gpus?"),
        ("--train-file my_text.txt", "text is preprocessed first"),
        ("--suggest llama32_1b", "the model is named by -M: --suggest -M llama32_1b"),
        ("--dpo", "there are no adapters"),
        ("--eval-iters 5", "a validation takes the recipe's number of batches"),
        ("--bf16", "bf16 is the default"),
        ("--model_name_or_path=gpt2", "to go on with its weights, convert it first and name it in --nemo-model"),
        ("--config_name x", "the model's sizes are those of a recipe"),
        ("--wandb-key x", "wandb reads the environment's WANDB_API_KEY"),
        ("--wandb-toke x", "wandb reads the environment's WANDB_API_KEY"),
        ("--no-cuda", "did you mean --accelerator cpu?"),
        ("--hf-id x", "did you mean --hf-model-id?"),
        ("--streaming", "the data is read from --dataset-dir as it is needed"),
        (
            "notes.txt",
            "a text is preprocessed first: bash preprocess_data.sh --tokenizer DIR_OR_ID --input notes.txt --output-dir DIR, then --dataset-dir DIR",
        ),
        ("--tp-size 2", "did you mean --tensor-model-parallel-size?"),
        ("--swiglu", "the architecture is the recipe's, --model-name"),
        ("--torch_dtype bfloat16", "did you mean --precision?"),
        ("--overwrite_output_dir", "another --experiment starts from the beginning"),
        ("log.ckpt.save_top_k=2", "did you mean --keep-checkpoints?"),
        ("--models", "did you mean --list-models?"),
        ("help", "--help prints the help"),
        ("-v", "-v; did you mean --version? --log-every says how often a line is printed"),
        ("-V", "-V; did you mean --version?"),
        ("-b 4", "-b 4; did you mean --global-batch-size?"),
        ("-bs=4", "-bs=4; did you mean --global-batch-size?"),
        ("-d x", "did you mean --dataset-dir?"),
        ("-o x", "did you mean --output-dir?"),
        ("-c x.yaml", "did you mean --config?"),
        ("-q", "--log-every says how often a line is printed"),
        ("--vers", "did you mean --version?"),
        ("--version 2", "--version takes no value; type --version alone"),
        ("-TP2", "-TP2: a blank stands before the value: type -TP 2"),
        ("-gbs16", "-gbs16: a blank stands before the value: type -gbs 16"),
        ("--gpu A100-80GB", "; did you mean --gpu a100?"),
        ("--max-steps 10k", "--max-steps 10k: expected a whole number in digits, such as 10000"),
        ("--max-steps 1,500", "--max-steps 1,500: expected a whole number in digits, such as 1500"),
        ("--max-steps 2.0", "expected a whole number in digits, such as 2"),
        ("--max-steps 2.5", "expected a whole number in digits, such as 1000"),
        ("-gbs 1.5k", "--global-batch-size 1.5k: expected a whole number in digits, such as 1500"),
        ("--lr 1k", "--lr 1k: expected a number without a unit"),
        ("--sample Once upon a time", "one with spaces stands in quotes: --sample 'Once upon a time' (see --help)"),
        ("--max-steps 10 more", "one with spaces stands in quotes (see --help)"),
        ("max-steps 10", "flags begin with two dashes: did you mean --max-steps?"),
        ("my.yaml", "did you mean --config my.yaml?"),
        ("--exit-interval 5", "--max-steps ends the training"),
        ("--warmup-ratio 0.1", "--warmup-steps takes steps"),
        ("--checkpoint_every=3", "did you mean --save-every?"),
        ("--learning-rate 1e-3", "did you mean --lr?"),
        ("--batch-size 16", "did you mean --global-batch-size?"),
        ("--hidden-size 512", "sizes are the recipe's, --model-name"),
        ("--num_layers 4", "sizes are the recipe's, --model-name"),
        ("--vocab-size 4096", "that of the tokenizer of --hf-model-id"),
        ("--input my.txt", "text is preprocessed first"),
        ("--lora", "there are no adapters"),
        ("--max-step 3", "did you mean --max-steps?"),
        ("--precision fp32", "did you mean --precision 32? (see --help)"),
        ("--precision bf16", "did you mean --precision bf16-mixed?"),
        (
            "--export-hf",
            "--export-hf: no value; a shell variable may be unset: type --export-hf end or --export-hf save, or leave the flag out",
        ),
        ("--export-hf yes", "did you mean --export-hf end?"),
        ("--optimizer AdamW", "did you mean --optimizer adam?"),
        ("--wandb=true", "--wandb takes no value; type --wandb alone"),
        ("--fp8 true", "unrecognized arguments: true; --fp8 takes no value; type --fp8 alone"),
        ("--fp8 false", "--fp8 takes no value; leave --fp8 out too"),
        ("--precision FP16", "did you mean --precision 16-mixed?"),
        ("--dry-run trainer.max_steps=100", "flags begin with two dashes: did you mean --max-steps?"),
        ("--push_to_hub", "--push-to-hub: no value; it takes the model's name on the Hub: --push-to-hub ORG/NAME"),
        ("--base_model gpt2", "to go on with its weights, convert it first and name it in --nemo-model"),
        ("--bs 8", "did you mean --global-batch-size?"),
        ("--no-wandb", "--wandb is off where it isn't given: leave both out"),
        ("--gpu H100-80GB", "; did you mean --gpu h100?"),
        ("--gpu mi300x", "; --gpu plans for NVIDIA's cards alone"),
        ("--gpu l5", "'l40s') (see --help)"),
        ("trainer.precision=bf16", "did you mean --precision?"),
        ("model.tokenizer.model=x", "did you mean --hf-model-id?"),
        ("exp_manager.exp_dir=out", "did you mean --output-dir?"),
        (
            "model.transformer_engine=True",
            "flags begin with two dashes, and have names of their own: --help all lists them",
        ),
        ("--data-args-path blend.txt", "did you mean --blend?"),
        ("--fp8-format hybrid", "--fp8 trains in NeMo's hybrid format"),
        ("--hub_strategy end", "--push-to-hub uploads the last exported model"),
        ("--data-cache-path x", "is kept below --output-dir, once for all runs"),
        ("--expert-tensor-parallel-size 2", "experts are split over tensor ranks as the recipe"),
        ("--context-parallel-algo p2p", "is the recipe's: leave it out"),
        ("--lr_scheduler.decay_ratio .1", "--lr-schedule wsd --decay-steps takes steps"),
        ("--adam-beta3 1", "--adam-beta3 1 (see --help)"),
        ("--optimizer adm", "; did you mean adam?"),
        ("--hf-model-id", "--hf-model-id: no value; a shell variable may be unset: give a value"),
        ("--export hf", "did you mean --export-hf end?"),
        ("--export=ALL", "sbatch's export is --container-env (see --help)"),
        ("--save-model", "did you mean --export-hf end?"),
        ("--hf_export", "did you mean --export-hf end?"),
        ("--export-model x", "did you mean --export-hf end?"),
        ("--export-dir x", "--export-hf end writes the model to hf_model/ in the run's folder"),
        ("--save-final", "the last step is always saved; --export-hf end writes it"),
        ("--save-checkpoint", "checkpoints are written by default"),
        ("--adam-beta 0.9", "did you mean --adam-beta1 and --adam-beta2?"),
        ("--betas 0.9,0.95", "did you mean --adam-beta1 and --adam-beta2?"),
        ("optimizer.betas=0.9", "did you mean --adam-beta1 and --adam-beta2?"),
        ("--beta-1 0.9", "did you mean --adam-beta1?"),
        ("--checkpoint_dir x", "--nemo-model names the weights to start from, --output-dir the folder that runs"),
        ("--ckpt-path x", "--nemo-model names the weights to start from, --output-dir the folder that runs"),
        ("--checkpoint.folder x", "did you mean --output-dir?"),
        ("--pretrained x", "to go on with its weights, convert it first and name it in --nemo-model"),
        ("--load-weights x", "did you mean --nemo-model?"),
    ],
)
def test_a_flag_of_another_tool(words: str, said: str) -> None:
    with pytest.raises(Refusal) as refusal:
        command_line.parse(words.split())
    assert said in str(refusal.value) and "token?" not in str(refusal.value)


def test_a_blank_behind_a_backslash_is_named() -> None:
    with pytest.raises(Refusal, match=r"it is a blank, as behind the .* at a line's end: let nothing follow that"):
        command_line.parse(["--max-steps", "10", " "])


def test_an_empty_value_is_refused() -> None:
    with pytest.raises(Refusal, match=r"^--nemo-model: an empty value; a shell variable may be unset"):
        command_line.parse(["--hf-model-id", "x", "--dataset-dir", "y", "--nemo-model", ""])


def test_a_key_of_another_tool_in_a_config_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("tokenizer: x\n")
    with pytest.raises(Refusal, match=r"unknown key 'tokenizer'; did you mean hf-model-id\?"):
        command_line.parse(["--hf-model-id", "x", "--dataset-dir", "y", "--config", str(file)])


def test_two_keys_that_one_of_another_tool_stands_for(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("betas: [0.9, 0.95]\n")
    with pytest.raises(Refusal, match=r"unknown key 'betas'; did you mean adam-beta1 and adam-beta2\?"):
        command_line.parse(["--hf-model-id", "x", "--dataset-dir", "y", "--config", str(file)])


def test_a_value_of_another_tool_in_a_config_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("precision: bf16\n")
    with pytest.raises(Refusal, match=r"expected one of bf16-mixed, 16-mixed, 32; did you mean bf16-mixed\?$"):
        command_line.parse(["--hf-model-id", "x", "--dataset-dir", "y", "--config", str(file)])


def test_epochs_beside_a_file_that_has_the_steps_names_the_line(tmp_path: Path) -> None:
    """'Leave --max-steps out' is no help to who hasn't typed it."""
    file = tmp_path / "run.yaml"
    file.write_text("# a comment: with a colon\nmodel-name: llama_tiny\nmax_steps: 200\n")
    with pytest.raises(
        Refusal, match=rf"--epochs 3; --config {file}, line 3 says max-steps 200, which --max-steps N on the"
    ) as said:
        command_line.parse(["--config", str(file), "--epochs", "3"])
    assert "leave --max-steps out" not in str(said.value)
    file.write_text("model-name: llama_tiny\n")
    with pytest.raises(Refusal, match="leave --max-steps out for one epoch"):
        command_line.parse([f"--config={file}", "--num_epochs=3"])


def test_epochs_are_told_in_steps(shared: Place, tmp_path: Path) -> None:
    """The words of the command line that aren't about epochs, and the --config file, say which data, and how large a step."""
    one = shared.plan().schedule.max_steps

    def said(*words: str) -> str:
        with pytest.raises(Refusal) as refusal:
            command_line.parse(words, steps_of_epochs)
        return str(refusal.value)

    assert f"; 1 epoch of this data is {one} steps: --max-steps {one}" in said(*shared.flags("--epochs", "1"))
    more = re.search(
        r"2\.5 epochs of this data are (\d+) steps: --max-steps \1", said(*shared.flags("--num_train_epochs=2.5"))
    )
    less = said(*shared.flags("--epochs", "1", "--global-batch-size", "65536"))
    assert "; 1 epoch of this data is less than one step of --global-batch-size 65536: lower it, or add data" in less
    assert more and 2.5 * one <= int(more[1]) < 2.5 * (one + 1)
    file = tmp_path / "run.yaml"
    file.write_text("max-steps: 7\n")
    both = said(*shared.flags("--config", str(file), "--epochs", "1"))
    assert "line 1 says max-steps 7, which --max-steps N on the command line replaces; 1 epoch of this data is" in both
    for words in (
        ["--epochs", "many"],
        ["--epochs"],
        ["--epochs", "inf"],
        ["--epochs", "-1"],
        ["--epochs=2", "--dataset-dir", "no"],
    ):
        assert "; leave --max-steps out for one epoch" in said(*shared.flags(*words)), words


def test_the_command_line_replaces_what_it_excludes_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("hf-model-id: x\ndataset-dir: my_data\n")
    settings = command_line.parse(["--config", str(file), "--blend", "mix.txt"])
    assert settings.blend == "mix.txt" and settings.dataset_dir == () and "dataset_dir" not in settings.given
    assert capsys.readouterr().err == f"note: --blend replaces dataset-dir of --config {file}, line 2\n"
    file.write_text("hf-model-id: x\nblend: mix.txt\n")
    settings = command_line.parse(["--config", str(file), "--dataset-dir", "my_data"])
    assert settings.blend is None and settings.dataset_dir == ("my_data",)
    command_line.parse(["--config", str(file), "--lr", "1"])
    assert "dataset-dir replaces blend" in (err := capsys.readouterr().err) and err.count("note") == 1
