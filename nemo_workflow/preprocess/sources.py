"""One input file: its kind, and what is wrong with it."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nemo_workflow.preprocess.streams import BLOCK, open_text, said_of_damage
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import absolute
from nemo_workflow.utils.text_coding import coding_of

LINES = (".jsonl", ".json", ".ndjson")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".zstd")
TABLES = (".parquet", ".arrow")
TEXTS = (".txt", ".md")
ENDINGS = (*(t + c for t in (*LINES, *TEXTS) for c in ("", *COMPRESSIONS)), *TABLES)
KNOWN = (
    ".jsonl, .json (one object per line), .ndjson, .txt and .md (one document per file), each also .gz, .bz2, .xz or .zst, "
    "and .parquet and .arrow"
)
# What else holds text or packs it: a folder's files that are not read are named when they look like data.
_OTHER = (
    ".text .csv .tsv .xml .html .warc .jl .jsonlines .pq .feather .orc .avro .tfrecord .lz4 .lzma .zip .tar .tgz .7z"
)
OTHER_DATA = (*_OTHER.split(), *COMPRESSIONS)
CHECKSUMS = (".sha256", ".sha1", ".md5", ".asc", ".sig")
NO_DATA = ("readme", "license", "licence", "notice", "changelog", "sha256sum", "md5sum", "checksum", "requirements")
# What the datasets library saves beside its .arrow files.
OF_DATASETS = ("dataset_info.json", "state.json", "dataset_dict.json")


def to_utf8(coding: str) -> str:
    """The command that converts a file."""
    return f"`iconv -f {coding} -t UTF-8 OLD > NEW`"


# what helps with a file that is no text in UTF-8, by the reason that documents.decoded gives
NOT_TEXT = {
    # for who has a text of the commonest of the older encodings
    "invalid UTF-8": f"Convert it (if it is Latin-1: {to_utf8('LATIN1')})",
    "NUL byte": "Take it away if it is no text; if it is, `tr -d '\\000' < OLD > NEW` takes such bytes out",
}


@dataclass(frozen=True)
class Source:
    """One input file. `prefix` names its outputs, `top` the top folder below what was given as input.

    With `part`, only its lines that begin from the first byte up to the second.
    """

    path: Path
    prefix: str
    top: str = ""
    part: tuple[int, int] | None = None

    @cached_property
    def full(self) -> Path:
        """The path by which the input is known again, wherever and however it is named."""
        return absolute(self.path)

    @cached_property
    def _name(self) -> str:
        return self.path.name.lower()

    @property
    def is_table(self) -> bool:
        return self._name.endswith(TABLES)

    @property
    def is_text(self) -> bool:
        """One document a file."""
        return self._name.endswith(tuple(text + ending for text in TEXTS for ending in ("", *COMPRESSIONS)))

    @property
    def is_plain(self) -> bool:
        """Lines that need no unpacking."""
        return self._name.endswith(LINES)

    @cached_property
    def stat(self) -> os.stat_result:
        """As it was when the run began."""
        return self.path.stat()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.stat.st_size

    @property
    def to_read(self) -> int:
        """Bytes of the file that are read."""
        return min(self.size, self.part[1]) - self.part[0] if self.part else self.size

    def lines_before(self) -> int:
        """Lines of the file before its part."""
        count, left, last = 0, self.part[0] if self.part else 0, b"\n"
        with self.path.open("rb") as stream:
            while left and (block := stream.read(min(left, 1 << 24))):
                count += block.count(b"\n")
                left, last = left - len(block), block[-1:]
        return count + (last != b"\n")  # the line that goes on into the part


def stem_of(path: Path) -> str | None:
    """The name without its ending, or None for an ending that is not known."""
    for ending in sorted(ENDINGS, key=len, reverse=True):
        if path.name.lower().endswith(ending) and len(path.name) > len(ending):
            return path.name[: -len(ending)]
    return None


def as_text(path: Path) -> str:
    """The name that a file of JSON lines, packed or not, has as a document of its own."""
    packed = path.suffix if path.suffix.lower() in COMPRESSIONS else ""
    return f"{stem_of(path)}{TEXTS[0]}{packed}"


def looks_like_data(path: Path) -> bool:
    """Whether a file that is not read should be named."""
    name = path.name.lower()
    if no_data(path):
        return False
    # docs.jsonl.part
    return any(ending in name for ending in (".jsonl", ".ndjson", ".parquet")) or name.endswith((*OTHER_DATA, *ENDINGS))


def no_data(path: Path) -> bool:
    """A README, a list of checksums: known by its name."""
    name = path.name.lower()
    return name.startswith(NO_DATA) or name.endswith(CHECKSUMS)


def not_utf8(text: str | os.PathLike[str]) -> bool:
    """Whether a name from the command line or the disk holds bytes that are no UTF-8, which no JSON and no terminal takes."""
    try:
        os.fspath(text).encode()
    except UnicodeEncodeError:
        return True
    return False


def wrong_file(source: Source) -> Iterator[str]:
    """What keeps a file from being read, told by its first bytes."""
    if not_utf8(source.full):
        yield f"{source.path}: its name is not UTF-8; rename it"
    elif not os.access(source.path, os.R_OK):
        yield f"{source.path}: not readable; check its permissions"
    elif source.size:
        yield from _wrong_table(source) if source.is_table else _wrong_kind(source)


def blank(source: Source) -> bool:
    """Whether there is nothing but white space in a file that is one document; what can't be read is told elsewhere."""
    if not source.is_text:
        return False
    from nemo_workflow.preprocess.documents import decoded  # imports orjson, which --help does without

    try:
        with open_text(source.path) as stream:
            return not any(text.strip() for text in decoded(iter(lambda: stream.read(BLOCK), b"")))
    except (OSError, EOFError, ValueError, Refusal):
        return False


