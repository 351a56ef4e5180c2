"""A model's folder from elsewhere: nothing in it makes transformers fetch or run code; a Hub id that isn't here is fetched or refused."""

from __future__ import annotations

import fnmatch
import http.server
import json
import os
import re
import shlex
import threading
from pathlib import Path

import pytest

from nemo_workflow.models import foreign_code, hub
from nemo_workflow.models.foreign_code import code_named, flash_named, refuse_code, without_code
from nemo_workflow.models.pretrained import hf_folder, is_hub_id, no_hub_id
from nemo_workflow.models.tokenizer_files import check_has_tokenizer
from nemo_workflow.utils.errors import Refusal
from tests import forked
from tests.places import Place

pytestmark = pytest.mark.usefixtures("no_outside")

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {"AutoModelForCausalLM": "code.Model"}},
        {"custom_pipelines": {"text-generation": {"impl": "code.Pipeline"}}},
        {"_attn_implementation_internal": "org/kernel"},
        {"text_config": {"_attn_implementation": "org/kernel:Attention"}},
        {"layers": [{"auto_map": {"AutoConfig": "code.Config"}}]},
    ],
)
@pytest.mark.parametrize("name", foreign_code.CONFIGS)
def test_code_is_refused_by_name_and_left_out_of_what_we_write(
    name: str, config: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(json.dumps({"hidden_size": 8, "text_config": {"a": [1]}, **config}))
    with pytest.raises(Refusal, match=f"{name} has .*makes transformers fetch or run code"):
        refuse_code("--hf-model", tmp_path)
    left = without_code(json.loads((tmp_path / name).read_text()))
    (tmp_path / name).write_text(json.dumps(left))
    refuse_code("--hf-model", tmp_path)
    assert left["hidden_size"] == 8 and code_named(left) == [] and len(code_named(config)) == 1


def test_the_folder_of_code_that_transformers_runs_unasked_is_refused(tmp_path: Path) -> None:
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text("def generate(model, **more): ...")
    with pytest.raises(Refusal, match=r"--hf-model .* holds custom_generate/.*remove that folder"):
        refuse_code("--hf-model", tmp_path)


def test_an_honest_folder_passes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"_attn_implementation": "sdpa", "_attn_implementation_autoset": True})
    )
    refuse_code("--hf-model", tmp_path)


def test_an_auto_map_of_nothing_is_named(tmp_path: Path) -> None:
    """transformers ends in a TypeError."""
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": None}))
    with pytest.raises(Refusal, match=r"config\.json has auto_map null, which transformers can't read; take it out"):
        refuse_code("--hf-model", tmp_path)


@pytest.mark.parametrize("key", foreign_code.IMPLEMENTATION)
def test_a_plain_way_to_compute_is_no_code(key: str, tmp_path: Path) -> None:
    """What needs a package is left out of our folders, which load where it is missing; what torch has itself is kept."""
    needs, plain = {"text_config": {key: "flash_attention_2"}}, {"text_config": {key: "sdpa"}}
    for config in (needs, plain):
        (tmp_path / "config.json").write_text(json.dumps(config))
        refuse_code("--hf-model", tmp_path)
        assert code_named(config) == []
    assert flash_named(needs) == {key: "flash_attention_2"} and flash_named(plain) == {}
    assert without_code(needs) == {"text_config": {}} and without_code(plain) == plain


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_the_commands_refuse_it(command: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "code.Config"}}))
    (tmp_path / "plan.json").write_text("{}")
    more = ["TEXT"] if command == "sample" else ["--run", str(tmp_path)]
    done = forked.run(["-m", f"nemo_workflow.{command}", "--hf-model", tmp_path, *more])
    assert done.returncode == 2 and "auto_map" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}, "can't be reached"),
    ],
)
def test_a_hub_id_that_is_not_here_is_refused_before_a_rank_starts(
    environment: dict[str, str], said: str, place: Place
) -> None:
    """A port of this machine on which nobody listens stands for a Hub that can't be reached."""
    flags = place.flags("--hf-model-id", "org/never-downloaded")
    env = os.environ | {"HF_HOME": str(place.root / "hub")} | environment
    done = forked.run(["pretrain_llm.py", *flags], env=env)
    assert done.returncode == 2 and said in done.stderr and "hf download" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (place.root / "out").exists()
    remedy, _, library = done.stderr.partition("(the Hub's client says:")
    assert "hf download" in remedy and len(library) < 140  # what to do comes first


