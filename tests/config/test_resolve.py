"""From flags to the plan: steps, splits, sources, names, layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemo_workflow.config.parallelism import Layout, layers_a_stage
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.recipe_fields import field_values
from nemo_workflow.config.schedule import Schedule, rate_at
from nemo_workflow.data.indexed_dataset import read_pair
from nemo_workflow.data.splits import parse_split, parts_of
from nemo_workflow.launch import dry_run
from nemo_workflow.models import catalog, pretrained
from nemo_workflow.utils.errors import Refusal
from tests.places import Place, write_nemo_model, write_pair


def test_one_epoch_of_the_training_split_is_the_default(place: Place) -> None:
    plan = place.plan()
    # 900 of 1000 documents of 300 tokens, cut into samples of 256 and a token more
    assert plan.schedule.max_steps == (900 * 300 - 1) // 256 // 16
    assert plan.schedule.limit_val_batches == 3  # 58 samples of validation, 16 a batch, none twice
    write_pair(place.data, [300] * 1000, dtype="int32")  # twice the bytes, the same tokens
    assert place.plan().schedule == plan.schedule
    assert parts_of(read_pair(place.data), (1.0, 0.0, 0.0))[0].samples(300) == 999  # the last next token is missing
    assert place.plan("--split", "500,500,0").schedule.max_steps == (500 * 300 - 1) // 256 // 16


@pytest.mark.parametrize("lengths", [[5], [7, 0, 9, 4, 0], list(range(1, 102)), [3] * 1000])
@pytest.mark.parametrize("split", ["900,50,50", "1,1,1", "99,1,0", "1,0,0"])
def test_splits_are_cut_where_megatron_cuts(tmp_path: Path, lengths: list[int], split: str) -> None:
    pair = read_pair(write_pair(tmp_path / "p", lengths))
    shares = parse_split(split)
    parts = parts_of(pair, shares)
    before = 0.0
    for share, part in zip(shares, parts, strict=True):
        first, end = round(before * len(lengths)), round((before + share) * len(lengths))
        before += share
        assert (part.sequences, part.tokens) == (end - first, sum(lengths[first:end]))
    assert sum(part.tokens for part in parts) == sum(lengths)


def test_what_is_unset_follows_the_recipe_and_the_length_of_the_run(shared: Place) -> None:
    stock = catalog.find("llama_tiny").fields
    long = shared.plan("--max-steps", "2000").schedule
    assert (long.lr, long.min_lr, long.warmup_steps) == (1e-3, 1e-4, stock["optim.lr_scheduler.warmup_steps"])
    assert long.val_check_interval == stock["trainer.val_check_interval"]
    short = shared.plan("--max-steps", "30").schedule
    assert (short.warmup_steps, short.val_check_interval, short.save_every) == (3, 3, 3)
    one = shared.plan("--max-steps", "1").schedule
    assert (one.warmup_steps, one.val_check_interval) == (0, 1)
    own = shared.plan("--lr", "1e-4", "--warmup-steps", "0", "--save-every", "9").schedule
    assert (own.lr, own.min_lr, own.warmup_steps, own.save_every) == (1e-4, 1e-5, 0, 9)
    assert shared.plan("--split", "9,0,1").schedule.limit_val_batches == 0


def test_learning_rates_along_the_run() -> None:
    schedule = Schedule(100, 10, 0, 1e-3, 1e-4, 10, 10, 1)
    assert rate_at(schedule, 0) == pytest.approx(1e-3 / 11)
    assert rate_at(schedule, 10) == pytest.approx(1e-3)
    assert rate_at(schedule, 55) == pytest.approx((1e-3 + 1e-4) / 2)
    assert rate_at(schedule, 100) == pytest.approx(1e-4)
    constant = Schedule(100, 10, 20, 1e-3, 1e-4, 10, 10, 1)
    assert rate_at(constant, 80) == rate_at(constant, 99) == pytest.approx(1e-4)


def test_sources_of_folders_are_sorted_and_weighted_by_tokens(place: Place) -> None:
    other = place.root / "more"
    write_pair(other / "preprocessed" / "b_text_document", [300] * 200)
    write_pair(other / "preprocessed" / "a_text_document", [300] * 300)
    plan = place.plan("--dataset-dir", str(other))
    assert [Path(source.pair.prefix).name[0] for source in plan.sources] == ["d", "a", "b"]
    assert [source.weight for source in plan.sources] == pytest.approx([10 / 15, 3 / 15, 2 / 15])
    assert plan.schedule.max_steps == (1054 + 316 + 210) // 16


def test_a_blend_file_sets_the_weights(place: Place) -> None:
    write_pair(place.root / "x" / "a", [300] * 100)
    write_pair(place.root / "x" / "b", [300] * 300)
    (place.root / "blend").write_text("3 data  # the large one\n\n1 x\n")
    plan = place.plan(dataset_dir=None, blend=str(place.root / "blend"))
    assert [source.weight for source in plan.sources] == pytest.approx([0.75, 0.0625, 0.1875])
    (place.root / "blend").write_text(f"3 {place.data}\t # the large one\n1\tx/b\n  # 1 x/a\n")
    plan = place.plan(dataset_dir=None, blend=str(place.root / "blend"))
    assert [Path(source.pair.prefix).name for source in plan.sources] == ["d_text_document", "b"]


def test_a_blend_path_may_hold_a_number_sign(place: Place) -> None:
    for name in ("c", "c#"):
        write_pair(place.root / name / "d", [300] * 100)
    (place.root / "blend").write_text("1 c#\n2 c #comment\n")
    plan = place.plan(dataset_dir=None, blend=str(place.root / "blend"))
    assert [Path(source.pair.prefix).parent.name for source in plan.sources] == ["c#", "c"]


def test_a_plan_survives_its_journey_as_json(shared: Place) -> None:
    plan = shared.plan("-G", "2", "-TP", "2")
    assert Plan.from_json(plan.to_json()) == plan


def test_paths_are_absolute(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.root)
    plan = place.plan(dataset_dir="data", hf_model_id="hf", output_dir="out")
    assert plan.settings.dataset_dir == (str(place.root / "data"),)
    assert plan.settings.hf_model_id == str(place.root / "hf")
    assert plan.run_dir == str(place.root / "out" / "pretraining")


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "llama", "num_hidden_layers": 16, "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "vocab_size": 128256}, "llama32_1b"),
        ({"model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192, "vocab_size": 128256}, "llama3_8b"),
        ({"model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072, "vocab_size": 128256, "rope_scaling": {"rope_type": "llama3"}}, "llama31_8b"),
        ({"model_type": "qwen2", "num_hidden_layers": 24, "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32768, "vocab_size": 151936}, "qwen25_500m"),
        ({"model_type": "qwen3_moe", "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 4, "num_experts": 128, "max_position_embeddings": 40960, "vocab_size": 151936}, "qwen3_30b_a3b"),
        ({"model_type": "mixtral", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8, "max_position_embeddings": 32768, "vocab_size": 32000}, "mixtral_8x7b"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_the_recipe_of_a_published_configuration_is_found(config: dict, name: str) -> None:
    assert pretrained.recipe_of_hf(config) == name


def test_the_recipe_is_found_from_the_folder_and_said(place: Place) -> None:
    config = {"model_type": "llama", "num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 768}
    (place.hf / "config.json").write_text(json.dumps(config))
    plan = place.plan(model_name=None)
    assert plan.model_name == "llama_tiny"
    assert plan.notes == ("model name llama_tiny found from the config.json of --hf-model-id",)


def test_a_checkpoint_names_the_recipe_and_its_sizes_win(place: Place) -> None:
    sizes = {"num_layers": 16, "hidden_size": 2048, "ffn_hidden_size": 8192, "recompute_granularity": "full"}
    folder = write_nemo_model(place.root / "m", config="llama.Llama32Config1B", **sizes)
    plan = place.plan(model_name=None, nemo_model=str(folder))
    assert plan.model_name == "llama32_1b"
    assert plan.sizes["recompute_granularity"] is None  # how it was trained is not what it is
    small = write_nemo_model(place.root / "s", num_layers=2, hidden_size=64, ffn_hidden_size=128)
    plan = place.plan(nemo_model=str(small))
    assert (plan.sizes["num_layers"], plan.sizes["hidden_size"]) == (2, 64)
    assert "sizes of the checkpoint instead of llama_tiny's: num_layers 2, hidden_size 64" in plan.notes[0]


def test_sizes_that_a_runs_own_checkpoint_leaves_open_are_filled(place: Place) -> None:
    sizes = {
        "num_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "kv_channels": None,
        "num_query_groups": None,
    }
    folder = write_nemo_model(place.root / "m", ffn_hidden_size=None, **sizes)
    plan = place.plan("--dry-run", "-G", "1", accelerator="gpu", nemo_model=str(folder))  # with a memory plan
    assert [plan.sizes[name] for name in ("kv_channels", "num_query_groups", "ffn_hidden_size")] == [16, 4, 256]


@pytest.mark.parametrize(("seq_length", "trained_on", "refused"), [(32, 32, False), (64, 32, True), (64, 64, False)])
def test_a_converted_gemma_2_is_trained_within_its_window(
    place: Place, seq_length: int, trained_on: int, refused: bool
) -> None:
    """The import writes a seq_length of the window; a longer one says that NeMo itself trained the model on it."""
    model = {"model": "gemma2.Gemma2Model", "config": "gemma2.Gemma2Config"}
    folder = write_nemo_model(place.root / "m", **model, window_size=[31, 0], seq_length=trained_on)
    flags = {"model_name": "gemma2_2b", "nemo_model": str(folder), "accelerator": "gpu", "seq_length": seq_length}
    if not refused:
        assert place.plan("--dry-run", "-G", "1", **flags).seq_length == seq_length
        return
    with pytest.raises(Refusal, match="use 32 at most"):
        place.plan("--dry-run", "-G", "1", **flags)


def test_a_table_of_positions_keeps_its_length_in_a_checkpoint(place: Place) -> None:
    """StarCoder's: shorter sequences are trained, and the model's rows stay."""
    model = {"model": "starcoder.StarcoderModel", "config": "starcoder.StarcoderConfig"}
    learned = {"position_embedding_type": "learned_absolute", "seq_length": 96, "num_layers": 2, "hidden_size": 64}
    folder = write_nemo_model(place.root / "m", **model, **learned, num_attention_heads=4, ffn_hidden_size=160)
    plan = place.plan(model_name="starcoder_15b", nemo_model=str(folder), seq_length=32)
    values = field_values(plan)
    assert (values["data.seq_length"], values["model.config.seq_length"]) == (32, 96)


def test_a_tokenizer_in_the_hub_cache_is_read(place: Place, tmp_path: Path) -> None:
    plan = place.plan(hf_model_id="some/model")
    assert plan.vocab_size == 4096  # the recipe's usual one
    assert "not on this machine" in plan.notes[0]
    repository = tmp_path / "hub" / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    place.hf.rename(repository / "snapshots" / "abc")
    write_pair(place.data, [300] * 1000, largest=4000)
    assert place.plan(hf_model_id="some/model").notes == ()


def test_a_config_alone_in_the_hub_cache_tells_the_model_and_no_tokenizer(place: Place, tmp_path: Path) -> None:
    """What reading a config leaves: the recipe is found by it, the tokenizer is yet to be fetched."""
    config = {"model_type": "qwen3", "num_hidden_layers": 28, "hidden_size": 1024, "vocab_size": 151936}
    repository = tmp_path / "hub" / "models--some--model"
    for name, file, text in (("refs", "main", "abc"), ("snapshots/abc", "config.json", json.dumps(config))):
        (repository / name).mkdir(parents=True)
        (repository / name / file).write_text(text)
    plan = place.plan("--dry-run", model_name=None, hf_model_id="some/model")
    assert plan.model_name == "qwen3_600m" and plan.vocab_size == 151936
    assert any("the tokenizer of some/model is not on this machine" in note for note in plan.notes)


def test_figures_beside_the_data_are_used_while_they_fit(place: Place) -> None:
    figures = Path(f"{place.data}.json")
    figures.write_text(json.dumps({"tokens": 1, "largest_token_id": 9999}))  # of older data
    assert ["which tokenizer made it" in note for note in place.plan().notes] == [True]
    figures.write_text(
        json.dumps(
            {
                "tokens": 300_000,
                "largest_token_id": 7,
                "append_eod": False,
                "tokenizer_sha256": "0",
                "tokenizer_path": "/t",
            }
        )
    )
    with pytest.raises(Refusal, match=r"d_text_document was preprocessed with another tokenizer.json \(/t\)"):
        place.plan()
    plan = place.plan("--allow-change", "tokenizer")
    assert plan.notes == (
        "d_text_document has no end-of-document tokens between its documents",
        "--allow-change tokenizer: d_text_document: made with another tokenizer (/t); unless its ids are the same, the model learns"
        " nothing of use, and the loss means nothing",
    )


def test_accelerator_and_ranks(shared: Place) -> None:
    assert shared.plan(accelerator="auto").layout.ranks == 1  # no GPU here
    slurm = shared.plan("--executor", "slurm", accelerator="auto")
    assert (slurm.accelerator, slurm.layout.ranks) == ("gpu", 8)
    assert shared.plan("--executor", "slurm").layout.ranks == 1


def test_layers_a_stage() -> None:
    def split(name: str, pipeline: int) -> list[int]:
        recipe = catalog.find(name)
        return layers_a_stage(recipe.sizes, recipe.layout, Layout(1, pipeline, 1, pipeline, 1, 1, 1, False))

    assert split("llama3_8b", 4) == [8, 8, 8, 8]
    assert split("llama31_405b", 8) == [15, 16, 16, 16, 16, 16, 16, 15]  # embedding and loss count
    assert split("deepseek_v3", 16) == [3, *[4] * 14, 2]
    with pytest.raises(ValueError, match="61 layers over 2 stages"):
        split("deepseek_v3", 2)


@pytest.mark.parametrize("name", list(catalog.load()))
def test_every_recipe_passes_with_its_own_layout(large: Place, name: str) -> None:
    """No rule stops a right run: all recipes with their own defaults and enough GPUs."""
    large.plan(*own_flags(name), model_name=name, accelerator=None)


def own_flags(name: str) -> list[str]:
    """A recipe's own layout and schedule as flags, on the fewest GPUs that it fits."""
    recipe = catalog.find(name)
    layout = recipe.layout
    size = ranks = layout["tensor"] * layout["pipeline"] * layout["context"]
    of_experts = layout["pipeline"] * layout["expert"] * (layout["expert_tensor"] or layout["tensor"])
    while layout["expert"] > 1 and ranks % of_experts:
        ranks += size
    micro_batch = recipe.fields["data.micro_batch_size"]
    flags = {
        "-G": ranks,
        "-TP": layout["tensor"],
        "-PP": layout["pipeline"],
        "-VPP": layout["virtual_pipeline"],
        "-CP": layout["context"],
        "--seq-length": min(1024, recipe.longest_sequence or 1024),
        "--lr": recipe.fields["optim.config.lr"],
        "--min-lr": recipe.fields["optim.lr_scheduler.min_lr"],
        "--max-steps": 1000,
        "-mbs": micro_batch,
        "-gbs": micro_batch * ranks // size * layout["pipeline"],
        "--accelerator": "gpu",
        "--dry-run": "text",
    }
    words = [str(word) for pair in flags.items() for word in pair]
    return [*words, "-SP"] if layout["sequence_parallel"] and layout["tensor"] > 1 else words


