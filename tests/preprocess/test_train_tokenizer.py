"""`python -m nemo_workflow.tokenizer`: a tokenizer of any text, or a refusal before anything is written."""

import gzip
import io
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from nemo_workflow import REPOSITORY
from nemo_workflow.preprocess import train_tokenizer
from nemo_workflow.preprocess.sources import Source
from nemo_workflow.utils.console import Meter
from nemo_workflow.utils.errors import Refusal
from tests import forked
from tests.waiting import LIMIT, until

TEXT = "Es war einmal ein König, der hatte drei Töchter. 從前有一個國王。\n" * 40


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return forked.run(["-m", "nemo_workflow.tokenizer", *words])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_text_of_any_kind_comes_back_whole(tmp_path: Path, name: str) -> None:
    source, folder = tmp_path / name, tmp_path / "tokenizer"
    line = json.dumps({"text": TEXT}).encode()
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"text": [TEXT]}), source)
    elif name.endswith(".gz"):
        source.write_bytes(gzip.compress(line))
    else:
        source.write_bytes(line if name.endswith("l") else TEXT.encode())
    done = run("--input", source, "--output-dir", folder, "--vocabulary", 300)
    assert done.returncode == 0, done.stderr
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(TEXT)
    assert tokenizer.decode(ids["input_ids"]) == TEXT and len(tokenizer) == 300
    assert sorted(ids) == ["attention_mask", "input_ids"]  # what generate(**ids) takes


@pytest.mark.parametrize("times", [5, 200_000])
def test_a_text_with_few_words_says_so_however_long_it_is(tmp_path: Path, times: int) -> None:
    (tmp_path / "a.txt").write_text("abc abd " * times)
    words = ("--input", tmp_path / "a.txt", "--output-dir")
    done, asked = run(*words, tmp_path / "t"), run(*words, tmp_path / "u", "--vocabulary", "300")
    few = r"note: the text has few different words: its vocabulary has 26\d entries, fewer than the"
    assert done.returncode == asked.returncode == 0
    assert re.search(f"{few} 4,096 that a text with more of them gives by default\n", done.stdout), done.stdout
    assert re.search(rf"{few} 300 asked for \(--vocabulary\)\n", asked.stdout), asked.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--vocabulary 100", "--vocabulary 100: at least 257"),
        ("--max-mb 0", "--max-mb 0: at least 1"),
        ("--json-key body", "--input: no text in it to learn from; --json-keys names the key"),
        ("--input nothing.txt", "no such file"),
    ],
)
def test_refusals(tmp_path: Path, words: str, said: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "words"}\n')
    done = run("--input", tmp_path / "a.jsonl", "--output-dir", tmp_path / "t", *words.split())
    assert done.returncode == 2 and said in done.stderr and not (tmp_path / "t" / "tokenizer.json").exists()


def test_what_is_read_otherwise_than_meant_or_not_at_all_is_told(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text('{"text": "words"}\n' * 50)
    (tmp_path / "in" / "page.html").write_text("<p>")
    done = run("--input", tmp_path / "in", "--output-dir", tmp_path / "t")
    assert done.returncode == 0
    assert "WARNING: JSON lines, read as plain text" in done.stderr and "skipped, not an input file" in done.stderr


def test_no_tokenizer_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "tokenizer.json").write_text("mine")
    done = run("--input", tmp_path / "a.txt", "--output-dir", tmp_path)
    assert done.returncode == 2 and "exists already" in done.stderr
    assert (tmp_path / "tokenizer.json").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "model.safetensors", "config.json", "plan.json", "x_text_document.idx"]
)
def test_the_folder_of_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    """A model's folder, whose tokenizer is another file, would have got a second tokenizer."""
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / name).write_text("mine")
    words = ("--input", tmp_path / "a.txt", "--output-dir", tmp_path / "t")
    done = run(*words)
    assert done.returncode == 2 and f"t: holds {name}: choose another folder" in done.stderr
    (tmp_path / "t" / name).rename(tmp_path / "t" / "notes.md")
    assert run(*words).returncode == 0


def test_it_learns_from_the_first_of_much_text() -> None:
    pieces = list(train_tokenizer.first(["a" * 100_000, "b" * 100_000], limit=150_000))
    assert 150_000 <= sum(map(len, pieces)) < 150_000 + train_tokenizer.PIECE