COMMANDS = {
    "train": ["pretrain_llm.py", "--hf-model-id"],
    "train without -M": ["pretrain_llm.py", "--hf-model-id"],
    "preprocess": ["-m", "nemo_workflow.preprocess", "--input", "t.txt", "--output-dir", "data", "--tokenizer"],
    "import": ["ckpt_conversion/convert_from_hf_to_nemo2.py", "--output-path", "nemo", "--source"],
}


@pytest.mark.parametrize(("hub_id", "gated"), [("meta-llama/Llama-3.1-8B", True), ("org/x", False), ("gpt2", False)])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_how_to_download_what_is_not_here(
    command: str, hub_id: str, gated: bool, place: Place
) -> None:
    """The same words; of gating only where it is known, for nobody can look that up without a network."""
    (place.root / "t.txt").write_text("text")
    program, *words = COMMANDS[command]
    words = [str(REPOSITORY / program) if program.endswith(".py") else program, *words, hub_id]
    if program == "pretrain_llm.py":
        change = {"hf_model_id": None, "model_name": None if command.endswith("-M") else "llama_tiny"}
        words += place.flags(**change)
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place.root / "hub"), "PYTHONPATH": str(REPOSITORY)}
    done = forked.run(words, cwd=place.root, env=env)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"`hf download {hub_id} " in done.stderr, done.stderr
    for said in (f"it is gated: accept the licence at https://huggingface.co/{hub_id}", "`hf auth login`"):
        assert (said in done.stderr) == gated, done.stderr
    assert not {"nemo", "data", "out"} & {path.name for path in place.root.iterdir() if path.name != "data"}


@pytest.mark.parametrize(
    ("hub_id", "gated"),
    [
        ("meta-llama/Llama-3.2-1B", True), ("google/gemma-3-1b-pt", True), ("bigcode/starcoder", True),
        ("bigcode/starcoder2-3b", False), ("Qwen/Qwen3-0.6B-Base", False), ("google/flan-t5-small", False),
    ],
)  # fmt: skip
def test_what_is_known_to_be_gated(hub_id: str, gated: bool) -> None:
    assert ("it is gated: accept" in hub.by_hand(hub_id, "--hf-model-id")) == gated


