"""Comments, extension tags and HTML in wikitext.

The order is MediaWiki's own (https://www.mediawiki.org/wiki/Manual:Parser): comments and extension tags go first,
because nothing inside them is markup; what must come back unchanged waits behind a strip marker.
"""

from __future__ import annotations

import re
from html import unescape

MARKER = "\x7f"  # MediaWiki's own choice: a character that no page may hold

FORMULAS = frozenset(("math", "chem", "ce"))
VERBATIM = FORMULAS | {"nowiki", "pre", "syntaxhighlight", "source"}
_DROPPED = (
    "ref references gallery timeline score graph imagemap mapframe maplink templatestyles templatedata inputbox "
    "categorytree hiero includeonly indicator charinsert dynamicpagelist rss style script rt rp"
)
DROPPED = frozenset(_DROPPED.split())
_BLOCKS = (
    "br|p|div|center|blockquote|poem|li|ul|ol|dl|dt|dd|tr|td|th|tbody|thead|tfoot|caption|h[1-6]|hr|section|main"
    "|article|aside|header|footer|nav|figure|figcaption|details|summary"
)
_INLINE = (
    "b|i|u|s|em|strong|span|small|big|sub|sup|font|tt|code|var|kbd|samp|cite|q|abbr|del|ins|dfn|mark|bdi|bdo|ruby|rb"
    "|rtc|time|data|wbr|strike|noinclude|onlyinclude|nobr|langconvert|phonos|translate|tvar|col|colgroup|nowiki|ref"
    "|references|gallery|pre|math|includeonly|table"
)

_EXTENSION = re.compile(rf"<(?:!--|((?i:{'|'.join(sorted(VERBATIM | DROPPED))}))(?=[\s/>])([^<>]*)>)")
_CLOSING = {name: re.compile(rf"</(?i:{name})\s*>") for name in VERBATIM | DROPPED}
_HIDDEN = re.compile(r"<(?i:(span|div))\s(?>[^<>]*?(?i:display\s*:\s*none))[^<>]*+>[^<]*+</(?i:\1)\s*>")
_BLOCK = re.compile(rf"</?(?i:{_BLOCKS})(?=[\s/>])[^<>]*>")
_INLINE_TAG = re.compile(rf"</?(?i:{_INLINE})(?=[\s/>])[^<>]*>")
_STRIPPED = re.compile(rf"{MARKER}(\d+){MARKER}")


def take_out_extensions(text: str) -> tuple[str, list[str]]:
    """Remove comments and extension tags; return the text with strip markers and what they stand for.

    Linear in the text: a name whose closing tag was once not found is not looked for again.
    """
    kept: list[str] = []
    if "<" not in text:
        return text, kept
    pieces: list[str] = []
    unclosed: set[str] = set()
    position = 0
    while found := _EXTENSION.search(text, position):
        pieces.append(text[position : found.start()])
        position = found.end()
        if found[1] is None:
            end = text.find("-->", position)
            position = len(text) if end < 0 else end + 3
            continue
        name = found[1].lower()
        if found[2].endswith("/") or name in unclosed:
            continue
        closing = _CLOSING[name].search(text, position)
        if closing is None:
            unclosed.add(name)  # MediaWiki shows such a tag as it is; without the tag its text stays
            continue
        if name in VERBATIM:
            pieces.append(f"{MARKER}{len(kept)}{MARKER}")
            kept.append(_as_shown(name, text[position : closing.start()]))
        position = closing.end()
    pieces.append(text[position:])
    return "".join(pieces), kept


def _as_shown(name: str, content: str) -> str:
    if name in FORMULAS:
        return f"${content.strip()}$"
    if name in ("pre", "syntaxhighlight", "source"):
        content = content.strip("\n")
    return unescape(content)


def put_back(text: str, kept: list[str]) -> str:
    """Replace strip markers by what they stand for."""
    if not kept:
        return text
    return _STRIPPED.sub(lambda found: kept[int(found[1])], text)


def drop_html(text: str) -> str:
    """Remove HTML tags and keep their text: a block's tag becomes a line break, unknown tags stay as they are."""
    if "<" not in text:
        return text
    if "display" in text:
        text = _HIDDEN.sub("", text)
    return _INLINE_TAG.sub("", _BLOCK.sub("\n", text))