def test_one_document_is_one(tmp_path: Path) -> None:
    """What a newcomer sees first: a single file, whose text holds the end-of-document token once."""
    (tmp_path / "a.txt").write_text(TEXT + "<|endoftext|>")
    assert run("--input", tmp_path / "a.txt", "--output-dir", tmp_path / "t", "--vocabulary", 300).returncode == 0
    words = ["-m", "nemo_workflow.preprocess", "--tokenizer", "t", "--input", "a.txt", "--output-dir", "p"]
    done = forked.run(words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0, done.stderr
    assert "a_text_document: 1 document, " in done.stdout and "1 time a text holds" in done.stderr
    assert "MB/s" not in done.stdout  # the progress line has the speed, of the encoding alone


@pytest.mark.slow
def test_a_text_that_preprocessing_refuses_is_refused(tmp_path: Path) -> None:
    """Half of a character at the end of one piece is none of that."""
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 100)
    done = run("--input", tmp_path / "latin.txt", "--output-dir", tmp_path / "t")
    said = "latin.txt: invalid UTF-8: byte 0xe9 at position 4. Convert it (if it is Latin-1: `iconv -f LATIN1 -t UTF-8 OLD > NEW`)"
    assert done.returncode == 2 and said in done.stderr and not (tmp_path / "t").exists(), done.stderr
    before = (train_tokenizer.BLOCK - 1) % 3  # so that the first piece ends within a character
    (tmp_path / "long.txt").write_text("x" * before + "é " * train_tokenizer.BLOCK)
    assert run("--input", tmp_path / "long.txt", "--output-dir", tmp_path / "t", "--vocabulary", 270).returncode == 0


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "torn.txt").write_bytes(b"words " * 99 + bytes(9))
    with pytest.raises(
        Refusal, match=r"torn.txt: NUL byte: byte 0x00 at position 595, which no text has\. Take it away"
    ):
        list(train_tokenizer.texts([Source(tmp_path / "torn.txt", "torn")], "text"))


def test_a_large_text_is_counted_and_a_small_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, size, lines in (
        (False, 3_000_000, 0),
        (True, 3_000_000, 1),
        (False, 21_000_000, 1),
        (True, 1_000_000, 0),
    ):
        said = io.StringIO()
        monkeypatch.setattr(said, "isatty", lambda terminal=terminal: terminal)
        assert sum(map(len, train_tokenizer.watched(["x" * 500_000] * (size // 500_000), Meter(said)))) == size
        assert said.getvalue().count("learning its tokens") == lines
    monkeypatch.setattr(train_tokenizer, "LATE", -1.0)
    said = io.StringIO()
    assert (
        list(train_tokenizer.watched(["x" * 2_000_000] * 2, Meter(said)))
        and said.getvalue() == "read 2 million characters\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True], ids=["a new folder", "a folder of the user's"])
def test_ctrl_c_leaves_nothing_half_made(there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "tokenizer"
    (tmp_path / "a.txt").write_text("".join(f"{number * 7919:x} " for number in range(1_000_000)))  # seconds of work
    if there:
        folder.mkdir(parents=True)
        (folder / "notes.txt").write_text("mine")
    words = [
        "-m",
        "nemo_workflow.tokenizer",
        "--input",
        tmp_path / "a.txt",
        "--output-dir",
        folder,
        "--vocabulary",
        30_000,
    ]
    with (tmp_path / "said").open("w") as stream:
        process = forked.start(words, stream, stream)
    # the library is there from before the text is read to the end, however seldom a busy machine lets us look
    until(lambda: folder.exists() if not there else "tokenizers" in Path(f"/proc/{process.pid}/maps").read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT) == 130, (tmp_path / "said").read_text()
    assert (tmp_path / "said").read_text() == "stopped by Ctrl-C: nothing is written; the same command begins again\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.txt", "said", *(["new"] if there else [])])
    assert not there or [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_what_a_killed_training_leaves_is_no_hindrance(tmp_path: Path) -> None:
    """An empty folder, a file that was not renamed yet, and those that are written first."""
    (tmp_path / "a.txt").write_text("abc abd " * 500)
    for names in ((), ("tokenizer_config.json", "special_tokens_map.json", ".tokenizer.json.x.tmp")):
        folder = tmp_path / str(len(names))
        folder.mkdir()
        for name in names:
            (folder / name).write_text("{")
        done = run("--input", tmp_path / "a.txt", "--output-dir", folder, "--vocabulary", 260)
        assert done.returncode == 0, done.stderr
        assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<|endoftext|>"


def test_bad_lines_are_noted_and_the_key_has_preprocessings_name_too(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "' + "abc abd " * 50 + '"}\nnot json\n{"other": 1}\n')
    done = run(
        "--input", tmp_path / "a.jsonl", "--output-dir", tmp_path / "t", "--json-keys", "body", "--vocabulary", 260
    )
    assert done.returncode == 0, done.stderr
    assert f"note: 2 bad lines passed over, the first {tmp_path / 'a.jsonl'}:2: broken JSON" in done.stderr
    done = run("--input", tmp_path / "a.jsonl", "--output-dir", tmp_path / "u")
    assert done.returncode == 2 and "no 'text' among 'body'" in done.stderr and not (tmp_path / "u").exists()