@pytest.mark.parametrize(
    ("name", "such_as"), [("llama-3", "meta-llama/Llama-3.2-1B"), ("my_tok", "Qwen/Qwen3-0.6B-Base")]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_folder_is_not_sent_to_the_hub(command: str, name: str, such_as: str, place: Place) -> None:
    """A name without an organisation: with or without a network, no command looks for it there."""
    (place.root / "t.txt").write_text("text")
    program, *words = COMMANDS[command]
    words = [str(REPOSITORY / program) if program.endswith(".py") else program, *words, name]
    if program == "pretrain_llm.py":
        words += place.flags(hf_model_id=None)
    done = forked.run(words, cwd=place.root, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    here = (
        f"{name}: no such folder (relative to the current folder, {place.root}), and not of the form organisation/name"
    )
    assert done.returncode == 2 and here in done.stderr, done.stderr
    assert f"or a Hub id such as {such_as}\n" in done.stderr and "hf download" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_below_a_folder_that_is_here_is_told_so(command: str, place: Place) -> None:
    """It may still be a Hub id: who keeps Qwen's models in Qwen/ may want another."""
    (place.root / "t.txt").write_text("text")
    (place.root / "conv").mkdir()
    program, *words = COMMANDS[command]
    words = [str(REPOSITORY / program) if program.endswith(".py") else program, *words, "conv/nope"]
    if program == "pretrain_llm.py":
        words += place.flags(hf_model_id=None)
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place.root / "hub"), "PYTHONPATH": str(REPOSITORY)}
    done = forked.run(words, cwd=place.root, env=env)
    here = f"conv/nope: conv is a folder here and has no nope (relative to the current folder, {place.root})"
    assert done.returncode == 2 and here in done.stderr, done.stderr
    hub_too = f"{here}; as a Hub id: not in the Hub's cache, and HF_HUB_OFFLINE is set; `hf download conv/nope "
    assert (hub_too in done.stderr) == (program != "pretrain_llm.py"), done.stderr


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gpt-2", "openai-community/gpt2"), ("GPT", "openai-community/gpt2"), ("qwen3", "Qwen/Qwen3-0.6B-Base"),
        ("qwen2.5", "Qwen/Qwen2.5-0.5B"), ("llama2", "meta-llama/Llama-2-7b-hf"), ("bert", "google-bert/bert-base-uncased"),
        ("Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"), ("Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("llama32_1b", "meta-llama/Llama-3.2-1B"), ("gemma2", "google/gemma-2-2b"), ("phi3", "microsoft/Phi-3-mini-4k-instruct"),
    ],
)  # fmt: skip
def test_a_name_without_its_organisation_is_answered_with_a_model_that_there_is(name: str, meant: str) -> None:
    said = no_hub_id("--tokenizer", name)
    assert said.endswith(f"or a Hub id such as {meant}")
    assert ("it is a recipe's name, which pretrain_llm.py takes as --model-name" in said) == (name == "llama32_1b")


