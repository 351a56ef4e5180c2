"""What --dry-run prints, for people and for programs."""

from __future__ import annotations

import json
import re

import pytest

from nemo_workflow.launch import dry_run, plan_text
from nemo_workflow.models import catalog
from nemo_workflow.run_dir.checkpoints import write_manifest
from nemo_workflow.run_dir.fingerprint import identity_of
from nemo_workflow.utils.console import counted
from nemo_workflow.utils.errors import Refusal
from tests.places import Place, leave_checkpoint

pytestmark = pytest.mark.usefixtures("no_outside")

GPU = ("--accelerator", "gpu", "--dry-run")


def described(place: Place, *more: str, **change: str | None) -> dict:
    plan = place.plan(*more, **change)
    return json.loads(dry_run.render(plan, "json"))


def test_the_text_of_a_small_run(shared: Place) -> None:
    text = dry_run.render(shared.plan("--lr", "5e-4"), "text")
    text, times = re.subn(
        r"\nTime: .+ s per step, .+ tokens/s; .+ for the run\n  estimated from the number of cores.+\n\n", "\n", text
    )
    assert times == 1  # and the numbers are this machine's
    assert text == EXPECTED.format(data=shared.data, out=shared.root / "out")


EXPECTED = """\
Model: llama_tiny (LlamaModel of NeMo 2.7.3), 5,245,184 parameters
  4 layers, hidden size 256, vocabulary 4,096 (padded to 4,096); starts from random weights

Layout: 1 CPU rank = TP 1 x PP 1 x CP 1 x DP 1
  16 micro batches per step, in bf16-mixed

Data: 1 file, 1,000 documents, 300,000 tokens
  100.0%  {data}: 300k tokens, uint16, 266k drawn: 0.99 epochs
  training / validation / test: 90.0% / 5.0% / 5.0%; 1,054 training and 58 validation samples

Training: 65 steps of 16 x 256 = 4.1k tokens; 266k tokens in all, 0.99 epochs (1.3% of the samples never seen)
  learning rate 0.0005 after 6 steps of warm-up, down to 5e-05  ▂▄▅▇█████████▇▇▇▇▆▆▆▅▅▅▄▄▄▄▃▃▃▃▂▂▂▂▂▁▁▁▁
  validation every 6 steps, 3 batches

Checkpoints: every 6 steps, 11 in all, 2 kept; 70.0 MiB each, at most 210.1 MiB on disk

Differs from the stock recipe:
  log.ckpt.every_n_train_steps     None -> 6
  optim.config.lr                  0.001 -> 0.0005
  optim.lr_scheduler.min_lr        0.0001 -> 5e-05
  optim.lr_scheduler.warmup_steps  20 -> 6
  trainer.limit_val_batches        8 -> 3
  trainer.max_steps                200 -> 65
  trainer.val_check_interval       50 -> 6

Run folder: {out}/pretraining"""


def test_one_of_a_thing_is_written_in_the_singular(shared: Place) -> None:
    words = ("-mbs", "16", "--max-steps", "1", "--warmup-steps", "1", "--split", "97,2,1")
    text = dry_run.render(shared.plan(*words), "text")
    for line in (
        "  1 micro batch per step, in bf16-mixed",
        "Training: 1 step of 16 x 256",
        "after 1 step of warm-up",
        "validation every step, 1 batch\n",
        "Checkpoints: every step, 1 in all",
    ):
        assert line in text, text
    assert "1 x 1 GPU, DP only" in catalog.listing("llama_tiny")
    assert counted(2, "batch") == "2 batches" and counted(1000, "CPU process") == "1,000 CPU processes"


def test_a_tenth_of_the_rate_is_written_as_a_person_would(shared: Place) -> None:
    text = dry_run.render(shared.plan("--max-steps", "20", "--lr", "3e-4"), "text")
    assert "optim.lr_scheduler.min_lr        0.0001 -> 3e-05\n" in text
    assert "trainer.max_steps                200 -> 20\n" in text


