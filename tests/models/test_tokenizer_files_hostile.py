"""A tokenizer folder from elsewhere is data: what no honest folder holds is refused, and none of its code runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.config.resolve import make_plan
from nemo_workflow.models import pretrained, tokenizer_files
from nemo_workflow.preprocess.tokenizer import resolve_folder
from nemo_workflow.run_dir import staged_tokenizer
from nemo_workflow.utils.errors import Refusal
from tests import forked
from tests.e2e.run.harness import REPOSITORY
from tests.places import Place, hub_snapshot
from tests.utils.hostile import write_code
from tests.waiting import LIMIT

NATIVE = "PreTrainedTokenizerFast"  # a class that transformers has itself


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def link_out(place: Place) -> None:
    secret = place.root / "secret.txt"
    secret.write_text("key")
    (place.hf / "vocab.txt").symlink_to(secret)


def link_up(place: Place) -> None:
    (place.hf / "merges.txt").symlink_to("../data/d_text_document.idx")


def link_to_nothing(place: Place) -> None:
    (place.hf / "added_tokens.json").symlink_to(place.root / "gone")


def link_in_a_circle(place: Place) -> None:
    (place.hf / "added_tokens.json").symlink_to("added_tokens.json")


def pipe(place: Place) -> None:
    (place.hf / "tokenizer.json").unlink()
    os.mkfifo(place.hf / "tokenizer.json")  # reading it would wait for ever


def device(place: Place) -> None:
    (place.hf / "tokenizer.model").symlink_to("/dev/zero")  # reading it would fill the memory


def huge(place: Place) -> None:
    with (place.hf / "tokenizer.json").open("ab") as stream:
        stream.truncate(1 << 40)  # a hole: it takes no room on the disk


def folder_for_a_file(place: Place) -> None:
    (place.hf / "tokenizer.json").unlink()
    (place.hf / "tokenizer.json").mkdir()


def no_text(place: Place) -> None:
    (place.hf / "tokenizer.json").write_bytes(b"\xff\xfe\x00{")


def deep(place: Place) -> None:
    (place.hf / "tokenizer_config.json").write_text("[" * 50_000)


def other_shape(place: Place) -> None:
    (place.hf / "tokenizer.json").write_text('{"model": {"vocab": {"a": "b"}}, "added_tokens": [7]}')


def other_model(place: Place) -> None:
    (place.hf / "tokenizer.json").write_text('{"model": []}')


def own_code(place: Place) -> None:
    write_code(place.hf, place.root / "it ran", tokenizer_class="Evil")


HOSTILE: dict[Callable[[Place], None], str] = {
    link_out: "vocab.txt: a symlink out of the folder",
    link_up: "merges.txt: a symlink out of the folder",
    link_to_nothing: "added_tokens.json: a broken symlink",
    link_in_a_circle: "added_tokens.json: cannot be read: Too many levels of symbolic links",
    pipe: "tokenizer.json: is not a regular file",
    device: "tokenizer.model: a symlink out of the folder",
    huge: "tokenizer.json: has 1.0 TiB; no file of a tokenizer has more than 256.0 MiB",
    folder_for_a_file: "tokenizer.json: is not a regular file",
    no_text: "tokenizer.json: not JSON",
    deep: "tokenizer_config.json: not JSON",
    other_shape: "not of the form that transformers writes",
    other_model: "not of the form that transformers writes",
    own_code: "code of its own (auto_map), which training never runs",
}


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_hostile_folder_is_refused_before_anything_is_written(place: Place, make: Callable[[Place], None]) -> None:
    make(place)
    with pytest.raises(Refusal) as refused:
        make_plan(command_line.parse(place.flags()))
    assert any(HOSTILE[make] in problem for problem in refused.value.problems), refused.value.problems
    assert not (place.root / "out").exists() and not (place.root / "it ran").exists()


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_preprocessing_refuses_it_too(place: Place, make: Callable[[Place], None]) -> None:
    make(place)
    documents = place.root / "in.jsonl"
    documents.write_text('{"text": "a b"}\n')
    words = ["--input", documents, "--tokenizer", place.hf, "--output-dir", place.root / "out"]
    done = forked.run(["-m", "nemo_workflow.preprocess", *words], timeout=LIMIT)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and str(place.hf) in done.stderr
    assert not (place.root / "out").exists() and not (place.root / "it ran").exists()


def test_the_command_says_it_and_ends(place: Place) -> None:
    pipe(place)
    done = subprocess.run(
        [sys.executable, "pretrain_llm.py", *place.flags()], cwd=REPOSITORY, capture_output=True, text=True,
        check=False, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 2
    assert "tokenizer.json: is not a regular file" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_code_beside_a_tokenizer_that_needs_none_is_neither_run_nor_copied(place: Place) -> None:
    trap = place.root / "it ran"
    write_code(place.hf, trap, NATIVE)
    (place.hf / "model.safetensors").write_bytes(b"x")
    plan = make_plan(command_line.parse(place.flags()))
    plan.folder.mkdir(parents=True)
    staged_tokenizer.stage(plan)
    copied = sorted(path.name for path in (plan.folder / "tokenizer").iterdir())
    assert copied == ["tokenizer.json", "tokenizer_config.json"]
    assert not trap.exists()
    # the trap works: with trust, transformers runs the code
    program = (
        "import sys, transformers; transformers.AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)"
    )
    environment = os.environ | {"HF_MODULES_CACHE": str(place.root / "modules"), "USE_TORCH": "0"}
    subprocess.run([sys.executable, "-c", program, place.hf], env=environment, capture_output=True, check=False)
    assert trap.exists()


def test_a_hub_id_does_not_train_with_the_folder_of_an_earlier_start(place: Place) -> None:
    plan = make_plan(command_line.parse(place.flags()))
    staged_tokenizer.stage(plan)
    assert staged_tokenizer.source_of(plan) == str(plan.folder / "tokenizer")
    plan.settings.hf_model_id = "org/model"
    staged_tokenizer.stage(plan)
    assert staged_tokenizer.source_of(plan) == "org/model"


def test_a_hub_ids_workers_read_a_copy_in_words_that_they_know(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot of the Hub's cache, of links, with a tokenizer that transformers 5 saved; 4.57 has no such class."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = hub_snapshot(place.hf, tmp_path / "hub" / "models--org--model")
    config = snapshot / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tokenizer_class": "TokenizersBackend"}))
    plan = make_plan(command_line.parse([*place.flags(), "--hf-model-id", "org/model"]))
    staged_tokenizer.stage(plan)
    staged = Path(staged_tokenizer.source_of(plan))
    assert staged == plan.folder / "tokenizer"
    assert json.loads((staged / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not any(path.is_symlink() for path in staged.iterdir())


def test_links_inside_the_folder_and_into_the_hubs_blobs_are_honest(tmp_path: Path, place: Place) -> None:
    snapshot = hub_snapshot(place.hf, tmp_path / "models--a--b")
    assert [path.name for path in tokenizer_files.files_of(snapshot)] == ["tokenizer.json", "tokenizer_config.json"]
    assert pretrained.read_tokenizer(snapshot) == pretrained.read_tokenizer(place.hf).__class__(
        **(vars(pretrained.read_tokenizer(place.hf)) | {"folder": snapshot})
    )
    (place.hf / "vocab.json").symlink_to("tokenizer.json")
    link = tmp_path / "link to the folder"
    link.symlink_to(place.hf)
    assert resolve_folder(str(link)) == link
    assert len(tokenizer_files.files_of(link)) == 3
    (snapshot / "vocab.txt").symlink_to("../../../data/d_text_document.bin")
    with pytest.raises(Refusal, match="a symlink out of the folder"):
        tokenizer_files.files_of(snapshot)


def test_an_export_copies_no_file_from_outside(tmp_path: Path, place: Place) -> None:
    from nemo_workflow.models.tokenizer_files import files_of

    assert len(files_of(place.hf)) == 2
    link_out(place)
    with pytest.raises(Refusal, match="a symlink out of the folder"):
        files_of(place.hf)