@pytest.mark.parametrize(
    ("address", "hub_id"),
    [
        ("https://huggingface.co/org/name", "org/name"), ("https://huggingface.co/org/name/tree/main", "org/name"),
        ("http://www.huggingface.co/org/name/blob/main/config.json?x=1#y", "org/name"), ("huggingface.co/org/name/", "org/name"),
        ("https://hf.co/org/name", "org/name"), ("hf.co/gpt2", "gpt2"), ("https://huggingface.co/gpt2/tree/main", "gpt2"),
        ("hf://org/name", "org/name"), ("hf://models/org/name", "org/name"), ("hf://org/name@main/config.json", "org/name"),
        ("git@hf.co:org/name.git", "org/name"), ("org/name/", "org/name"), ("gpt2/", "gpt2"),
        ("https://huggingface.co/datasets/org/name", None), ("https://huggingface.co/", None), ("tests/nowhere/", None),
        ("https://example.org/org/name", None), ("/org/name/", None),
    ],
)  # fmt: skip
def test_the_address_of_a_model_is_answered_with_its_id(
    address: str, hub_id: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is copied from a browser, from `git clone` or from another tool; tests/ is a folder here, in which a name is mistyped."""
    monkeypatch.chdir(REPOSITORY)
    assert not is_hub_id(address)
    said = no_hub_id("--tokenizer", address)
    assert said.partition("did you mean ")[2] == (f"--tokenizer {hub_id}?" if hub_id else "")
    assert ("give a folder, or a Hub id such as" in said) == (hub_id is None)


def test_the_models_that_the_hub_has_without_an_organisation() -> None:
    assert all(
        map(is_hub_id, ("gpt2", "gpt2-xl", "distilgpt2", "bert-base-uncased", "t5-small", "roberta-base", "a/b"))
    )
    assert not any(map(is_hub_id, ("my_tokenizer", "gpt2-mine", "./gpt2", "a/b/c", "data", "")))


def test_the_download_takes_what_a_tokenizer_is_read_from_and_no_weights() -> None:
    """Names, of which `hf download` of huggingface_hub 0.36, 1 and 2 makes patterns alike; the shell is kept from them by quotes."""
    words = shlex.split(re.findall(r"`(hf download [^`]+)`", hub.by_hand("org/x", "--hf-model-id"))[0])
    patterns = words[3 : words.index("--local-dir")]
    assert len(patterns) > 1 and not any(word.startswith("-") for word in patterns)
    kept = [
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "config.json", "vocab.json",
        "merges.txt", "vocab.txt", "qwen.tiktoken", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja",
    ]  # fmt: skip
    left = [
        "model-00001-of-00002.safetensors", "pytorch_model.bin", "original/consolidated.00.pth", "tf_model.h5", "64.tflite",
        "flax_model.msgpack", "rust_model.ot", "onnx/decoder_model.onnx", "model-q4.gguf", "training_args.bin",
    ]  # fmt: skip
    assert [name for name in [*kept, *left] if any(fnmatch.fnmatch(name, one) for one in patterns)] == kept


def test_the_download_is_parsed_by_the_hubs_own_command(tmp_path: Path) -> None:
    """It fails for want of a network, and not for the way it is written."""
    command = re.findall(r"`hf (download [^`]+)`", hub.by_hand("org/x", "--hf-model-id"))[0].replace(
        "DIR", str(tmp_path / "d")
    )
    program = "import sys; from huggingface_hub.cli.hf import main; sys.argv[0] = 'hf'; main()"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = forked.run(["-c", program, *shlex.split(command)], env=env)
    assert done.returncode == 1 and "LocalEntryNotFound" in done.stderr and "usage:" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (
            OSError("An error happened while looking. Please check your connection.\nmore"),
            "An error happened while looking",
        ),
        (OSError("one " * 100), ("one " * 30).strip()[:117] + "…"),
        (TimeoutError(), "TimeoutError"),
        (OSError("(MaxRetryError(\"pool: Caused by X(': [Errno 111] Connection refused'))\")"), "Connection refused"),
    ],
)
def test_what_the_hubs_client_says_is_cut_short(error: Exception, short: str) -> None:
    said = hub._short(error)
    assert said[:20] == short[:20] and len(said) <= 120
    assert "Please" not in said


# path of a model -> status and headers of the Hub's answer, as huggingface_hub's hf_raise_for_status reads them
ANSWERS = {
    "org/gated": (403, {"X-Error-Code": "GatedRepo"}, "gated: accept the licence at https://huggingface.co/org/gated"),
    "org/no-token": (
        401,
        {"X-Error-Code": "GatedRepo"},
        "gated: accept the licence at https://huggingface.co/org/no-token",
    ),
    "org/missing": (401, {"X-Error-Code": "RepoNotFound"}, "the Hub has no such model, or it is private"),
    "org/disabled": (
        403,
        {"X-Error-Message": "Access to this resource is disabled."},
        "the Hub has disabled this model",
    ),
    "org/other": (404, {"X-Error-Code": "RevisionNotFound"}, "has no revision v9: take a branch, tag or commit"),
    "org/forbidden": (
        403,
        {"X-Error-Message": "not for you"},
        "--source DIR; if it is gated, accept the licence at https://huggingface.co/org/forbidden",
    ),
    "org/broken": (500, {}, "the Hub answers with an error; "),
}
PROGRAM = """
import sys
from nemo_workflow.models import hub
from nemo_workflow.utils.errors import Refusal
for name in sys.argv[1:]:
    try:
        hub.fetch(name, "--source", ["*.json"], revision="v9")
    except Refusal as refusal:
        print(refusal.problems[0])
"""


def half_filled(cache: Path, hub_id: str, **files: str) -> Path:
    """The Hub's cache with these files of a model alone; reading a config leaves one so."""
    repository = cache / "hub" / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    for name, text in files.items():
        (snapshot / f"{name}.json").write_text(text)
    return snapshot


HALVES = {"empty": {}, "config": {"config": "{}"}, "no vocabulary": {"config": "{}", "tokenizer_config": "{}"},
          "no merges": {"config": "{}", "tokenizer_config": "{}", "vocab": "{}"}}  # fmt: skip


@pytest.mark.parametrize("files", HALVES.values(), ids=list(HALVES))
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}, "can't be reached"),
    ],
)
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train without -M"])
def test_a_cache_that_lacks_what_is_wanted_is_as_good_as_none(
    command: str, environment: dict[str, str], said: str, files: dict[str, str], place: Place
) -> None:
    half_filled(place.root, "org/half", **files)
    (place.root / "t.txt").write_text("text")
    program, *words = COMMANDS[command]
    words = [str(REPOSITORY / program) if program.endswith(".py") else program, *words, "org/half"]
    if program == "pretrain_llm.py":
        words += place.flags(hf_model_id=None)
    env = os.environ | {"HF_HUB_CACHE": str(place.root / "hub"), "PYTHONPATH": str(REPOSITORY)} | environment
    done = forked.run(words, cwd=place.root, env=env)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"org/half: not in the Hub's cache, and {'the Hub ' * (said[0] == 'c')}{said}; `hf download" in done.stderr


