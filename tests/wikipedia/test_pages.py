"""Streams, indexes and the XML of pages, whole and broken."""

from __future__ import annotations

import bz2
import errno
from pathlib import Path
from typing import Any

import orjson
import pytest

from nemo_workflow.utils.errors import Failure
from nemo_workflow.wikipedia import extract
from nemo_workflow.wikipedia.extract import SPILL, Extracted, Extractor, Workers, site_of
from nemo_workflow.wikipedia.journal import Rules
from nemo_workflow.wikipedia.multistream import Stream, decompress, read_index
from nemo_workflow.wikipedia.pages import BrokenPage, RawPage, SiteInfo, read_pages
from tests.wikipedia.dump import page_xml, write_part
from tests.wikipedia.generator import Page, pages

SITE = SiteInfo("https://zh-classical.wikipedia.org/wiki/", {6: "檔", 14: "類"})


@pytest.fixture
def part(tmp_path: Path, made: list[Page]) -> tuple[Path, Path]:
    write_part(tmp_path, "a.xml.bz2", "i.txt.bz2", made[:250])
    return tmp_path / "a.xml.bz2", tmp_path / "i.txt.bz2"


def test_index_and_streams(part: tuple[Path, Path], made: list[Page]) -> None:
    articles, index = part
    streams = read_index(index, articles)
    assert [stream.pages for stream in streams] == [100, 100, 50]
    assert streams[-1].offset + streams[-1].length == articles.stat().st_size
    read = [p for s in streams for p in read_pages(lambda s=s: decompress(articles, s.offset, s.length))]
    assert [p.title for p in read if isinstance(p, RawPage)] == [p.title for p in made[:250]]
    assert [p.text for p in read if isinstance(p, RawPage)] == [p.text for p in made[:250]]
    assert [p.redirect for p in read if isinstance(p, RawPage)] == [p.redirect is not None for p in made[:250]]


def test_siteinfo(part: tuple[Path, Path]) -> None:
    articles, index = part
    info = site_of(articles, read_index(index, articles))
    assert info.url == "https://zh-classical.wikipedia.org/wiki/"
    assert info.names(6, 14) == ["檔", "類"]


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        (b"", "does not describe"),
        (b"no numbers here\n", "line 1"),
        (b"5:1:a\n5:2:b\n3:3:c\n", "line 3"),
        (b"5:1:a\nx:2:b\n", "line 2"),
        (b"99999999:1:a\n", "does not describe"),
    ],
)
def test_broken_index(part: tuple[Path, Path], lines: bytes, word: str) -> None:
    articles, index = part
    index.write_bytes(bz2.compress(lines))
    with pytest.raises(Failure, match=word):
        read_index(index, articles)


def test_index_cut_short(part: tuple[Path, Path]) -> None:
    articles, index = part
    index.write_bytes(index.read_bytes()[:-10])
    with pytest.raises(Failure, match="delete the file"):
        read_index(index, articles)


def broken(made: list[Page], spoiled: str, at: int) -> list[RawPage | BrokenPage]:
    xml = "".join(spoiled if number == at else page_xml(page) for number, page in enumerate(made[:20])).encode()
    return list(read_pages(lambda: (xml[start : start + 1000] for start in range(0, len(xml), 1000))))


@pytest.mark.parametrize("at", [0, 10, 19])
@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        ("  <page>\n<title>B &amp; C</title><ns>0</ns><text>&nothing;</text>\n  </page>\n", "not well-formed"),
        ("  <page>\n<title>B &amp; C</title><ns>0</ns><text>a < b</text>\n  </page>\n", "not well-formed"),
        ("  <page>\n<title>B &amp; C</title><ns>0</ns>\n", "no </page>"),
        ("  <page>\n<title>B &amp; C</title><ns>0</ns>\n  </page>\n", "no title, id, ns or revision"),
    ],
    ids=["entity", "bracket", "cut", "incomplete"],
)
def test_a_broken_page_costs_no_other(made: list[Page], spoiled: str, reason: str, at: int) -> None:
    read = broken(made, spoiled, at)
    assert [p.title for p in read if isinstance(p, RawPage)] == [p.title for n, p in enumerate(made[:20]) if n != at]
    (bad,) = [p for p in read if isinstance(p, BrokenPage)]
    assert bad.title == "B & C"
    assert reason in bad.reason