def test_programs_get_the_same_facts(shared: Place) -> None:
    plan = described(shared, "--max-steps", "150")
    assert set(plan) == {
        "model",
        "layout",
        "data",
        "training",
        "schedule",
        "checkpoints",
        "memory",
        "time",
        "differences",
        "patches",
        "run_dir",
        "notes",
    }
    named = {row["name"]: row for row in plan["patches"]}
    assert named["tensor_cuda"]["library"] == "torch" and named["with_seed"]["if_changed"] == "refused"
    assert "forward" not in named  # of a GPU alone
    training = plan["training"]
    assert training["tokens"] == 150 * 16 * 256
    assert training["epochs"] == pytest.approx(150 * 16 / 1054, abs=1e-4)
    assert training["samples_never_seen"] == 0
    assert training["samples_seen_more_than_once"] == 1054
    assert described(shared, "--max-steps", "70")["training"]["samples_seen_more_than_once"] == 70 * 16 - 1054
    assert plan["memory"] is None  # a CPU


def test_a_run_that_goes_on_says_so_or_is_refused(place: Place) -> None:
    """A dry run knows what the real one would do with the checkpoints that are there."""
    plan = place.plan()
    folder = plan.folder / "checkpoints" / "step_00000004"
    folder.mkdir(parents=True)
    # as an older version wrote it: nothing for an optimizer and a precision that were left out
    then = identity_of(plan) | {"optimizer": {"optimizer": None, "precision": None}}
    write_manifest(folder, step=4, identity=then)
    for flags in ((), ("--optimizer", "adam", "--precision", "bf16-mixed")):
        assert described(place, *flags)["model"]["start"] == "step_00000004 of this run"
    with pytest.raises(Refusal, match="--seed"):
        described(place, "--seed", "1")
    with pytest.raises(Refusal, match="put --optimizer, --precision and --optimizer-precision back"):
        described(place, "--precision", "32")


def test_memory_and_its_verdict(shared: Place) -> None:
    flags = (*GPU, "-G", "1", "-M", "llama32_1b", "--max-steps", "10", "-mbs", "2", "--seq-length", "8192", "-gbs", "2")
    plan = described(shared, *flags, accelerator=None, model_name=None, split="9,1,0")
    memory = plan["memory"]
    parts = ("weights", "gradients", "optimizer", "activations", "logits", "libraries")
    assert memory["total"] == sum(memory[part] for part in parts)
    assert memory["fits"]
    small = shared.plan(*flags, "--gpu-memory", "30", accelerator=None, model_name=None, split="9,1,0")
    assert "DOES NOT FIT" in dry_run.render(small, "text")
    assert any("--gpu-memory" in note for note in small.notes)
    assert "recompute" in next(note for note in small.notes if "--gpu-memory" in note)


def test_a_laptop_plans_for_gpus_what_no_cpu_trains(shared: Place) -> None:
    """No GPU is here (conftest): the plan is made for eight H100, and --gpu and -G name others; a small model's stays the CPU's."""
    flags = ("--dry-run", "-M", "llama31_8b", "--max-steps", "10", "-gbs", "8", "--seq-length", "2048")
    other = {"accelerator": None, "model_name": None, "split": "9,1,0"}
    plan = shared.plan(*flags, **other)
    text = dry_run.render(plan, "text")
    assert "8 GPU ranks" in text
    assert "GiB of NVIDIA H100 (assumed; --gpu names another)" in text
    assert "--accelerator cpu plans for this one" in " ".join(plan.notes)
    assert re.search(r"Time: .* per GPU, MFU \d+%\); .* GPU hours\n  time of a step:  matrix products", text)
    named = dry_run.render(shared.plan(*flags, "--gpu", "4090", "-G", "4", **other), "text")
    assert "DOES NOT FIT" in named and "of the 24 GiB of NVIDIA 4090 (--gpu)" in named
    assert "from the data sheet of NVIDIA 4090, not measured" in named
    assert "from rates that this project measured on NVIDIA H100 cards" in text
    assert shared.plan("--dry-run", accelerator=None).accelerator == "cpu"