def test_a_model_without_a_tokenizer_on_the_hub_is_refused_as_that(tmp_path: Path) -> None:
    """The Hub answers that it has a README alone: another download would bring no more."""

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"id": "org/half", "sha": "a" * 40, "siblings": [{"rfilename": "README.md"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None: ...

    half_filled(tmp_path, "org/half", config="{}")
    program = "from nemo_workflow.models.hub import fetch_tokenizer; fetch_tokenizer('org/half')"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub_here = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0"}
        done = forked.run(["-c", program], env=os.environ | hub_here | {"HF_HUB_CACHE": str(tmp_path / "hub")})
        server.shutdown()
    assert "--hf-model-id org/half: has no tokenizer files on the Hub; give the id of a model that has" in done.stderr


def test_a_tokenizer_of_bytes_needs_no_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = half_filled(tmp_path, "org/bytes", tokenizer_config='{"tokenizer_class": "ByT5Tokenizer"}')
    assert hf_folder("org/bytes") == snapshot
    half_filled(tmp_path, "org/half", tokenizer_config='{"tokenizer_class": "GPT2Tokenizer"}')
    assert hf_folder("org/half") is None


def test_half_of_a_pair_is_no_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2's kind is read from vocab.json and merges.txt, of which an interrupted download may have brought one."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = half_filled(tmp_path, "org/half", config='{"model_type": "gpt2"}', vocab="{}")
    assert hf_folder("org/half") is None
    with pytest.raises(
        Refusal, match=r": vocab\.json without merges\.txt, and .* copy the other there too, or tokenizer"
    ):
        check_has_tokenizer(snapshot)
    (snapshot / "merges.txt").write_text("")
    assert hf_folder("org/half") == snapshot
    (snapshot / "vocab.json").unlink()
    assert hf_folder("org/half") is None
    (snapshot / "tokenizer.json").write_text("{}")
    assert hf_folder("org/half") == snapshot
    for number, config in enumerate(
        ('{"tokenizer_class": "VitsTokenizer"}', '{"auto_map": {"AutoTokenizer": ["own.Own", null]}}')
    ):
        alone = half_filled(tmp_path, f"org/alone{number}", vocab="{}", tokenizer_config=config)
        assert hf_folder(f"org/alone{number}") == alone


def test_each_answer_of_the_hub_is_said_as_what_it_is(tmp_path: Path) -> None:
    """A server on this machine stands for the Hub: the real huggingface_hub reads its answers."""

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = "/".join(self.path.split("/")[3:5])
            status, headers, _ = ANSWERS[name]
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()

        def log_message(self, *words: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "0",
        }
        done = forked.run(["-c", PROGRAM, *ANSWERS], env=os.environ | place)
        server.shutdown()
    lines = done.stdout.splitlines()
    assert len(lines) == len(ANSWERS), done.stderr
    for line, (name, (_, _, said)) in zip(lines, ANSWERS.items(), strict=True):
        assert line.startswith(f"--source {name}: ") and said in line
