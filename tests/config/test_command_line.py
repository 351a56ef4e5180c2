"""The command line: what it is, spelled out, and how its values come together."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow import REPOSITORY
from nemo_workflow.config import command_line, flags
from nemo_workflow.config.resolve import make_plan
from nemo_workflow.models import catalog
from nemo_workflow.run_dir.config_yaml import config_text
from nemo_workflow.utils.errors import Refusal
from tests.places import Place
from tools import generate_flag_docs

HERE = Path(__file__).parent
REQUIRED = ["--hf-model-id", "x", "--dataset-dir", "d"]


def every_flag() -> str:
    """Every flag, a line each: spellings, type, default, choices."""
    lines = []
    for option in flags.TABLE:
        kind = flags.type_name(option) + (" (many)" if option.many else "")
        default = f"${option.env}" if option.env else "required" if option.required else option.default
        choices = " {" + ",".join(option.choices) + "}" if option.choices else ""
        lines.append(f"{' '.join(option.spellings)} | {kind}{choices} | {default}")
    return "\n".join(sorted(lines)) + "\n"


def test_the_command_line_is_the_one_written_down() -> None:
    """A change to a flag is a decision: make it in command_line.txt too."""
    assert every_flag() == (HERE / "command_line.txt").read_text(encoding="utf-8")


# The guide's parameter tables: names, type, default.
GUIDE = """
--executor str local
-E --experiment str pretraining
-A --account str root
-P --partition str defq
-I --container-image str nvcr.io/nvidia/nemo:dev
-N --num-nodes int 1
-G --num-gpus int 8
-M --model-name str None
--hf-model-id str None
--nemo-model str None
--hf-token str None
--max-steps int None
-gbs --global-batch-size int 2048
-mbs --micro_batch_size int 1
--fp8 store_true False
-TP --tensor-model-parallel-size int 1
-PP --pipeline-model-parallel-size int 1
-VPP --virtual-pipeline-model-parallel-size int 1
-CP --context-parallel-size int 1
-SP --sequence-parallel store_true False
--dataset-dir str None
--wandb store_true False
--wandb-project str None
--wandb-name str None
--wandb-token str None
--recompute-granularity str None
--recompute-method str None
--recompute-num-layers int None
--cpu-offloading store_true False
--cpu-offloading-layers int None
--cpu-offloading-activations store_true False
--cpu-offloading-weights store_true False
--optim-cpu-offloading store_true False
--optim-cpu-offloading-frac float 1.0
"""


@pytest.mark.parametrize("row", GUIDE.strip().splitlines())
def test_a_row_of_the_guide_holds(row: str) -> None:
    *names, kind, default = row.split()
    for name in names:
        for spelling in {name, name.replace("_", "-"), "--" + name[2:].replace("-", "_") if name[:2] == "--" else name}:
            found = [option for option in flags.TABLE if spelling in option.spellings]
            assert len(found) == 1, spelling
            option = found[0]
            assert option.guide
            assert flags.type_name(option) == kind
            assert str(option.default) == default


def test_the_guides_own_command_is_understood() -> None:
    words = (
        "--executor local --experiment llama31_pretraining --num-gpus 8 --hf-model-id Llama-3.1-8B-Instruct"
        " --nemo-model /m --max-steps 100 --global-batch-size 2048 --tensor_model_parallel_size 4"
        " --pipeline_model_parallel_size 1 --context_parallel_size 1 --dataset_path /d"
    )
    settings = command_line.parse(words.split())
    assert settings.tensor_model_parallel_size == 4
    assert settings.dataset_dir == ("/d",)
    assert settings.max_steps == 100


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("global-batch-size: 64\nmax_steps: 7\nfp8: true\ndataset-path: [a, b]\nlr: 1e-4\n")
    settings = command_line.parse(["--hf-model-id", "x", "--config", str(file), "--max-steps", "9"])
    assert (settings.global_batch_size, settings.max_steps, settings.fp8) == (64, 9, True)
    assert settings.dataset_dir == ("a", "b")
    assert settings.lr == 1e-4  # YAML 1.1 reads 1e-4 as text
    assert settings.micro_batch_size == 1
    assert "micro_batch_size" not in settings.given


TEXTS = ("0123", "1.10", "1e5", "yes", "no", "on", "Off", "true", "2026-01-02", "4:00:00", "12:30", "0x1F", "0b1", "1_000",
         ".5", ".inf", "nan", "+7", "=", "10", "'0123'", '"null"')  # fmt: skip
BY_FORM = ("time", "on-nan", "split")  # of a form of their own


@pytest.mark.parametrize("written", TEXTS)
def test_a_text_flag_of_the_file_is_taken_as_written(tmp_path: Path, written: str) -> None:
    """Every one of them, and each value of those that may be given more than once."""
    file = tmp_path / "run.yaml"
    text = [option for option in flags.TABLE if option.type is str and not option.switch and not option.choices
            and not option.secret and option.attribute not in flags.COMMAND_ATTRIBUTES
            and option.name not in BY_FORM]  # fmt: skip
    assert {"account", "experiment", "partition", "wandb-name", "slurm-arg"} <= {option.name for option in text}
    file.write_text("".join(f"{option.name}: {f'[{written}]' if option.many else written}\n" for option in text))
    settings = command_line.parse([*REQUIRED, "--config", str(file)])
    plain = written.strip("'\"")
    for option in (option for option in text if option.name not in ("hf-model-id", "dataset-dir", "blend")):
        assert settings.of(option) == ((plain,) if option.many else plain), option.name


@pytest.mark.parametrize("written", ["4:00:00", "12:30", "0240", "1-12", "90"])
def test_a_time_limit_of_the_file_is_the_one_that_is_written(tmp_path: Path, written: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"time: {written}\n")
    assert command_line.parse([*REQUIRED, "--config", str(file)]).time == written


@pytest.mark.parametrize("written", ["0x10", "0b11", "1:30", "1_000", "0o17", "1.0", "1e5", "yes", "\u0663"])
def test_numbers_are_of_decimal_digits(tmp_path: Path, written: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"max-steps: {written}\n")
    for words in (["--config", str(file)], ["--max-steps", written]):
        with pytest.raises(Refusal, match="expected a whole number in digits"):
            command_line.parse([*REQUIRED, *words])
    file.write_text("max-steps: 0100\nlr: 1.5e-4\nweight-decay: .1\n")
    settings = command_line.parse([*REQUIRED, "--config", str(file)])
    assert (settings.max_steps, settings.lr, settings.weight_decay) == (100, 1.5e-4, 0.1)


@pytest.mark.parametrize("written", ["~", "null"])
def test_null_in_the_file_leaves_a_flag_unset(tmp_path: Path, written: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"qos: {written}\nmax-steps: {written}\nfp8: {written}\n")
    settings = command_line.parse([*REQUIRED, "--config", str(file)])
    assert (settings.qos, settings.max_steps, settings.fp8) == (None, None, False)
    assert not settings.given & {"qos", "max_steps", "fp8"}


def test_anchors_and_merged_parts_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("account: &a 0123\npartition: *a\nfp8: on\nwandb: No\n")
    settings = command_line.parse([*REQUIRED, "--config", str(file)])
    assert (settings.account, settings.partition, settings.fp8, settings.wandb) == ("0123", "0123", True, False)


def test_a_config_file_that_is_not_there() -> None:
    with pytest.raises(
        Refusal,
        match=r"^--config nope.yaml: no such file .relative to the current folder, .* as in examples/laptop.yaml$",
    ):
        command_line.parse(["--config", "nope.yaml"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("globalbatch-size: 1", "unknown key 'globalbatch-size'; did you mean global-batch-size?"),
        ("max-steps: ten", "max-steps: 'ten': expected a whole number in digits"),
        ("max-steps: true", "max-steps: True: expected a whole number in digits"),
        ("fp8: 1", "fp8: 1: expected true or false"),
        ("executor: cloud", "executor: 'cloud': expected one of local, slurm"),
        ("hf-token: abc", "hf-token is a secret; set HF_TOKEN in the environment instead"),
        ("config: other.yaml", "config: stands on the command line only; take it out and give it there"),
        ("dry-run: text", "dry-run: stands on the command line only; take it out and give it there"),
        ("max-steps: 50\nmax_steps: 60", "max-steps and max_steps: given 2 times; keep one"),
        ("lr: 1\nlr: 2", "lr: given 2 times; keep one"),
        ("dataset-dir: a\ndataset-path: b", "dataset-dir and dataset-path: given 2 times; keep one"),
    ],
)
def test_a_wrong_config_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text + "\n")
    with pytest.raises(Refusal) as caught:
        command_line.parse([*REQUIRED, "--config", str(file)])
    assert caught.value.problems[0].startswith(f"--config {file}: {message}")


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("-gbs", "24", "--max-steps", "40", "--lr", "3e-4", "--split", "98,2,0", "-E", "other"),
        ("--recompute-granularity", "full", "--recompute-method", "block", "--recompute-num-layers", "2"),
        ("-G", "2", "-TP", "2", "-SP", "--seq-length", "128", "--constant-steps", "3", "--save-every", "7"),
        ("--executor", "slurm", "--time", "1:00:00", "-A", "team", "-N", "2"),
    ],
)
def test_the_written_config_gives_the_same_run(place: Place, more: tuple[str, ...]) -> None:
    plan = place.plan(*more)
    file = place.root / "config.yaml"
    file.write_text(config_text(plan))
    (first, *_) = file.read_text().splitlines()
    assert first.endswith(f"start it again with: python {REPOSITORY / 'pretrain_llm.py'} --config THIS_FILE")
    again = make_plan(command_line.parse(["--config", str(file)]))
    for name in ("accelerator", "model_name", "layout", "sources", "seq_length", "schedule", "run_dir", "sizes"):
        assert getattr(again, name) == getattr(plan, name), name
    worked_out = {"max_steps", "lr", "min_lr", "warmup_steps", "val_check_interval", "save_every", "seq_length"}
    then, now = plan.settings.public(), again.settings.public()
    for name in then.keys() - worked_out - {"accelerator"}:
        assert now[name] == then[name], name
    assert config_text(again) == file.read_text()  # the run of that run, too, knows what was worked out


def test_a_flag_that_changes_the_run_of_a_config_has_it_worked_out_anew(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """Warm-up, intervals and lowest rate fitted the old length; what was given stays."""
    plan = place.plan("--max-steps", "400", "--save-every", "50", "--lr", "4e-4")
    (file := plan.folder / "config.yaml").parent.mkdir(parents=True)
    file.write_text(config_text(plan))
    capsys.readouterr()
    gone_on = command_line.parse(["--config", str(file), "--max-steps", "500"])
    assert (gone_on.warmup_steps, gone_on.save_every, capsys.readouterr().err) == (20, 50, "")
    assert command_line.parse(["--config", str(file), "--max-steps", "9"]).warmup_steps is None  # too few for it
    capsys.readouterr()
    shutil.copytree(plan.folder, copy := plan.folder.with_name("copy"))
    (copy / "plan.json").write_text(plan.to_json())
    with pytest.raises(Refusal, match=f"{plan.folder}, is not there: give -E copy --output-dir .* to go on"):
        command_line.parse(["--config", str(copy / "config.yaml")])
    (plan.folder / "plan.json").write_text(plan.to_json())
    command_line.parse(["--config", str(copy / "config.yaml")])
    assert f"the run that it names is {plan.folder}; for the folder that it lies in: -E copy" in capsys.readouterr().err
    kept = command_line.parse(["--config", str(file), "-E", "other", "--max-steps", "400", "--log-every", "1"])
    assert capsys.readouterr().err == ""  # the same steps, and flags that change no other
    assert (kept.warmup_steps, kept.val_check_interval) == (20, 40)
    shorter = command_line.parse(
        ["--config", str(file), "-E", "other", "--max-steps", "20", "--val-check-interval", "5"]
    )
    said = capsys.readouterr().err
    assert said.startswith(f"note: --config {file}: worked out anew for --max-steps and --val-check-interval: ")
    assert {"min-lr", "warmup-steps"} <= set(
        said.split(": ")[-1].strip().split(", ")
    ) and "val-check" not in said.split(": ")[-1]
    assert (shorter.save_every, shorter.lr, shorter.val_check_interval, shorter.warmup_steps) == (50, 4e-4, 5, None)
    schedule = make_plan(shorter).schedule
    assert (schedule.max_steps, schedule.warmup_steps, schedule.val_check_interval) == (20, 2, 5)


def test_secrets_come_from_the_environment_and_go_nowhere(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret-a")
    settings = command_line.parse(place.flags("--wandb", "--wandb-token", "secret-b"))
    assert (settings.hf_token, settings.wandb_token) == ("secret-a", "secret-b")
    plan = make_plan(settings, command=["pretrain_llm.py", "--wandb-token", "secret-b", "--hf_token=secret-c"])
    assert plan.command == ("pretrain_llm.py", "--wandb-token", "***", "--hf_token=***")
    for text in (plan.to_json(), config_text(plan), repr(plan)):
        assert "secret-" not in text
    assert any("--wandb-token" in note and "WANDB_API_KEY" in note for note in plan.notes)
    assert not any("--hf-token" in note for note in plan.notes)


def test_missing_flags_are_named_together() -> None:
    with pytest.raises(Refusal) as caught:
        command_line.parse([])
    assert [problem.split()[0] for problem in caught.value.problems] == ["--hf-model-id", "--dataset-dir"]
    assert command_line.parse(["--list-models"]).list_models == ""
    assert command_line.parse(["--list-models", "qwen"]).list_models == "qwen"
    assert "32 GPUs or more, TP 4 PP 8 VPP 6, SP" in catalog.listing("gpt3_175b")  # NeMo's default is one machine
    assert "1 x 8 GPUs, " in catalog.listing("llama31_8b")
    assert command_line.parse([*REQUIRED, "--dry-run"]).dry_run == "text"
    assert command_line.parse([*REQUIRED, "--dry-run=json"]).dry_run == "json"


@pytest.mark.parametrize(
    ("limit", "right"), [("30", True), ("1:30:00", True), ("2-12", True), ("1h", False), ("", False)]
)
def test_slurm_time_limits(limit: str, right: bool) -> None:
    if right:
        assert command_line.parse([*REQUIRED, "--time", limit]).time == limit
    else:
        with pytest.raises(
            Refusal, match=r"^--time.*: (expected minutes, hours:minutes:seconds or days-hours|an empty value)"
        ):
            command_line.parse([*REQUIRED, "--time", limit])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("-mbs foo", "--micro-batch-size foo: expected a whole number in digits, or auto"),
        ("--gpu-memory 80GB", "--gpu-memory 80GB: expected a number without a unit, such as 80, 0.001 or 1e-3"),
        ("--lr 0,001", "--lr 0,001: expected a number without a unit, such as 80, 0.001 or 1e-3"),
        ("--max-steps 1e3", "--max-steps 1e3: expected a whole number in digits, such as 1000"),
        ("--max-step 10", "unrecognized arguments: --max-step 10; did you mean --max-steps? (see --help)"),
        (
            "--validation-dir a b",
            "unrecognized arguments: b; give --validation-dir again for each further one: --validation-dir b (see --help)",
        ),
    ],
)
def test_a_value_of_another_form_is_refused_with_the_form(flags: str, message: str) -> None:
    with pytest.raises(Refusal) as caught:
        command_line.parse([*REQUIRED, *flags.split()])
    assert caught.value.problems == [message]


def test_a_flag_that_stands_in_for_a_required_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"^--dataset-dir \(or --blend\) is required: "):
        command_line.parse(["--hf-model-id", "x"])
    assert command_line.parse(["--hf-model-id", "x", "--blend", "b"]).dataset_dir == ()
    assert "| **(required, or `--blend`)** |" in generate_flag_docs.markdown()


def test_docs_are_generated_from_the_table() -> None:
    assert (
        generate_flag_docs.FILE.read_text(encoding="utf-8")
        == generate_flag_docs.HEAD + "\n" + generate_flag_docs.markdown()
    )


def test_planning_imports_nothing_heavy(shared: Place) -> None:
    """Help, lists, plans and refusals come at once because these stay out."""
    code = (
        "import sys\nfrom nemo_workflow.config import command_line, resolve\n"
        "from nemo_workflow.launch import dry_run\nfrom nemo_workflow.models import catalog\n"
        "plan = resolve.make_plan(command_line.parse(sys.argv[1:]))\ndry_run.render(plan, 'text')\ncatalog.listing('')\n"
        "command_line.parser().format_help()\n"
        "print(sorted({'torch', 'nemo', 'megatron', 'transformers', 'fiddle', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *shared.flags()], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_secret_on_the_command_line_reaches_the_environment_of_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "from-outside")
    settings = command_line.parse(["--hf-model-id", "a/b", "--dataset-dir", "d", "--hf-token", "from-flag"])
    command_line.export_secrets(settings)
    assert (os.environ["HF_TOKEN"], os.environ["WANDB_API_KEY"]) == ("from-flag", "from-outside")
    monkeypatch.delenv("HF_TOKEN")


def test_the_readmes_tables_are_generated_from_the_table() -> None:
    readme = generate_flag_docs.README.read_text(encoding="utf-8")
    assert generate_flag_docs.with_tables(readme) == readme
    assert "| `-gbs`, `--global-batch-size` | int | `2048` |" in readme
