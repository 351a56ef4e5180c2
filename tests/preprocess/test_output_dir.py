"""Output folders that several runs and several users write into, and folders that we may not look into."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from nemo_workflow.data.indexed_dataset import COMMIT_NAME, RUN_DIR_PREFIX, find_prefixes
from nemo_workflow.preprocess import command, output_dir
from nemo_workflow.preprocess.output_dir import OutputFolder
from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.files import write_json
from tests.preprocess.helpers import pair_bytes, write_jsonl
from tests.waiting import LIMIT

FILES = ("a.json", "a.bin", "a.idx")


def fill(output: OutputFolder, text: str) -> None:
    for name in FILES:
        (output.run_dir / name).write_text(text)
        output.move(name)


def contents(place: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in place.iterdir()}


# --- several runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
def test_another_run_was_quicker(overwrite, preprocess, tokenizers_dir, tmp_path, monkeypatch):
    """Both begin before either ends; the second to end replaces the first with --overwrite only."""
    from nemo_workflow.preprocess.run import Run

    common = ["--tokenizer", tokenizers_dir / "byte_bpe", "--output-dir", tmp_path / "out", "--workers", 1]
    slow, quick = (write_jsonl(tmp_path / name / "docs.jsonl", [name]) for name in ("slow", "quick"))
    encode, written = Run._encode_all, []

    def meanwhile(self, output):
        outputs = encode(self, output)
        assert preprocess(*common, "--input", quick).code == 0
        written.append(pair_bytes(tmp_path / "out", "docs"))
        return outputs

    monkeypatch.setattr(Run, "_encode_all", meanwhile)
    arguments = [str(word) for word in [*common, "--input", slow, *["--overwrite"] * overwrite]]
    if overwrite:
        assert command.main(arguments) == 0
    else:
        with pytest.raises(Failure, match=r"docs_text_document.bin: another run wrote it meanwhile.* --overwrite"):
            command.main(arguments)
    assert ([pair_bytes(tmp_path / "out", "docs")] == written) is not overwrite
    assert len(list((tmp_path / "out" / "preprocessed").iterdir())) == 3


def test_renames_half_done_come_before_ours(tmp_path):
    """A run that began after ours was killed while it renamed: what it has yet to rename must not come over ours later."""
    with OutputFolder(tmp_path, overwrite=True) as output:
        fill(output, "ours")
        killed = tmp_path / f"{RUN_DIR_PREFIX}killed"
        killed.mkdir()
        for name in FILES[1:]:
            (killed / name).write_text("killed")
        write_json(killed / COMMIT_NAME, {"moves": [(name, name) for name in FILES], "remove": []})
        output.commit([])
    assert contents(tmp_path) == dict.fromkeys(FILES, "ours")


def test_clean_up_leaves_a_run_that_begins(tmp_path, monkeypatch):
    """It comes just when the new run's folder is made and not yet locked."""
    make, cleaners = output_dir.tempfile.mkdtemp, []

    def made(**kwargs):
        name = make(**kwargs)
        cleaners.append(threading.Thread(target=output_dir.clean_up_stale, args=(tmp_path,)))
        cleaners[0].start()
        cleaners[0].join(0.5)  # it waits for us
        return name

    monkeypatch.setattr(output_dir.tempfile, "mkdtemp", made)
    with OutputFolder(tmp_path, overwrite=False) as output:
        cleaners[0].join(LIMIT)
        fill(output, "ours")
        output.commit([])
    assert contents(tmp_path) == dict.fromkeys(FILES, "ours")


def test_readers_are_told_of_a_run_that_has_not_ended(tmp_path):
    """Or was killed: `--dataset-dir` of training, and `python -m nemo_workflow.dataset`."""

    def said(folder: Path) -> str:
        with pytest.raises(Refusal) as refused:
            find_prefixes(folder)
        return refused.value.problems[0]

    out = tmp_path / "out"
    none = f"--dataset-dir {out}: no .bin/.idx files in it or in its preprocessed/"
    (out / "preprocessed").mkdir(parents=True)
    assert said(out) == f"{none}; run preprocess_data.sh first"
    with OutputFolder(out / "preprocessed", overwrite=False) as output:
        (output.run_dir / "docs_text_document.bin").touch()
        assert said(out) == f"{none}, and a preprocessing into it is still at work; wait for its end"
        output.keep = lambda: True
    killed = ", and a preprocessing into it was interrupted; the same preprocess_data.sh command finishes it"
    assert said(out) == none + killed
    assert said(out / "preprocessed").endswith(killed)


# --- several users --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(preprocess, bound_by_permissions, tokenizers_dir, tmp_path):
    """Run the command; a later flag replaces an earlier one."""

    def go(*arguments: object):
        common = ["--tokenizer", tokenizers_dir / "byte_bpe", "--output-dir", tmp_path / "out", "--workers", 1]
        return preprocess(*common, *arguments, within=bound_by_permissions)

    return go


@pytest.mark.parametrize("what", ["--input", "--input-dir", "--data-prefix", "--output-dir", "--tokenizer"])
def test_folder_without_rights(what, run, tmp_path):
    docs = write_jsonl(tmp_path / "docs.jsonl", ["a"])
    closed = tmp_path / "closed"
    write_jsonl(closed / "docs.jsonl", ["a"])
    arguments = {
        "--input": ["--input", closed / "docs.jsonl"],
        "--input-dir": ["--input-dir", closed],
        "--data-prefix": ["--input-dir", closed, "--data-prefix", "docs"],
        "--output-dir": ["--input", docs, "--output-dir", closed / "out"],
        "--tokenizer": ["--input", docs, "--tokenizer", closed],
    }
    closed.chmod(0o000)
    try:
        done = run(*arguments[what])
    finally:
        closed.chmod(0o755)
    assert done.code == 2, done.err
    flag = what.replace("--data-prefix", "--input-dir")
    *notes, line = done.err.splitlines()
    assert all(note.startswith("note: ") for note in notes)  # that a second value replaces the fixture's own
    assert f"error: {flag} {closed}" in line
    assert line.endswith("Permission denied; check the path and its permissions")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_tokenizer_file_without_rights(name, run, tokenizers_dir, tmp_path):
    copy = tmp_path / "tokenizer"
    copy.mkdir()
    for path in (tokenizers_dir / "byte_bpe").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / name).chmod(0o000)
    done = run("--input", write_jsonl(tmp_path / "docs.jsonl", ["a"]), "--tokenizer", copy)
    assert done.code == 2
    assert str(copy / name) in done.err
    assert "ermission denied" in done.err
    assert "Traceback" not in done.err


def test_another_users_run_is_left_alone(run, tmp_path):
    theirs = tmp_path / "out" / "preprocessed" / f"{RUN_DIR_PREFIX}theirs"
    theirs.mkdir(parents=True)
    (theirs / "lock").touch()
    theirs.chmod(0o000)
    try:
        done = run("--input", write_jsonl(tmp_path / "docs.jsonl", ["a"]))
    finally:
        theirs.chmod(0o755)
    assert done.code == 0, done.err
    assert list(theirs.iterdir()) == [theirs / "lock"]
