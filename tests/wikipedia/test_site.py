"""Finding a dump: newest finished, by date, parts of a large wiki, and what is refused."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from nemo_workflow.utils.errors import Refusal
from nemo_workflow.wikipedia.http import Client
from nemo_workflow.wikipedia.site import Site, _listed, wiki_name
from tests.wikipedia.conftest import ARTICLES, INDEX
from tests.wikipedia.dump_site import DumpSite, Fault


def find(site: DumpSite, language: str = "zh-classical", date: str | None = None):  # type: ignore[no-untyped-def]
    with Client("test") as client:
        return Site(client, site.url + "/").find(language, date)


@pytest.mark.parametrize(
    ("language", "wiki"),
    [
        ("zh-classical", "zh_classicalwiki"),
        ("en", "enwiki"),
        ("zh-yue", "zh_yuewiki"),
        ("yue", "zh_yuewiki"),
        ("nb", "nowiki"),
    ],
)
def test_wiki_name(language: str, wiki: str) -> None:
    assert wiki_name(language) == wiki


def test_other_projects() -> None:
    assert wiki_name("en", "wiktionary") == "enwiktionary"
    assert wiki_name("zh-classical", "wikisource") == "zh_classicalwikisource"


@pytest.mark.parametrize(
    "listing",
    [
        '<a href="20250101/">20250101/</a>', "<A HREF='20250101/'>", "<a href=20250101/>", '<a href="./20250101">',
        '<a href="https://mirror.example/pub/enwiki/20250101/index.html">', '[{"name":"20250101","type":"directory"}]',
        '<a href="20250101/?C=N">', '<a href="%2Fenwiki%2F20250101%2F">', "<Prefix>enwiki/20250101/</Prefix>", "['20250101/']",
        "drwxr-xr-x 2 root root 4096 Jan 3 20250101", "20250101/\n", '{"path": "/enwiki/20250101"}',
    ],
)  # fmt: skip
def test_listings_of_mirrors(listing: str) -> None:
    page = f'<a href="../">..</a> <a href="latest/">x</a> {listing} <a href="x20240101.txt">y</a> 98765432 en-20230101-x.bz2'
    assert _listed(page) == {"20250101"}


def test_newest_finished_dump(site: DumpSite) -> None:
    dump = find(site)
    assert (dump.wiki, dump.date) == ("zh_classicalwiki", "20250101")  # that of 20250120 is in progress
    (part,) = dump.parts
    assert (part.articles.name, part.index.name) == (ARTICLES, INDEX)
    path = site.root / "zh_classicalwiki" / "20250101" / ARTICLES
    assert part.articles.size == path.stat().st_size
    assert part.articles.url == f"{site.url}/zh_classicalwiki/20250101/{ARTICLES}"


def test_dump_of_a_date(site: DumpSite) -> None:
    assert find(site, date="20241201").date == "20241201"


def test_parts_of_a_large_wiki_in_order(site: DumpSite) -> None:
    names = [part.articles.name for part in find(site, "en").parts]
    stem = "enwiki-20250101-pages-articles-multistream"
    assert names == [f"{stem}1.xml-p1p150.bz2", f"{stem}2.xml-p151p300.bz2", f"{stem}3.xml-p301p420.bz2"]


def test_parts_are_ordered_by_number_and_the_whole_is_left_out(tmp_path: Path) -> None:
    stem = "xwiki-20250101-pages-articles-multistream"
    numbers = [("10", "-p900p999"), ("2", "-p5p8"), ("2", "-p1p4"), ("", "")]
    files = {}
    for number, place in numbers:
        for name in (f"{stem}{number}.xml{place}.bz2", f"{stem}-index{number}.txt{place}.bz2"):
            files[name] = {"size": 1, "sha1": "0" * 40}
    serve_status(tmp_path, {"jobs": {"articlesmultistreamdump": {"status": "done", "files": files}}})
    site = DumpSite(tmp_path)
    try:
        names = [part.articles.name.removeprefix(stem) for part in find(site, "x").parts]
    finally:
        site.close()
    assert names == ["2.xml-p1p4.bz2", "2.xml-p5p8.bz2", "10.xml-p900p999.bz2"]


def serve_status(root: Path, status: object) -> None:
    folder = root / "xwiki" / "20250101"
    folder.mkdir(parents=True)
    (folder / "dumpstatus.json").write_text(json.dumps(status) if not isinstance(status, str) else status)


NAMES = ("xwiki-20250101-pages-articles-multistream.xml.bz2", "xwiki-20250101-pages-articles-multistream-index.txt.bz2")


def done(**facts: object) -> dict[str, object]:
    return {"jobs": {"articlesmultistreamdump": {"status": "done", "files": dict.fromkeys(NAMES, facts)}}}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("<html>", ["dumpstatus.json", "--base-url"]),
        ({"jobs": {}}, ["--language x", "none", "20250101"]),
        (done(size=5), ["no SHA-1", NAMES[0], "--date"]),
        (done(sha1="0" * 40), ["no size", "--date"]),
        (
            {
                "jobs": {
                    "articlesmultistreamdump": {"status": "done", "files": {NAMES[0]: {"size": 1, "sha1": "0" * 40}}}
                }
            },
            ["no complete set"],
        ),
    ],
)
def test_unusable_status_is_refused(tmp_path: Path, status: object, words: list[str]) -> None:
    serve_status(tmp_path, status)
    site = DumpSite(tmp_path)
    try:
        with pytest.raises(Refusal) as refused:
            find(site, "x")
    finally:
        site.close()
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("language", "date", "words"),
    [
        ("xx", None, ["--language xx", "xxwiki", "404", "List_of_Wikipedias"]),
        ("zh-classical", "20240101", ["--date 20240101", "20250101", "20241201"]),
        ("zh-classical", "20250120", ["--date 20250120", "in-progress", "newest finished"]),
    ],
)
def test_refusals(site: DumpSite, language: str, date: str | None, words: list[str]) -> None:
    with pytest.raises(Refusal) as refused:
        find(site, language, date)
    for word in words:
        assert word in str(refused.value)


def test_no_network() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client("test") as client, pytest.raises(Refusal) as refused:
            Site(client, address).find("en", None)
    for word in ("--base-url", "Connection refused", "proxy"):
        assert word in str(refused.value)


def test_a_busy_site_is_asked_again_after_the_time_it_names(site: DumpSite, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(Client, "pause", lambda _, seconds: waits.append(seconds))
    site.faults["dumpstatus.json"] = [
        Fault(status=503, headers={"Retry-After": "7"}),
        Fault(
            status=429,
            headers={"Retry-After": "Wed, 01 Jan 2025 00:00:30 GMT", "Date": "Wed, 01 Jan 2025 00:00:10 GMT"},
        ),
    ]
    assert find(site).date == "20250101"
    assert waits[0] == 7
    assert len(waits) == 2


def test_a_site_that_stays_busy(site: DumpSite) -> None:
    site.faults["dumpstatus.json"] = [Fault(status=503)] * 3
    with pytest.raises(Refusal, match="HTTP 503, 3 times"):
        find(site)


def test_forbidden(site: DumpSite) -> None:
    site.faults["/zh_classicalwiki/"] = [Fault(status=403)]
    with pytest.raises(Refusal, match="403"):
        find(site)