# Data that lies under a name of another kind, told by its first bytes.
_MAGIC = {
    b"\x1f\x8b": ("gzip", ".gz"),
    b"\x28\xb5\x2f\xfd": ("zstandard", ".zst"),
    **{b"BZh%d1AY&SY" % level: ("bzip2", ".bz2") for level in range(1, 10)},
    b"\xfd7zXZ\0": ("xz", ".xz"),
    b"PAR1": ("Parquet", ".parquet"),
    b"ARROW1": ("Arrow", ".arrow"),
    b"PK\x03\x04": ("zip", ".zip"),
}
# Documents of other programs, whose text has to be taken out.
_DOCUMENTS = {
    b"%PDF-": ("a PDF", "pdftotext OLD NEW.txt"),
    b"{\\rtf": ("a document in RTF", "pandoc -f rtf -t plain OLD -o NEW.txt"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": (
        "a document of an older Microsoft Office",
        "soffice --headless --convert-to txt:Text OLD",
    ),
}
# What a zip file of theirs has among its first bytes.
_ZIPPED = {
    b"[Content_Types].xml": "a document of Microsoft Office",
    b"mimetypeapplication/vnd.oasis": "a document of LibreOffice",
    b"mimetypeapplication/epub+zip": "an e-book",
}
_POINTER = b"version https://git-lfs.github.com/"
_BOM = b"\xef\xbb\xbf"


def _wrong_table(source: Source) -> Iterator[str]:
    with source.path.open("rb") as stream:
        head = stream.read(4096)
    if head.startswith(_POINTER):
        yield f"{source.path}: a pointer of Git LFS, not the file itself; fetch it: git lfs pull"


def _wrong_lines(head: bytes) -> str | None:
    """What is wrong with a file that should have an object a line, told by its beginning."""
    head = head.removeprefix(_BOM).lstrip()
    first = head.partition(b"\n")[0].rstrip()
    inner = _LIST_WITHIN.match(head)
    if inner and b"\n" in head and not _is_json(first):
        return (
            f"one object with a list within, not one object per line; convert it first: `jq -c '.{inner[1].decode()}[]' OLD.json >"
            " NEW.jsonl`"
        )
    if head[:1] == b"[" and head[1:].lstrip()[:1] == b'"':
        return "a JSON array of texts, not one object per line; convert it first: `jq -c '.[] | {text: .}' OLD.json > NEW.jsonl`"
    if head[:1] == b"[" and head[1:].lstrip()[:1] in (b"{", b""):
        return "one JSON array, not one object per line; convert it first: `jq -c '.[]' OLD.json > NEW.jsonl`"
    if first == b"{":
        return (
            "one object over several lines, not one object per line; convert it first: `jq -c . OLD.json > NEW.jsonl`"
        )
    if b"\n" not in head and b"}\r" in head.rstrip():
        return "its lines end with CR alone; convert it first: `tr '\\r' '\\n' < OLD > NEW`"
    return None


