"""What a plan says of a layout that is allowed and wasteful."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_workflow.config import calibration
from nemo_workflow.config.plan import Plan
from nemo_workflow.launch import dry_run
from nemo_workflow.utils.console import human_time
from tests.places import Place, write_nemo_model

EIGHT_B = {"model_name": "llama31_8b", "accelerator": "gpu", "num_gpus": "4", "micro_batch_size": "1"}


def notes(place: Place, *more: str, **change: str | None) -> str:
    return "\n".join(place.plan("--dry-run", *more, **EIGHT_B | change).notes)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["-CP", "4"], "-CP 4 leaves 2,048 tokens per GPU and micro batch"),
        (["-CP", "2"], None),
        (["-CP", "2", "--seq-length", "4096"], "-CP 2 leaves 2,048 tokens"),
        (["-CP", "4", "-mbs", "2"], None),
        (["--seq-length", "1024"], None),
    ],
)
def test_short_pieces_under_context_parallelism_are_said(large: Place, more: list[str], said: str | None) -> None:
    change = {"micro_batch_size": None} if "-mbs" in more else {}
    found = notes(large, *more, **change)
    assert (said in found) if said else ("tokens per GPU and micro batch" not in found)


def test_an_automatic_micro_batch_is_what_is_counted(large: Place) -> None:
    tiny = {"model_name": "llama_tiny", "micro_batch_size": "auto", "global_batch_size": "64"}
    assert "tokens per GPU and micro batch" in notes(large, "-CP", "2", **tiny, num_gpus="2", gpu_memory="1.6")
    plan = large.plan("--dry-run", "-CP", "2", **EIGHT_B | tiny | {"num_gpus": "2", "seq_length": "2048"})
    assert plan.settings.micro_batch_size * 2048 // 2 >= 4096
    assert not any("tokens per GPU and micro batch" in note for note in plan.notes)


def test_tensor_parallelism_without_sequence_parallelism_says_what_that_costs(large: Place) -> None:
    assert "-TP 4 without -SP" in notes(large, "-TP", "4")
    assert "-TP 4 without -SP" not in notes(large, "-TP", "4", "-SP")
    assert "without -SP" not in notes(large)
    assert "GiB per GPU" in notes(large, "-TP", "4")


def test_it_is_not_said_of_a_length_that_sequence_parallelism_can_not_split(large: Place) -> None:
    assert "without -SP" not in notes(large, "-TP", "4", "--seq-length", "1022")


@pytest.mark.parametrize(
    "weights", ["model-00001-of-00002.safetensors", "pytorch_model.bin", "adapter_model.safetensors"]
)
def test_weights_beside_the_tokenizer_are_not_used_and_that_is_said(place: Place, weights: str) -> None:
    """Once, where the run begins: not where it starts from a checkpoint, or goes on."""
    (place.hf / weights).touch()
    target = f"{place.hf.name}-nemo"
    said = (
        f"--hf-model-id {place.hf}: holds a model's weights, which are not used: the run begins with random ones. To begin with"
        f" them: python ckpt_conversion/convert_from_hf_to_nemo2.py --source {place.hf} --output-path {target}, then --nemo-model"
        f" {target}"
    )
    assert [note for note in place.plan().notes if "weights" in note] == ([] if "adapter" in weights else [said])
    model = write_nemo_model(place.root / "m", num_layers=2, hidden_size=64)
    assert said not in place.plan(nemo_model=str(model)).notes
    plan = place.plan()
    (plan.folder / "checkpoints").mkdir(parents=True)
    model.rename(plan.folder / "checkpoints" / "step_00000004")
    assert said not in place.plan().notes


def test_an_unset_batch_is_set_against_the_recipes_own(shared: Place) -> None:
    """The guide's 2,048 was made for 8 billion parameters on many GPUs."""
    said = "\n".join(shared.plan("--dry-run", "--seq-length", "32", global_batch_size=None).notes)
    assert "--global-batch-size is unset, so it is 2,048, 2,048 micro batches per step" in said
    assert "llama_tiny's own is 16 (-gbs 16)" in said and "on this machine's CPU" in said
    assert "is unset" not in "\n".join(shared.plan("--dry-run", "--seq-length", "32", global_batch_size="2048").notes)


@pytest.mark.parametrize("batch", [None, "2048"])
def test_a_steps_time_on_a_cpu_is_the_plans(place: Place, batch: str | None) -> None:
    """Calibrated as the plan's is, and said once: in the note of the unset batch, or in one of its own where it is long."""
    (place.root / "out").mkdir()
    for scale in (1.0, 0.3, 3000.0):
        calibration.keep(str(place.root / "out"), None, False, scale, {})
        plan = place.plan("--dry-run", "--seq-length", "32", global_batch_size=batch)
        assert plan.time is not None
        seconds = plan.time["step_seconds"]
        said = [note for note in plan.notes if "on this machine's CPU" in note]
        assert [note.endswith(f" about {human_time(seconds)}") for note in said] == [True] * (
            batch is None or seconds > 1800
        )


