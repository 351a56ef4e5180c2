"""Writes made-up pages as a multistream dump, as dumps.wikimedia.org lays it out."""

from __future__ import annotations

import bz2
import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from tests.wikipedia.generator import Page

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="zh-classical">
  <siteinfo>
    <sitename>維基大典</sitename>
    <dbname>zh_classicalwiki</dbname>
    <base>https://zh-classical.wikipedia.org/wiki/%E7%B6%AD</base>
    <generator>MediaWiki 1.44</generator>
    <case>first-letter</case>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="1" case="first-letter">議</namespace>
      <namespace key="6" case="first-letter">檔</namespace>
      <namespace key="10" case="first-letter">Template</namespace>
      <namespace key="14" case="first-letter">類</namespace>
    </namespaces>
  </siteinfo>
"""
STREAM = 100  # pages


def page_xml(page: Page) -> str:
    redirect = f"    <redirect title={quoteattr(page.redirect)} />\n" if page.redirect else ""
    size = len(page.text.encode())
    return f"""  <page>
    <title>{escape(page.title)}</title>
    <ns>{page.namespace}</ns>
    <id>{page.id}</id>
{redirect}    <revision>
      <id>{page.id + 1000}</id>
      <timestamp>2025-01-01T00:00:00Z</timestamp>
      <contributor>
        <username>A</username>
        <id>1</id>
      </contributor>
      <comment>&lt;!-- --&gt;</comment>
      <model>{page.model}</model>
      <format>text/x-wiki</format>
      <text bytes="{size}" sha1="x" xml:space="preserve">{escape(page.text)}</text>
      <sha1>x</sha1>
    </revision>
  </page>
"""


def write_part(
    folder: Path, name: str, index_name: str, pages: Iterable[Page], spoil: dict[int, str] | None = None
) -> None:
    """Write one multistream file and its index. `spoil` replaces the XML of pages by their id."""
    pages = iter(pages)
    with (folder / name).open("wb") as articles, bz2.open(folder / index_name, "wt", encoding="utf-8") as index:
        articles.write(bz2.compress(HEAD.encode()))
        while batch := list(islice(pages, STREAM)):
            for page in batch:
                index.write(f"{articles.tell()}:{page.id}:{page.title}\n")
            xml = "".join((spoil or {}).get(page.id) or page_xml(page) for page in batch)
            articles.write(bz2.compress(xml.encode()))
        articles.write(bz2.compress(b"</mediawiki>\n"))


def write_dump(
    root: Path,
    parts: Sequence[Iterable[Page]],
    wiki: str = "zh_classicalwiki",
    date: str = "20250101",
    status: str = "done",
    spoil: dict[int, str] | None = None,
) -> Path:
    """Write root/WIKI/DATE with a dumpstatus.json; return the folder. One part has no number in its name."""
    folder = root / wiki / date
    folder.mkdir(parents=True)
    stem = f"{wiki}-{date}-pages-articles-multistream"
    for number, pages in enumerate(parts, 1):
        pages = list(pages)
        place = f"-p{pages[0].id}p{pages[-1].id}" if len(parts) > 1 else ""
        mark = str(number) if len(parts) > 1 else ""
        write_part(folder, f"{stem}{mark}.xml{place}.bz2", f"{stem}-index{mark}.txt{place}.bz2", pages, spoil)
    write_status(folder, status)
    return folder


def write_status(folder: Path, status: str = "done") -> None:
    """Describe the .bz2 files of `folder` in its dumpstatus.json."""
    files: dict[str, Any] = {}
    for path in sorted(folder.glob("*.bz2")):
        content = path.read_bytes()
        files[path.name] = {
            "size": len(content),
            "url": f"/{folder.parent.name}/{folder.name}/{path.name}",
            "md5": hashlib.md5(content).hexdigest(),
            "sha1": hashlib.sha1(content).hexdigest(),
        }
    jobs = {"articlesmultistreamdump": {"status": status, "updated": "2025-01-02 00:00:00", "files": files}}
    (folder / "dumpstatus.json").write_text(json.dumps({"version": "0.8", "jobs": jobs}))
