"""Templates, parser functions and tables: shown or removed whole, however deep they nest, in time linear in the text."""

from __future__ import annotations

import re

from nemo_workflow.wikipedia.wikitext import inline
from nemo_workflow.wikipedia.wikitext.nested import DEEPEST, GONE

_PARAMETER = re.compile(r"\{\{\{[^{}]*\}\}\}")
_TABLE = re.compile(r"\n[ \t:*#;\x04]*(\{\||\|\}(?!\}))")
_HTML_TABLE = re.compile(r"<(/?)(?i:table)(?=[\s/>])[^<>]*>")


def drop_templates(text: str) -> str:
    """Replace every {{…}} by what it shows in a sentence (inline), or by GONE; braces that have no partner stay as text, as
    MediaWiki leaves them."""
    if "{{" not in text:
        return text
    for _ in range(DEEPEST):
        if "{{{" not in text or (changed := _PARAMETER.sub("", text)) == text:
            break
        text = changed
    first, *rest = text.split("{{")
    out = [first]
    opened: list[int] = []  # where in `out` each open template began
    for piece in rest:
        head, closed, after = piece.partition("}}")
        if not closed:
            opened.append(len(out))
            out += "{{", piece
            continue
        out.append(inline.shown(head, _within_line(out[-1])) or GONE)  # nothing nests in it
        if "}}" not in after:
            out.append(after)
            continue
        after, *tails = after.split("}}")
        out.append(after)
        for tail in tails:
            if opened:
                start = opened.pop()
                out[start:] = [_shown(out, start)]
            else:
                out.append("}}")
            out.append(tail)
    return "".join(out)


def _shown(out: list[str], start: int) -> str:
    """What is to stand for the template that begins at `start`."""
    within_line = _within_line(out[start - 1])
    if inline.shows_nothing(out[start + 1], within_line):
        return GONE
    return inline.shown("".join(out[start + 1 :]), within_line) or GONE


def _within_line(before: str) -> bool:
    """Whether what follows `before` goes on with a sentence: a list's marker is none of it (links to data bases stand there)."""
    if before == "" or before[-1] == "\n":
        return False
    if before[-1] not in " *#:;":
        return True
    line = before.rfind("\n")
    return line < 0 or before[line + 1 :].strip(" *#:;") != ""


def drop_tables(text: str) -> str:
    """Remove {| … |} and <table> … </table>; an open table without an end loses its own rows only (see lines)."""
    if "{|" in text:
        text = _drop_pairs("\n" + text, _TABLE, opening="{|")
    if "<table" in text or "<TABLE" in text or "<Table" in text:
        text = _drop_pairs(text, _HTML_TABLE, opening="")
    return text


def _drop_pairs(text: str, token: re.Pattern[str], opening: str) -> str:
    """Remove what lies between an opening token (group 1 equals `opening`) and its partner."""
    out: list[str] = []
    opened: list[int] = []
    position = 0
    for found in token.finditer(text):
        out.append(text[position : found.start()])
        position = found.end()
        if found[1] == opening:
            opened.append(len(out))
            out.append(found[0])
        elif opened:
            del out[opened.pop() :]
            out.append("\n")
        else:
            out.append(found[0])
    out.append(text[position:])
    return "".join(out)
