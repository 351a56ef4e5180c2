"""Pages of a dump's XML (https://www.mediawiki.org/xml/export-0.11.xsd), one at a time and never the whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html import unescape
from itertools import chain, pairwise
from typing import Any
from xml.etree.ElementTree import Element, ParseError, XMLPullParser, fromstring

MAIN = 0
FILE, CATEGORY = 6, 14
_ROOT, _END = b"<mediawiki>", b"</mediawiki>"
_PAGE = re.compile(rb"<page>")
_TITLE = re.compile(r"<title>([^<]*)")
_SITEINFO = re.compile(rb"<siteinfo>.*?</siteinfo>", re.DOTALL)


@dataclass(frozen=True)
class RawPage:
    """A page as the dump has it. `text` is wikitext if `model` is."""

    id: int
    title: str
    namespace: int
    redirect: bool
    model: str
    text: str


@dataclass(frozen=True)
class BrokenPage:
    """A page that isn't well-formed XML or lacks a part of it."""

    title: str
    reason: str


@dataclass(frozen=True)
class SiteInfo:
    """From the head of a dump: where its pages are on the web, and its names for namespaces by their number."""

    url: str
    namespaces: dict[int, str]

    def names(self, *numbers: int) -> list[str]:
        return [self.namespaces[number] for number in numbers if number in self.namespaces]


def read_siteinfo(head: bytes) -> SiteInfo:
    """Parse the dump's first stream; raises ValueError."""
    found = _SITEINFO.search(head)
    if found is None:
        raise ValueError("no <siteinfo> at the start of the dump")
    try:
        info = fromstring(found[0])
    except ParseError as error:
        raise ValueError(f"<siteinfo> is not XML: {error}") from None
    base = info.findtext("base") or ""
    spaces = {int(space.get("key", "0")): space.text or "" for space in info.iter("namespace")}
    return SiteInfo(base[: base.rfind("/") + 1], spaces)


def read_pages(open_stream: Callable[[], Iterable[bytes]]) -> Iterator[RawPage | BrokenPage]:
    """Pages of one stream, as they come; a broken page doesn't cost the others.

    `open_stream` gives the stream's XML in pieces. It is called again, to read pages singly, if one is broken.
    """
    parser: Any = XMLPullParser(("end",))  # its type in typeshed knows no element
    done: set[str] = set()  # titles, which are unique in a wiki
    try:
        parser.feed(_ROOT)
        for chunk in chain(open_stream(), (_END,)):
            parser.feed(chunk)
            for _, element in parser.read_events():
                if element.tag == "page":
                    page = _page(element)
                    done.add(page.title)
                    yield page
                    element.clear()
        parser.close()
    except ParseError:
        yield from _one_by_one(b"".join(open_stream()), done)


def _one_by_one(xml: bytes, done: set[str]) -> Iterator[RawPage | BrokenPage]:
    """Parse each page by itself, but for those done."""
    starts = [found.start() for found in _PAGE.finditer(xml)]
    for start, end in pairwise([*starts, len(xml)]):
        source = xml[start:end]
        page: RawPage | BrokenPage
        try:
            page = _page(fromstring(source[: source.index(b"</page>") + 7]))
        except ParseError as error:
            page = BrokenPage(_title(source), f"not well-formed XML: {error}")
        except ValueError:
            page = BrokenPage(_title(source), "no </page>")
        if page.title not in done:
            yield page


def _title(page: bytes) -> str:
    found = _TITLE.search(page.decode("utf-8", "replace"))
    return unescape(found[1]) if found else "(no title)"


def _page(element: Element) -> RawPage | BrokenPage:
    title, number, space = element.findtext("title"), element.findtext("id"), element.findtext("ns")
    revision = element.find("revision")
    if not (title and number and number.isdigit() and space and revision is not None):
        return BrokenPage(title or "(no title)", "no title, id, ns or revision")
    return RawPage(
        int(number),
        title,
        int(space),
        element.find("redirect") is not None,
        revision.findtext("model") or "wikitext",
        revision.findtext("text") or "",
    )
