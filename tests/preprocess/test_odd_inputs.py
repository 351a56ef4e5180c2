"""Inputs as people have them: lists of any make, names of other systems, files that are not what they are called."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from nemo_workflow.data.indexed_dataset import find_prefixes, read_pair
from nemo_workflow.preprocess.command import check, parser
from nemo_workflow.preprocess.documents import BadLine, value_at
from nemo_workflow.preprocess.input_files import find_sources
from nemo_workflow.preprocess.tables import _path
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.text_coding import coding_of
from tests.preprocess.helpers import write_jsonl

GOOD = b'{"text": "a"}\n'


def found(tmp_path: Path, *paths: object, folders: tuple[object, ...] = ()) -> list[str]:
    """Names of the pairs of what the flags lead to."""
    sources, _ = find_sources([*map(str, paths)], [*map(str, folders)], [], tmp_path / "out")
    return [source.prefix for source in sources]


def refused(tmp_path: Path, *paths: object, folders: tuple[object, ...] = ()) -> str:
    with pytest.raises(Refusal) as refusal:
        found(tmp_path, *paths, folders=folders)
    return "\n".join(refusal.value.problems)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return write_jsonl(tmp_path / "in/a.jsonl", ["a"]), write_jsonl(tmp_path / "in/b c.jsonl", ["b"])


@pytest.mark.parametrize(
    "written",
    [
        "\ufeff{a}\r\n\r\n# a comment\r\n{b}\r\n{a}\r\n",
        "  {a}  \n\t{b}",
        "{a}\0{b}\0",
        "a.jsonl\nb c.jsonl\n",
        "*.jsonl\n",
    ],
    ids=["BOM, CRLF, comment, twice", "spaces", "zero bytes", "beside the list", "a pattern beside the list"],
)
def test_lists_of_any_make(written, two, tmp_path):
    path = tmp_path / "in/list.txt"
    path.write_bytes(written.format(a=two[0], b=two[1]).encode())
    assert found(tmp_path, f"@{path}") == ["a", "b c"]


def test_a_name_that_looks_like_a_comment_or_ends_in_a_space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "# 1.jsonl", ["a"])
    (tmp_path / "list").write_text("# 1.jsonl\n")
    assert found(tmp_path, "@list") == ["# 1"]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (b"# nothing\n\n", "no names in it"),
        ("a.jsonl\n".encode("utf-16"), "UTF-16; convert it first"),
        ("a.jsonl\n".encode("utf-16-le"), "UTF-16LE; convert it first"),
        (b"@more.txt\n", "@more.txt: a list within a list is not read"),
        (b"-\n", "a list within a list is not read"),
    ],
)
def test_lists_that_are_refused(written, said, tmp_path):
    (tmp_path / "list").write_bytes(written)
    assert said in refused(tmp_path, f"@{tmp_path / 'list'}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf://datasets/x/y/data", "hf download x/y --repo-type dataset"),
        ("S3://b/c", "aws s3 cp --recursive S3://b/c DIR"),
        ("abfs://b/c", "not on this machine"),
        ("file:///x/a.jsonl", "give the path itself: /x/a.jsonl"),
    ],
)
def test_what_lies_elsewhere_is_named_so_by_every_flag(name, said, tmp_path):
    assert said in refused(tmp_path, name)
    assert said in refused(tmp_path, folders=(name,))


def test_a_pipe_is_not_called_empty(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    for said in (refused(tmp_path, str(tmp_path / "a.jsonl")), refused(tmp_path, "/dev/null")):
        assert "a pipe or a device, and the text is read more than once; write it into a file" in said


def test_patterns_and_lists_where_a_folder_is_wanted(tmp_path, two):
    for name in ("-", "@list.txt", tmp_path / "*"):
        assert "--input takes patterns, lists and -" in refused(tmp_path, folders=(name,))
    assert "braces are the shell's" in refused(tmp_path, f"{tmp_path}/in/{{a,b}}*.jsonl")
    assert "braces are the shell's" in refused(tmp_path, f"{tmp_path}/in/{{a,b}}.jsonl")


def test_links_to_themselves(tmp_path, two):
    (tmp_path / "in/folder").symlink_to("folder")
    assert found(tmp_path, folders=(tmp_path / "in",)) == ["a", "b c"]
    (tmp_path / "in/self.jsonl").symlink_to("self.jsonl")
    assert "self.jsonl: a broken symlink" in refused(tmp_path, folders=(tmp_path / "in",))


def test_pairs_of_hidden_folders_that_were_named_are_found(go, tmp_path):
    for name in ("in/.one/a", "in/two/a"):
        write_jsonl(tmp_path / f"{name}.jsonl", ["x"])
    assert go("--input", tmp_path / "in/.one/a.jsonl", tmp_path / "in/two/a.jsonl")[0] == 0
    names = [prefix.relative_to(tmp_path / "out/preprocessed").as_posix() for prefix in find_prefixes(tmp_path / "out")]
    assert names == ["one/a_text_document", "two/a_text_document"]


def zipped(members: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return packed.getvalue()


def tarred() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return packed.getvalue()


WRONG = {
    "bzip2": ("x.jsonl", bz2.compress(GOOD), "bzip2 data without the extension .bz2; rename it"),
    "xz": ("x.jsonl", lzma.compress(GOOD), "xz data without the extension .xz"),
    "Parquet": ("x.jsonl", b"PAR1....", "Parquet data without the extension .parquet"),
    "zip": ("x.json", b"PK\x03\x04....", "zip data without the extension .zip; unpack it"),
    "LFS": ("x.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    "LFS of a table": ("x.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    "UTF-16": ("x.jsonl", GOOD.decode().encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
    "UTF-16 without a mark": ("x.jsonl", GOOD.decode().encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8"),
    "UTF-16 of the other order": ("x.jsonl", GOOD.decode().encode("utf-16-be"), "iconv -f UTF-16BE -t UTF-8"),
    "UTF-32": ("x.jsonl", GOOD.decode().encode("utf-32"), "iconv -f UTF-32 -t UTF-8"),
    "UTF-16, packed": ("x.jsonl.gz", gzip.compress(GOOD.decode().encode("utf-16")), "iconv -f UTF-16 -t UTF-8"),
    "UTF-32 without a mark": ("x.txt", "Text.\n".encode("utf-32-le"), "iconv -f UTF-32LE -t UTF-8"),
    "PDF": (
        "x.txt",
        b"%PDF-1.7\n%\xe2\xe3\n",
        "a PDF, not plain text; take the text out first, for example: pdftotext",
    ),
    "RTF": ("x.txt", b"{\\rtf1\\ansi Text}", "a document in RTF, not plain text"),
    "Word": ("x.txt", zipped({"[Content_Types].xml": "", "word/document.xml": ""}), "Microsoft Office, not plain text"),
    "Word, called zip": ("x.md", zipped({"notes.txt": ""}), "zip data without the extension .zip; unpack it"),
    "Word of old": (
        "x.txt",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504),
        "a document of an older Microsoft Office",
    ),
    "e-book": ("x.txt", zipped({"mimetype": "application/epub+zip"}), "an e-book, not plain text"),
    "tar": ("x.txt.gz", gzip.compress(tarred()), "a tar archive; unpack it"),
    "gzip called text": ("x.txt", gzip.compress(b"Text.\n"), "gzip data without the extension .gz; rename it"),
    "array": ("x.jsonl", b"[\n" + GOOD + b"]\n", "jq -c '.[]'"),
    "array with a BOM": ("x.json", b"\xef\xbb\xbf [" + GOOD + b"]", "jq -c '.[]'"),
    "a tokenizer": (
        "tokenizer.json",
        b'{\n  "version": "1.0"\n}\n',
        "of a tokenizer or a model, no text to learn from",
    ),
    "an object over lines": ("x.json", b'{\r\n "text": "a"\r\n}\r\n', "jq -c ."),
    "CR": ("x.jsonl", GOOD.replace(b"\n", b"\r") * 2, "its lines end with CR alone"),
    "cut off": (
        "x.jsonl.gz",
        gzip.compress(GOOD * 99)[:-4],
        "damaged (the file ends before its data does); get the file",
    ),
    "cut off, zstd": ("x.jsonl.zst", pa.compress(GOOD * 99, "zstd", asbytes=True)[:-4], "get the file again"),
}


@pytest.mark.parametrize(("name", "data", "said"), WRONG.values(), ids=WRONG)
def test_files_that_are_not_what_they_are_called(name, data, said, tmp_path):
    (tmp_path / name).write_bytes(data)
    assert said in refused(tmp_path, tmp_path / name)


@pytest.mark.parametrize(
    "data",
    [
        b"words and\0words " * 99,
        bytes(999),
        b"Text." + bytes(999),
        b"\x7fELF\2\1\1" + bytes(9) + b"\3\0>\0\1\0\0\0" * 99,
    ],
    ids=["some zeros", "zeros alone", "zeros at the end", "a program"],
)
def test_zeros_that_are_no_coding(data: bytes, go: Any, tmp_path: Path) -> None:
    """A file cut off by a crash, or no text at all: refused with the place, and left out where bad files are."""
    (tmp_path / "x.txt").write_bytes(data)
    (tmp_path / "good.txt").write_text("good")
    assert coding_of(data) is None
    at = data.index(0) + 1
    code, said = go("--input", tmp_path / "x.txt", tmp_path / "good.txt")
    assert code == 2 and f"x.txt:1: NUL byte in this file: byte 0x00 at position {at:}, which no text has" in said
    assert "`tr -d '\\000' < OLD > NEW`" in said and "--on-error skip" in said
    code, said = go("--input", tmp_path / "x.txt", tmp_path / "good.txt", "--on-error", "skip", "--max-bad", "60")
    assert code == 0, said


def test_a_wide_window_in_a_later_frame(tmp_path):
    header = b"\x28\xb5\x2f\xfd\x00" + bytes([18 << 3])  # a window of 256 MB
    (tmp_path / "x.jsonl.zst").write_bytes(pa.compress(GOOD, "zstd", asbytes=True) + header + b"\x01\x00\x00")
    assert "a window of more than the 128 MB that are read here" in refused(tmp_path, tmp_path / "x.jsonl.zst")


def test_tables_without_rows_beside_others(go, tmp_path):
    (tmp_path / "in").mkdir()
    table = pa.table({"text": ["x", "y"]})
    pyarrow.parquet.write_table(table, tmp_path / "in/b.parquet")
    pyarrow.parquet.write_table(table.slice(0, 0), tmp_path / "in/a.parquet")
    code, err = go("--input-dir", tmp_path / "in", "--join")
    assert code == 0 and "skipped 1 file without documents" in err and "a.parquet" in err
    assert read_pair(tmp_path / "out/preprocessed/in_text_document").documents == 2
    code, err = go("--input-dir", tmp_path / "in", out="each")
    assert code == 0 and "no pair was written for" in err
    code, err = go("--input", tmp_path / "in/a.parquet", out="none")
    assert code == 2 and "no documents in it" in err


def test_an_input_of_bad_lines_only_says_why(go, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"tags": ["p"]}) + "\n")
    code, err = go("--input", tmp_path / "a.jsonl", "--json-keys", "tags.0", "--on-error", "skip", "--max-bad", 100)
    assert code == 2 and "bad lines only (key missing 1; for example" in err and "no 'tags.0' among 'tags'" in err


def test_dots_within_names():
    record = {"a.b": "whole", "a": {"b": "inner", "x.y": {"z": "deep"}}, "m.n": {"o": "p"}}
    for key, value in (("a.b", "whole"), ("a.x.y.z", "deep"), ("m.n.o", "p")):
        assert value_at(record, key) == value
    with pytest.raises(BadLine, match="key missing"):
        value_at(record, "a.x.q")
    schema = pa.table({name: pa.array([value]) for name, value in record.items()}).schema
    assert _path(schema, "a.b") == ["a.b"]
    assert _path(schema, "a.x.y.z") == ["a", "x.y", "z"]
    assert _path(schema, "m.n.o") == ["m.n", "o"]
    assert _path(schema, "m.n.q") is None


def test_separators_as_they_are_typed():
    common = ["--tokenizer", "t", "--output-dir", "/o", "--input", "x", "--join-fields", "a,b"]
    for typed, meant in ((r"\r\n", "\r\n"), ("--", "--"), (r"\\n", r"\n"), ("", "")):
        args = parser().parse_args([*common, f"--separator={typed}"])
        check(args)
        assert args.separator == meant


def test_what_a_folder_has_instead_is_named_once_and_counted(tmp_path):
    for name in ["same.jsonl", "same.txt", *(f"file{number}.jsonl" for number in range(9))]:
        (tmp_path / name).write_text("x")
    with pytest.raises(Refusal) as caught:
        find_sources([], [str(tmp_path)], ["nope"], tmp_path / "out")
    assert str(caught.value).endswith("it has: file0, file1, file2, file3, file4, file5, file6, file7 and 3 more")
    for number in range(9):
        (tmp_path / f"file{number}.jsonl").unlink()
    with pytest.raises(Refusal, match=r"it has: same\.jsonl, same\.txt$"):
        find_sources([], [str(tmp_path)], ["nope"], tmp_path / "out")