# an object that begins with a list of objects
_LIST_WITHIN = re.compile(rb'\{\s*"([A-Za-z_]\w*)"\s*:\s*\[\s*\{')


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _plain_text(head: bytes) -> bool:
    """Whether the beginning of a file that should have an object a line is text, and none of its lines JSON or meant to be."""
    lines = [line.strip() for line in head.removeprefix(_BOM).splitlines()]
    if not any(lines) or any(line.startswith((b"{", b"[")) or _is_json(line) for line in lines if line):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def reads_as_lines(source: Source) -> bool:
    """Whether a file that is read as one text begins with JSON objects, a line each; what can't be read is told elsewhere."""
    if not source.is_text:
        return False
    try:
        with open_text(source.path) as stream:
            head = stream.read(4096)
    except (OSError, EOFError, ValueError, Refusal):
        return False
    lines = head.removeprefix(_BOM).splitlines()
    whole = [line.strip() for line in (lines[:-1] if len(head) == 4096 else lines) if line.strip()]
    return bool(whole) and all(line.startswith(b"{") and _is_json(line) for line in whole)


# of a model's or a tokenizer's folder, given instead of the text's
_OF_A_MODEL = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json",
    "generation_config.json", "model.safetensors.index.json",
}  # fmt: skip


def _wrong_kind(source: Source) -> Iterator[str]:
    try:
        with open_text(source.path) as stream:
            head = stream.read(4096)
    except Refusal as refusal:
        yield from refusal.problems
        return
    except (OSError, EOFError, ValueError) as error:
        yield f"{source.path}: {said_of_damage(error) or f'damaged, or not what its extension says: {error}; fetch it again, or rename it'}"
        return
    magic = next((magic for magic in _MAGIC if head.startswith(magic)), None)
    coding = coding_of(head)
    if coding:
        yield f"{source.path}: {coding}; convert it first: {to_utf8(coding)}"
    elif document := document_of(head):
        yield f"{source.path}: {document[0]}, not plain text; take the text out first, for example: {document[1]}"
    elif head[257:262] == b"ustar":
        yield f"{source.path}: a tar archive; unpack it: tar -xf"
    elif magic:
        kind, ending = _MAGIC[magic]
        todo = "unpack it" if ending == ".zip" else "rename it"
        yield f"{source.path}: {kind} data without the extension {ending}; {todo}"
    elif head.startswith(_POINTER):
        yield f"{source.path}: a pointer of Git LFS, not the file itself; fetch it: git lfs pull"
    elif not source.is_text and _plain_text(head):
        yield f"{source.path}: plain text, not JSON lines; rename it: {as_text(source.path)}"
    elif not source.is_text and (why := _wrong_lines(head)):
        if source.path.name in _OF_A_MODEL:
            why = "of a tokenizer or a model, no text to learn from; name the folder or the files of your text"
        yield f"{source.path}: {why}"


def what_else(name: str, head: bytes) -> str:
    """'it is a PDF: …' of a file whose extension isn't read, told by its beginning, with what makes text of it; else ''."""
    if coding := coding_of(head):
        return f"it is {coding}: convert it: {to_utf8(coding)}"
    if document := document_of(head):
        return f"it is {document[0]}: take the text out first, for example: {document[1]}"
    packed_tar = re.search(r"\.tar\.|\.(tgz|tbz2?|txz)$", name.lower())
    for magic, (kind, ending) in _MAGIC.items():
        if head.startswith(magic) and not packed_tar:
            unpack = ending == ".zip" or name.lower().endswith(ending)
            return f"it is {kind} data: {'unpack it' if unpack else f'give it the extension {ending}'}"
    return "it is a tar archive: unpack it: tar -xf" if packed_tar or head[257:262] == b"ustar" else ""


def document_of(head: bytes) -> tuple[str, str] | None:
    """(what it is, the command that takes its text out) of another program's document, told by its beginning."""
    if head.startswith(b"PK\x03\x04"):
        what = next((what for mark, what in _ZIPPED.items() if mark in head), None)
        return (what, "pandoc -t plain OLD -o NEW.txt") if what else None
    return next((said for magic, said in _DOCUMENTS.items() if head.startswith(magic)), None)
