"""What is left once the markup is resolved: headings, list items and paragraphs, one per line."""

from __future__ import annotations

import re
from functools import partial

from nemo_workflow.wikipedia.wikitext.nested import GONE
from nemo_workflow.wikipedia.wikitext.tags import CODE

_HOLLOW = " ,，;；、:：" + GONE  # what stays inside brackets when a template between them goes
_CODE_SPAN = re.compile(f"({CODE[0]}[^{CODE[0]}{CODE[1]}]*{CODE[1]})")
# Only brackets out of which something was taken are tidied: the pair, else what begins or ends in it.
_BRACKETS = [
    (
        opening,
        closing,
        re.compile(rf"\{opening}([^{opening}{closing}\n]*{GONE}[^{opening}{closing}\n]*)\{closing}"),
        re.compile(rf"\{opening}[{_HOLLOW}]*{GONE}[{_HOLLOW}]*"),
        re.compile(rf"{GONE}[{_HOLLOW}]*\{closing}"),
    )
    for opening, closing in (("(", ")"), ("（", "）"))
]
_SPACE_BEFORE = {mark: re.compile(rf" {re.escape(mark)}(?=[\s\u3000-\uffff]|$)") for mark in ",.;，。；、"}
_ARGUMENT = re.compile(r"\|\s*[\w -]{1,40}=")
_BLANK = f" \t\r\f\v\xa0\u3000{GONE}"
_MARKED = frozenset("=*#:;|!{}-")


def tidy(text: str) -> str:
    """Mend what removed templates and references leave behind: empty brackets, doubled spaces, a space before a stop.

    Code, between the two marks, is left as it is.
    """
    if CODE[0] not in text:
        return _tidied(text.replace(CODE[1], ""))
    # tidied as one text, with a mark for each span of code, so that what stands beside it is seen
    spans: list[str] = []

    def hide(found: re.Match[str]) -> str:
        spans.append(found[0][1:-1].replace(GONE, ""))
        return CODE[0]

    text = _tidied(_CODE_SPAN.sub(hide, text).replace(CODE[1], ""))
    pieces = iter(spans)
    return re.sub(CODE[0], lambda _: next(pieces, ""), text)


def _tidied(text: str) -> str:
    if GONE in text:
        for opening, closing, pair, start, end in _BRACKETS:
            if opening in text:
                text = pair.sub(partial(_bracketed, opening=opening, closing=closing), text)
                text = _ended(start.sub(opening, text), end, closing)
        text = text.replace(GONE, "")
    while "  " in text:
        text = text.replace("  ", " ")
    for mark, pattern in _SPACE_BEFORE.items():
        if f" {mark}" in text:
            text = pattern.sub(mark, text)
    return text


def _ended(text: str, end: re.Pattern[str], closing: str) -> str:
    """Without what is hollow before a closing bracket; a pattern that began with it would try every space of the text."""
    out: list[str] = []
    position = 0
    for found in end.finditer(text):
        out += text[position : found.start()].rstrip(_HOLLOW), closing
        position = found.end()
    return "".join((*out, text[position:])) if out else text


def _bracketed(found: re.Match[str], opening: str, closing: str) -> str:
    kept = found[1].strip(_HOLLOW)
    return f"{opening}{kept}{closing}" if kept else ""


def lay_out(text: str) -> str:
    """Turn wikitext lines into plain ones: no list markers, no rules, a blank line round each heading, none doubled.

    A heading stays only if some text follows before the next heading of its level or above.
    """
    out: list[str] = []
    waiting: list[tuple[int, str]] = []  # headings whose sections have no text yet
    blank = in_table = False
    for raw in text.split("\n"):
        line = raw.strip(_BLANK)
        if not line:
            blank = True
            in_table = False
            continue
        if line[0] in _MARKED:
            if line[0] == line[-1] == "=" and (level := _level(line)):
                while waiting and waiting[-1][0] >= level:
                    waiting.pop()
                waiting.append((level, line[level:-level].strip()))
                continue
            if _is_row(line, in_table):
                in_table = True  # rows of a table whose start or end a template makes
                continue
            line = _without_marker(line)
        if len(line) < 3 and not any(map(str.isalnum, line)):
            continue  # the full stop after a template that stood alone
        if waiting:
            for _, title in waiting:
                out += ("", title) if out else (title,)
            waiting.clear()
            blank = True
        if blank and out:
            out.append("")
        blank = False
        out.append(line)
    return "\n".join(out)


def _is_row(line: str, in_table: bool) -> bool:
    """Whether a line is of a table, or an argument of a template that never ends; |x| may begin a sentence."""
    if line.startswith(("{|", "|-", "|}", "|+")) or (in_table and line[0] in "|!"):
        return True
    return line[0] == "|" and ("||" in line or _ARGUMENT.match(line) is not None)


def _level(line: str) -> int:
    """How many equals signs, at most six, stand at both ends round some text; 0 for a line of nothing else."""
    left = len(line) - len(line.lstrip("="))
    right = len(line) - len(line.rstrip("="))
    return min(left, right, 6) if left < len(line) else 0


def _without_marker(line: str) -> str:
    """The text of a list item (a defined term and its definition become two lines) or of a line after a rule."""
    if line[0] in "*#:;":
        text = line.lstrip("*#:; \t")
        if ";" in line[: len(line) - len(text)]:
            term, colon, definition = text.partition(":")
            if colon and not definition.startswith("//"):
                return f"{term.rstrip()}\n{definition.lstrip()}"
        return text
    return line.lstrip("-").lstrip() if line.startswith("----") else line