def test_many_small_sources_are_told_in_few_lines(place: Place) -> None:
    for number in range(60):
        write_pair(place.data.parent / f"s{number}_text_document", [300] * (4 if number % 2 else 400))
        no_eod = {"tokens": 300 * (4 if number % 2 else 400), "largest_token_id": 7, "append_eod": False}
        (place.data.parent / f"s{number}_text_document.json").write_text(json.dumps(no_eod))
    with pytest.raises(Refusal) as caught:
        place.plan(seq_length="512")
    (problem,) = caught.value.problems
    assert problem.startswith(
        "--split 900,50,50 (the default): no validation and no test sample in 30 of 61 files (s11_text_document, "
    )
    assert "or do without: --split 1,0,0" in problem  # one part left out would bring the other's refusal
    assert (
        "and 27 more; 0 tokens at most): make one pair of small files (python -m nemo_workflow.dataset join)" in problem
    )
    plan = place.plan("--split", "1,0,0", seq_length="512")
    [note] = [note for note in plan.notes if "end-of-document" in note]
    assert note == "s0_text_document and 59 more have no end-of-document tokens between their documents"
    text = dry_run.render(plan, "text")
    assert len([line for line in text.splitlines() if "_text_document: " in line]) == 10
    assert "51 more (all of them: --dry-run=json)" in text
    assert len(json.loads(dry_run.render(plan, "json"))["data"]["sources"]) == 61


def test_a_branch_is_never_left_out_in_silence(shared: Place) -> None:
    with pytest.raises(ValueError, match="make_plan needs the branch"):
        shared.plan("--decay-from", str(shared.root), "--decay-steps", "4")


def test_a_checkpoint_that_is_closed_to_this_user_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As umask 077 makes it; root's tests can't meet it."""

    def closed(path: Path) -> None:
        raise PermissionError(13, "Permission denied", "/x/context")

    (place.root / "step").mkdir()
    monkeypatch.setattr(pretrained, "read_nemo_model", closed)
    with pytest.raises(Refusal) as caught:
        place.plan(nemo_model=str(place.root / "step"))
    assert (
        "/x/context: Permission denied; check its permissions, and those of the folders above it"
        in caught.value.problems
    )