def test_what_would_be_refused_as_too_slow_here_is_planned_for_gpus(
    large: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small model with a card's batch: examples/one_gpu_24gb.yaml asked for its plan on a laptop."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    change = {"accelerator": None, "model_name": "llama_125m", "global_batch_size": "256"}
    plan = large.plan("--dry-run", "-G", "1", **change)
    assert plan.accelerator == "gpu" and "--accelerator cpu plans for this one" in " ".join(plan.notes)
    with pytest.raises(Refusal, match="no GPU was found, and on this machine's CPU a step would take about"):
        large.plan(**change)
    slow = dry_run.render(large.plan("--dry-run", **change | {"accelerator": "cpu"}), "text")
    assert re.search(r"Time: (\d+ h )?\d+ min( \d+ s)? per step, ", slow)


def test_the_flag_that_would_help_most_is_named_with_what_it_saves(shared: Place) -> None:
    flags = (*GPU, "-G", "1", "-M", "llama32_1b", "--max-steps", "10", "--seq-length", "2048", "-gbs", "16")
    change = {"accelerator": None, "model_name": None, "split": "9,1,0"}
    poor = described(shared, *flags, "-mbs", "1", **change)["time"]
    assert poor["help"]["words"].startswith("-mbs ") and poor["help"]["saves"] > 0.05
    good = described(shared, *flags, "-mbs", poor["help"]["words"].split()[1], **change)["time"]
    assert good["help"]["words"] == "--fp8"  # nothing else is left
    assert good["step_seconds"] == pytest.approx(poor["step_seconds"] * (1 - poor["help"]["saves"]), rel=1e-3)
    recomputed = ("--recompute-granularity", "full", "--recompute-method", "uniform", "--recompute-num-layers", "1")
    needless = described(shared, *flags, "-mbs", "16", *recomputed, **change)["time"]
    assert needless["help"]["words"] == "no recomputation"


def test_layout_of_many(shared: Place) -> None:
    flags = "--executor slurm --dry-run -N 2 -TP 2 -PP 4 -VPP 2 -SP -gbs 32 --seq-length 128 --max-steps 5"
    plan = shared.plan(*flags.split(), model_name="llama3_8b", accelerator=None)
    layout = dry_run.describe(plan)["layout"]
    assert (layout["ranks"], layout["data"], layout["micro_batches"]) == (16, 2, 16)
    assert layout["layers_a_stage"] == [8, 8, 8, 8]
    assert layout["bubble"] == pytest.approx(3 / (2 * 16 + 3), abs=1e-4)
    assert "16 GPU ranks on 2 nodes = TP 2 x PP 4 x CP 1 x DP 2, VPP 2, sequence parallel" in plan_text.text(
        dry_run.describe(plan)
    )


def test_stages_with_unlike_numbers_of_layers(shared: Place) -> None:
    def changed(words: str, model: str = "llama31_8b") -> tuple[list[int], dict[str, object]]:
        flags = f"--executor slurm --dry-run -gbs 32 --seq-length 128 --max-steps 5 {words}"
        described = dry_run.describe(shared.plan(*flags.split(), model_name=model, accelerator=None))
        fields = {entry["field"].partition("strategy.")[2]: entry["ours"] for entry in described["differences"]}
        names = ("num_layers", "account_for", "pipeline_model_parallel_layout")
        return described["layout"]["layers_a_stage"], {k: v for k, v in fields.items() if k.startswith(names)}

    last = {"num_layers_in_last_pipeline_stage": 15}
    assert changed("-G 4 -PP 2 --last-stage-layers 15") == ([17, 15], last)
    spelled = {"pipeline_model_parallel_layout": "Ettttt|tttt|tttt|tttL"}
    assert changed("-G 4 -PP 2 -VPP 2 --first-stage-layers 9 --last-stage-layers 7", "llama32_1b") == ([9, 7], spelled)
    # megatron-core takes one way alone: what the recipe says of its own goes
    uncounted = {"account_for_embedding_in_pipeline_split": False, "account_for_loss_in_pipeline_split": False}
    found = changed("-G 8 -TP 4 -SP -PP 2 --last-stage-layers 62", "llama31_405b")
    assert found == ([64, 62], uncounted | {"num_layers_in_last_pipeline_stage": 62})
    assert changed("-G 8 -TP 4 -SP -PP 2", "llama31_405b") == ([63, 63], {})


def test_the_patch_for_moments_in_bf16_is_named_where_the_recipe_has_them(large: Place) -> None:
    def named(*words: str, model: str) -> bool:
        flags = ("--executor", "slurm", "--dry-run", "--seq-length", "128", "--max-steps", "5", *words)
        plan = large.plan(*flags, model_name=model, accelerator=None, global_batch_size="1024")
        return any(patch["name"] == "in_pieces" for patch in dry_run.describe(plan)["patches"])

    own = ("-N", "128", "-G", "8", "-TP", "2", "-SP", "-PP", "16")
    assert named(*own, model="deepseek_v3")
    assert not named(*own, "--optimizer-precision", "fp32", model="deepseek_v3")
    assert named("--optimizer-precision", "bf16", model="llama32_1b") and not named(model="llama32_1b")


def test_differences_name_every_field_that_a_flag_changes(shared: Place) -> None:
    plan = shared.plan(
        "--adam-beta2", "0.9", "--seed", "7", "--clip-grad", "1.0", "-G", "2", "-TP", "2", "--disable-dist-optim"
    )
    changed = {entry["field"]: entry["ours"] for entry in dry_run.describe(plan)["differences"]}
    assert changed["optim.config.adam_beta2"] == 0.9
    assert changed["data.seed"] == 7
    assert changed["trainer.strategy.tensor_model_parallel_size"] == 2
    assert changed["optim.config.use_distributed_optimizer"] is False
    assert "optim.config.clip_grad" not in changed  # the recipe's own value


def test_the_list_of_models() -> None:
    lines = catalog.listing("").splitlines()
    assert len(lines) == 1 + len(catalog.load()) > 90
    assert catalog.listing("Mixtral-8x7b").splitlines()[1].split()[:3] == ["mixtral_8x7b", "46.7B", "32"]
    with pytest.raises(Refusal, match="no recipe has this in its name; did you mean"):
        catalog.listing("llamma3")


def test_a_run_that_continues_says_from_where(place: Place) -> None:
    plan = place.plan("--max-steps", "200")
    assert "\n  continues" not in dry_run.render(plan, "text")
    leave_checkpoint(plan, 60)
    text = dry_run.render(plan, "text")
    assert (
        "\n  continues after step 60 of 200: 140 steps left\n" in text
        and "starts from step_00000060 of this run" in text
    )
    assert described(place, "--max-steps", "200")["training"]["done"] == 60
    assert "continues after step 60 of 61: 1 step left" in dry_run.render(place.plan("--max-steps", "61"), "text")
    assert re.search(
        r"Time: .* for the run, 2\d s for the 1 step left\n", dry_run.render(place.plan("--max-steps", "61"), "text")
    )
    for fewer in ("20", "60"):
        text = dry_run.render(place.plan("--max-steps", fewer), "text")
        assert "trained to step 60 already: nothing is left; a larger --max-steps than 60 continues it" in text


def test_large_numbers_of_epochs_are_readable(shared: Place) -> None:
    text = dry_run.render(shared.plan("--max-steps", "26753000000"), "text")
    (epochs,) = set(re.findall(r"[\d.,]+ epochs", text))
    assert re.fullmatch(r"\d{1,3}(,\d{3})+ epochs", epochs), epochs
    for line in text.splitlines():
        assert not (line.startswith(("Training:", "Checkpoints:", "Time:")) and re.search(r"\d{5}", line)), line