def test_note_on_a_broken_page(tmp_path: Path, made: list[Page]) -> None:
    write_part(tmp_path, "a.xml.bz2", "i.txt.bz2", made[:100], spoil={made[3].id: "<page><title>Bad</title><x></page>"})
    streams = read_index(tmp_path / "i.txt.bz2", tmp_path / "a.xml.bz2")
    extracted = Extractor(SITE, Rules()).stream(tmp_path / "a.xml.bz2", streams[0])
    assert extracted.counts.broken == 1
    assert extracted.counts.read == 100
    (note,) = extracted.notes
    for word in ("a.xml.bz2", "Bad", f"byte {streams[0].offset}", "left out", "--date"):
        assert word in note


@pytest.mark.parametrize("spoil", ["cut", "changed"])
def test_a_broken_stream(part: tuple[Path, Path], spoil: str) -> None:
    articles, index = part
    streams = read_index(index, articles)
    first = streams[0]
    content = bytearray(articles.read_bytes())
    if spoil == "cut":
        articles.write_bytes(content[: first.offset + first.length // 2])
        first = Stream(first.offset, first.length // 2, 100)
    else:
        content[first.offset + first.length // 2] ^= 255
        articles.write_bytes(content)
    with pytest.raises(Failure) as failed:
        Extractor(SITE, Rules()).stream(articles, first)
    for word in (str(articles), f"byte {first.offset}", "delete the file"):
        assert word in str(failed.value)


def test_a_full_disk_is_not_blamed_on_the_dump(part: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(made: Extracted, line: bytes, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Extracted, "add", full)  # it writes only from SPILL bytes on
    articles, index = part
    with pytest.raises(OSError, match="No space left"):
        Extractor(SITE, Rules()).stream(articles, read_index(index, articles)[0])


def test_which_pages_are_kept(part: tuple[Path, Path]) -> None:
    articles, index = part
    made = list(pages(250))
    extractor = Extractor(SITE, Rules(min_chars=30))
    streams = [extractor.stream(articles, stream) for stream in read_index(index, articles)]
    counts = [sum(getattr(s.counts, name) for s in streams) for name in ("kept", "redirects", "not_articles", "short")]
    articles_made = [p for p in made if p.expected is not None]
    assert counts == [
        sum(len(p.expected or "") >= 30 for p in articles_made),
        sum(p.redirect is not None for p in made),
        sum(p.namespace != 0 for p in made),
        sum(len(p.expected or "") < 30 for p in articles_made),
    ]
    assert min(counts) > 0


@pytest.mark.parametrize(("most_bytes", "at_once"), [(extract.COMPRESSED_BYTES, 2), (1, 1)])
def test_few_streams_wait_at_once(
    part: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, most_bytes: int, at_once: int
) -> None:
    articles, index = part
    monkeypatch.setattr(extract, "COMPRESSED_BYTES", most_bytes)
    workers = Workers(1, SITE, Rules())
    submitted: list[Stream] = []
    submit = workers.pool.submit

    def counted(work: Any, path: Path, stream: Stream) -> Any:
        submitted.append(stream)
        return submit(work, path, stream)

    monkeypatch.setattr(workers.pool, "submit", counted)
    streams = read_index(index, articles)
    for number, made in enumerate(workers.extract(articles, streams), 1):
        assert made.counts.read == streams[number - 1].pages
        assert len(submitted) - number <= at_once - 1
    assert submitted == streams
    workers.pool.shutdown()


@pytest.mark.parametrize("limit", [None, 30])
def test_many_lines_go_through_a_file(tmp_path: Path, limit: int | None) -> None:
    """A stream of very long pages isn't handed from process to process."""
    lines = [orjson.dumps({"text": f"{number} " * 40_000}) + b"\n" for number in range(100)]
    made = Extracted()
    for line in lines:
        made.add(line, tmp_path)
    assert made.size < SPILL and len(list(tmp_path.iterdir())) == 1
    if limit:
        made.keep_first(limit)
        assert made.counts.kept == limit
        assert made.counts.characters == sum(len(orjson.loads(line)["text"]) for line in lines[:limit])
    assert list(made.take()) == lines[:limit]
    assert list(tmp_path.iterdir()) == []
