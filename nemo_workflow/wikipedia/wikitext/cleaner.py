"""Wikitext to plain text: what a reader of the page sees in its paragraphs, headings and lists."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nemo_workflow.wikipedia.wikitext import variants
from nemo_workflow.wikipedia.wikitext.lines import lay_out, tidy
from nemo_workflow.wikipedia.wikitext.links import Links
from nemo_workflow.wikipedia.wikitext.tags import MARKER, drop_html, entities, put_back, take_out_extensions
from nemo_workflow.wikipedia.wikitext.templates import drop_tables, drop_templates

# MediaWiki's and its extensions' switches, German and French ones, and those of scripts that no identifier is written in.
_SWITCHES = (
    "(?:NO|FORCE)?TOC|NOEDITSECTION|(?:NO)?NEWSECTIONLINK|NOGALLERY|HIDDENCAT|EXPECT(?:UNUSEDCATEGORY|UNUSEDTEMPLATE|WITHOUTSCANS)"
    "|NOCONTENTCONVERT|NOCC|NOTITLECONVERT|NOTC|START|END|(?:NO)?INDEX|STATICREDIRECT|NOGLOBAL|DISAMBIG|ARCHIVEDTALK|NOTALK"
    "|(?:KEIN_)?INHALTSVERZEICHNIS|INHALTSVERZEICHNIS_ERZWINGEN|ABSCHNITTE_NICHT_BEARBEITEN|KEINE_INDEXIERUNG|AUCUNSOMMAIRE|SOMMAIRE"
    "|FORCERSOMMAIRE|CATEGORIECACHEE"
)
_SWITCH = re.compile(rf"__(?:{_SWITCHES}|[^\W\d_\x00-\u024f]+)__")
_CONTROL = "\x02\x03\x04\x05"
_QUOTES = re.compile(r"''+")
_LEFT_OVER = ("{{", "}}", "[[", "]]")


class Cleaner:
    """Cleans the pages of one wiki.

    `namespaces` are its own names for the file and category namespaces, `preferred` the variants to show, best first; with
    none, -{ }- is text, as in languages of one script.
    """

    def __init__(self, namespaces: Iterable[str] = (), preferred: tuple[str, ...] = variants.TRADITIONAL):
        self.links = Links(namespaces)
        self.preferred = preferred

    def clean(self, text: str) -> str:
        """The page's text; the time is linear in its length, whatever the markup."""
        if MARKER in text:
            text = text.replace(MARKER, "")
        for mark in _CONTROL:
            if mark in text:
                text = text.replace(mark, "")
        text, kept = take_out_extensions(text)
        text = drop_tables(drop_templates(text))
        if "''" in text:
            text = _drop_quotes(text)
        if "-{" in text and self.preferred:
            text = variants.resolve(text, self.preferred)
        text = drop_html(self.links.resolve(text))
        if "__" in text:
            text = _SWITCH.sub("", text)
        for braces in _LEFT_OVER:
            if braces in text:
                text = text.replace(braces, "")
        text = lay_out(text)
        if "&" in text:
            text = entities(text)
        if "\xa0" in text:
            text = text.replace("\xa0", " ")
        return put_back(tidy(text), kept).strip()


def _drop_quotes(text: str) -> str:
    """Remove the quotes of bold and italics; a fourth and those above the fifth are apostrophes."""
    if "''''" not in text:
        return text.replace("'''", "").replace("''", "")
    return _QUOTES.sub(lambda found: {4: "'"}.get(len(found[0]), "'" * max(0, len(found[0]) - 5)), text)
