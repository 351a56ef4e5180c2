"""JSON lines -> texts, or the reason why not."""

from __future__ import annotations

import json
import mmap
import random
from pathlib import Path

import pytest

from nemo_workflow.preprocess import oversized_line
from nemo_workflow.preprocess.documents import BadLine, parse_lines, utf8_size

GOOD = b'{"text": "one"}\n{"text": "two"}\n'


def test_good_lines():
    assert parse_lines(GOOD, ("text",)) == ([["one", "two"]], [], 2)
    assert parse_lines(GOOD.rstrip(b"\n"), ("text",)) == ([["one", "two"]], [], 2)


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b"  \t \n", b"\n\n\n"])
def test_blank_lines_are_no_documents(blank):
    columns, rejects, lines = parse_lines(GOOD + blank + GOOD, ("text",))
    assert columns == [["one", "two", "one", "two"]]
    assert not rejects
    assert lines == 4 + blank.count(b"\n")


def test_byte_order_marks_within_a_joined_file():
    bom = b"\xef\xbb\xbf"
    columns, rejects, lines = parse_lines(GOOD + bom + GOOD + bom + b"\n" + bom + bom + GOOD, ("text",))
    assert (columns, rejects, lines) == ([["one", "two"] * 3], [], 7)
    assert parse_lines(GOOD + b'{"text": "\xef\xbb\xbfa"}', ("text",))[0] == [["one", "two", "\ufeffa"]]


def test_crlf():
    assert parse_lines(GOOD.replace(b"\n", b"\r\n"), ("text",)) == ([["one", "two"]], [], 2)


BAD = {
    b'{"text": "cut of': ("broken JSON", "does not end with }"),
    b'{"text": "a"} {"text": "b"}': ("broken JSON", ""),
    b"not json at all": ("broken JSON", ""),
    b'{"text": "a\xff"}': ("invalid UTF-8", "byte 0xff at position 12"),
    b'{"words": "a"}': ("key missing", "no 'text' among 'words' (its longest text: --json-keys words)"),
    b"{}": ("key missing", "no keys"),
    b'{"text": null}': ("not a string", "null"),
    b'{"text": 12}': ("not a string", "number"),
    b'{"text": ["a"]}': ("not a string", "array"),
    b'{"text": true}': ("not a string", "true/false"),
    b'["text"]': ("not an object", "array"),
    b'"text"': ("not an object", "string"),
    b'{"text": "a\\ud800b"}': ("lone surrogate", "U+D800 at character 2"),
    b'{"text": "\\udc00"}': ("lone surrogate", "U+DC00 at character 1"),
    b"[" * 100_000: ("broken JSON", "nested"),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_line_is_named_and_the_others_are_read(line):
    columns, rejects, lines = parse_lines(GOOD + b"\n" + line + b"\n" + GOOD, ("text",))
    assert columns == [["one", "two", "one", "two"]]
    assert lines == 6
    [reject] = rejects
    reason, detail = BAD[line]
    assert (reject.line, reject.reason) == (4, reason)
    assert detail in reject.detail


def test_what_json_dumps_writes_is_read():
    """orjson refuses these; Python's json, with which people write their files, does not."""
    record = {"text": "x", "loss": float("nan"), "big": 10**40, "inf": float("-inf")}
    assert parse_lines(json.dumps(record).encode(), ("text",))[0] == [["x"]]


def test_several_keys_stay_aligned():
    lines = b'{"a": "1", "b": "x"}\n{"a": "2"}\n{"a": "3", "b": "z"}\n'
    columns, rejects, _ = parse_lines(lines, ("a", "b"))
    assert columns == [["1", "3"], ["x", "z"]]
    assert [(r.line, r.reason) for r in rejects] == [(2, "key missing")]
    assert parse_lines(b"\n", ("a", "b")) == ([[], []], [], 1)


def test_utf8_size():
    assert utf8_size(["abc", "é世🙂"]) == 3 + 2 + 3 + 4


# --- one line too long for memory --------------------------------------------------------------------------------------


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(oversized_line, "LONG_STRING", 40)
    monkeypatch.setattr(oversized_line, "PIECE", 25)


def read_giant(path: Path, line: bytes, keys: tuple[str, ...] = ("text",), before: bytes = b"") -> list[str]:
    path.write_bytes(before + line + b"\n")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        values = oversized_line.read_giant(data, len(before), len(before) + len(line), keys)
        return [value if isinstance(value, str) else "".join(value.pieces()) for value in values]


PARTS = ["plain words ", "\n", '"', "\\", "\\n", "世界", "é", "🙂", "\t", "\x00", "\\u12", '\\"', "\u2028", "\\\\", "/"]


@pytest.mark.parametrize("seed", range(60))
def test_giant_line_reads_as_json_reads_it(seed, small_pieces, tmp_path):
    rng = random.Random(seed)
    text = "".join(rng.choices(PARTS, k=rng.randint(30, 300)))
    record = {"n": 1, "other": text[::-1], "nested": {"text": text}, "text": text, "list": [text, 2]}
    line = json.dumps(record, ensure_ascii=seed % 2 == 0).encode()
    assert read_giant(tmp_path / "x", line, ("text", "other"), before=b'{"a": 1}\n') == [text, text[::-1]]


def test_long_text_is_not_held_whole(small_pieces, tmp_path):
    """The point of it: pieces come one at a time."""
    path = tmp_path / "x"
    path.write_bytes(b'{"text": "' + b"word " * 1000 + b'"}')
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        [value] = oversized_line.read_giant(data, 0, len(data), ("text",))
        assert isinstance(value, oversized_line.RawString)
        assert max(map(len, value.pieces())) < 60


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "' + b"a" * 99, "broken JSON"),
        (b'{"text": "' + b"a" * 99 + b'\xff"}', "invalid UTF-8"),
        (b'{"text": "' + b"a" * 99 + b'\\ud800 x"}', "lone surrogate"),
        (b'{"text": "' + b"a" * 99 + b'\\q x"}', "broken JSON"),
        (b'{"text": "short", "other": "' + b"a" * 99 + b'\xff"}', "invalid UTF-8"),
        (b'{"text": "short", "other": "' + b"a" * 99 + b'\\q"}', "broken JSON"),
        (b'{"other": "' + b"a" * 99 + b'"}', "key missing"),
        (b'["' + b"a" * 99 + b'"]', "not an object"),
        (b'{"text": ["' + b"a" * 99 + b'"]}', "not a string"),
    ],
)
def test_bad_giant_line(line, reason, small_pieces, tmp_path):
    with pytest.raises(BadLine) as caught:
        read_giant(tmp_path / "x", line)
    assert caught.value.reason == reason


def test_lone_surrogate_in_a_giant_line(small_pieces, tmp_path):
    """As in a short line, it matters in a field that is asked for only; that field is named, and the place in all of it."""
    line = b'{"text": "short", "other": "' + b"a" * 99 + b'\\ud800 x"}'
    assert read_giant(tmp_path / "x", line) == parse_lines(line, ("text",))[0][0] == ["short"]
    with pytest.raises(BadLine, match=r"'other' holds U\+D800 at character 100$"):
        read_giant(tmp_path / "x", line, ("text", "other"))
