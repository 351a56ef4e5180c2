"""Comments, extension tags and HTML in wikitext.

The order is MediaWiki's own (https://www.mediawiki.org/wiki/Manual:Parser): comments and extension tags go first,
because nothing inside them is markup; what must come back unchanged waits behind a strip marker.
"""

from __future__ import annotations

import re
from html import unescape
from html.entities import html5

from nemo_workflow.wikipedia.wikitext.nested import GONE

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
_MAY_HIDE = (
    "span",
    "div",
    "p",
    "b",
    "i",
    "small",
    "sup",
    "sub",
    "li",
    "em",
    "strong",
    "font",
    "center",
    "section",
    "abbr",
    "cite",
)
_HIDDEN = re.compile(rf"<(?i:({'|'.join(_MAY_HIDE)}))\s(?>[^<>]*?(?i:display\s*:\s*none))[^<>]*+>")
_PAIRED = {name: re.compile(rf"<(/?)(?i:{name})(?=[\s/>])[^<>]*>") for name in _MAY_HIDE}
_CODE = re.compile(r"<(?i:code|tt|kbd|samp)(?=[\s>])[^<>]*(?<!/)>(.*?)</(?i:code|tt|kbd|samp)\s*>", re.DOTALL)
CODE = "\x02", "\x03"  # round what is code, until the text is tidied
_RAISED = re.compile(r"<(?i:(su[pb]))(?=[\s>])[^<>]*>((?:[^<>]|<(?!/?(?i:su[pb]))[^<>]*>)*+)</(?i:\1)\s*>")
_ANY_TAG = re.compile(r"<[^<>]*>")
_LOOK_BACK = 40  # characters in which the tag before a raised text begins
_TERM = re.compile(r"[-−+]?\w+")
_TERMS = re.compile(r"\w+(?:[-−+,=/*]\w+)+")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
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
        else:
            pieces.append(GONE)
        position = closing.end()
    pieces.append(text[position:])
    return "".join(pieces), kept


def _as_shown(name: str, content: str) -> str:
    if name in FORMULAS:
        return f"${content.strip()}$"
    if name in ("syntaxhighlight", "source"):
        return content.strip("\n")
    return entities(content.strip("\n") if name == "pre" else content)


def entities(text: str) -> str:
    """Decode &name; and &#number; as MediaWiki does: html.unescape would also take &copy=1 and &ampx; for signs."""
    return _ENTITY.sub(_decoded, text)


def _decoded(found: re.Match[str]) -> str:
    entity = found[0]
    return unescape(entity) if entity[1] == "#" else html5.get(entity[1:], entity)


def put_back(text: str, kept: list[str]) -> str:
    """Replace strip markers by what they stand for."""
    if not kept:
        return text
    return _STRIPPED.sub(lambda found: kept[int(found[1])], text)


def drop_html(text: str) -> str:
    """Remove HTML tags and keep their text: a block's tag becomes a line break, unknown tags stay as they are.

    Raised and lowered text keeps a mark where it would be read as something else without; code is put between CODE.
    """
    if "<" not in text:
        return text
    if "display" in text:
        text = _drop_hidden(text)
    if "<su" in text or "<SU" in text:
        text = _RAISED.sub(_raised, text)
        if "<su" in text:  # 2^(2^2)
            text = _RAISED.sub(_raised, text)
    text = _CODE.sub(rf"{CODE[0]}\1{CODE[1]}", text)
    return _INLINE_TAG.sub("", _BLOCK.sub("\n", text))


def _drop_hidden(text: str) -> str:
    """Remove what is not displayed, with all tags in it."""
    out, position = [], 0
    while found := _HIDDEN.search(text, position):
        out.append(text[position : found.start()])
        position, depth = found.end(), 1
        for tag in _PAIRED[found[1].lower()].finditer(text, position):
            depth += -1 if tag[1] else 1
            if not depth:
                position = tag.end()
                break
        else:
            break
    return "".join((*out, text[position:]))


def _raised(found: re.Match[str]) -> str:
    """10<sup>23</sup> is 10^23, H<sub>2</sub>O is H2O, 5<sub>10</sub> is 5_10, x<sub>i+1</sub> is x_(i+1), 1<sup>st</sup> is 1st."""
    before = _character_before(found.string, found.start())
    kind, text = found[1].lower(), found[2].strip()
    if "<" in text:
        text = _ANY_TAG.sub("", text).strip()
    plain = (entities(text) if "&" in text else text).replace("−", "-")
    letters = bool(text) and text.isalpha()
    if not plain.isascii() or (before and letters and not before.isascii()):
        return text
    shown = text if _TERM.fullmatch(plain) else f"({text})"
    if kind == "sup":
        # an ordinal's letters, a sign of a note
        ordinal = (letters and len(text) > 1) or (text == "e" and before.isdigit()) or (text == "o" and before in "nN")
        if not before or not (before.isalnum() or before in ")]") or ordinal or text[:1] in "[(*†":
            return text
        return f"^{shown}"
    if before.isdigit() or (before.isalpha() and (letters or _TERMS.fullmatch(plain))):
        return f"_{shown}"
    return text


def _character_before(text: str, place: int) -> str:
    """The one that a reader sees before `place`, tags passed over; "" where there is none near."""
    for _ in range(3):
        if text[place - 1 : place] != ">":
            break
        place = text.rfind("<", max(0, place - _LOOK_BACK), place)
    return text[place - 1 : place] if place > 0 else ""