def test_more_processes_than_cores_are_said(shared: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    assert "-G 2 is faster" in "\n".join(shared.plan("--dry-run", "-G", "8").notes)
    assert "take turns" not in "\n".join(shared.plan("--dry-run", "-G", "2").notes)


def test_text_that_repeats_often_has_a_remedy_that_is_there(shared: Place) -> None:
    """With one source there are no others to take from."""
    said = "\n".join(shared.plan("--dry-run", "--max-steps", "5000").notes)
    assert "more text, or a smaller --max-steps" in said and "other sources" not in said


def without_a_tokenizer(place: Place, **change: str | None) -> tuple[Plan, str]:
    """A plan for a Hub id that isn't here, and its notes."""
    plan = place.plan("--dry-run", **{"hf_model_id": "org/absent"} | change)
    return plan, "\n".join(plan.notes)


def test_what_follows_from_a_tokenizer_that_is_not_here_is_said_to_be_a_guess(place: Place) -> None:
    plan, said = without_a_tokenizer(place)
    known = dry_run.render(place.plan("--dry-run"), "text")
    guessed = dry_run.render(plan, "text")
    assert "vocabulary, parameters and all that follows from them are those of the recipe's usual tokenizer" in said
    assert ", about 5,245,184 parameters" in guessed and "vocabulary 4,096 of the recipe's usual tokenizer (" in guessed
    assert ", 5,245,184 parameters" in known and "usual tokenizer" not in known


def test_the_data_tells_of_its_tokenizer_where_that_is_not_here(place: Place) -> None:
    figures = {"tokens": 300_000, "largest_token_id": 7, "vocabulary_size": 50_000}
    Path(f"{place.data}.json").write_text(json.dumps(figures | {"tokenizer": "org/absent"}))
    plan, said = without_a_tokenizer(place)
    assert (
        plan.vocab_size == 50_000 and "those of the tokenizer of its name that the data was preprocessed with" in said
    )
    assert "about" not in dry_run.render(plan, "text").splitlines()[0]
    Path(f"{place.data}.json").write_text(json.dumps(figures | {"tokenizer": "org/other"}))
    plan, said = without_a_tokenizer(place)
    assert plan.vocab_size == 4096
    assert (
        "d_text_document: preprocessed with org/other; whether that is the tokenizer of org/absent is compared" in said
    )


def test_a_sequence_longer_than_the_checkpoints_is_said(place: Place) -> None:
    sizes = {"num_layers": 2, "hidden_size": 64, "vocab_size": 4096, "seq_length": 128}
    folder = str(write_nemo_model(place.root / "m", **sizes))
    said = "the checkpoint of --nemo-model was made for 128 tokens"
    assert said in "\n".join(place.plan(nemo_model=folder, seq_length="256").notes)
    assert said not in "\n".join(place.plan(nemo_model=folder, seq_length="128").notes)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("-G 1 --node-bandwidth 50", "--node-bandwidth: has no effect on one node"),
        ("-G 1 -N 2 --node-bandwidth 50 --executor slurm --no-container", None),
        (
            "-G 1 --split 1,0,0 --val-check-interval 5",
            "--val-check-interval: has no effect, since --split leaves nothing",
        ),
        ("-G 1 --val-check-interval 5", None),
    ],
)
def test_a_flag_without_effect_is_said(shared: Place, flags: str, said: str | None) -> None:
    found = "\n".join(shared.plan("--dry-run", *flags.split(), accelerator="gpu").notes)
    assert said in found if said else "no effect" not in found


def test_a_token_that_nothing_is_downloaded_with_is_said(shared: Place) -> None:
    said = "\n".join(shared.plan("--dry-run", "--hf-token", "hf_x").notes)
    assert "--hf-token: has no effect: the tokenizer of --hf-model-id is a folder of this machine" in said
    _, absent = without_a_tokenizer(shared, hf_token="hf_x")
    assert "no effect" not in absent and "no effect" not in "\n".join(shared.plan("--dry-run").notes)


def test_a_new_folder_at_the_root_is_said(shared: Place) -> None:
    said = "a new folder in /; a shell variable in front of it may be unset"
    assert f"--output-dir /no_such_exp: {said}" in shared.plan("--dry-run", output_dir="/no_such_exp").notes
    for known in ("/tmp", "no_such_exp", "/no/such_exp"):
        assert said not in "\n".join(shared.plan("--dry-run", output_dir=known).notes)


def test_data_of_which_no_maker_is_known_is_said(place: Place) -> None:
    """As Megatron-LM's own tool leaves it: of another tokenizer with as many entries nothing else would tell."""
    said = f"{place.data.name}: nothing beside it says which tokenizer made it"
    assert not [note for note in place.plan().notes if said in note]
    Path(f"{place.data}.json").unlink()
    (note,) = [note for note in place.plan().notes if said in note]
    assert f"python -m nemo_workflow.dataset {place.data} --tokenizer {place.hf} shows a text of it" in note
