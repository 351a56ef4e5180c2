"""What is left once the markup is resolved: headings, list items and paragraphs, one a line."""

from __future__ import annotations

import re

_HOLLOW = " ,，;；、:："  # what stays inside brackets when a template between them goes
_HOLLOW_START = {"(": re.compile(rf"\([{_HOLLOW}]+"), "（": re.compile(rf"（[{_HOLLOW}]+")}
_EMPTY = re.compile(r"\(\)(?<=[ \n]\(\)|[^\x00-\x7f]\(\))")  # not the brackets of a function's name
_SPACES = re.compile("   *")
_SPACE_BEFORE = {mark: re.compile(rf" {re.escape(mark)}(?=[\s\u3000-\uffff]|$)") for mark in ",.;，。；、"}
_MARKED = frozenset("=*#:;|!{}-")


def tidy(text: str) -> str:
    """Mend what removed templates and references leave behind: empty brackets, doubled spaces, a space before a stop."""
    for opening, closing in ("()", "（）"):
        if opening in text:
            text = _HOLLOW_START[opening].sub(opening, text)
            *pieces, last = text.split(closing)
            text = "".join([piece.rstrip(_HOLLOW) + closing for piece in pieces] + [last])
    if "()" in text:
        text = _EMPTY.sub("", text)
    if "（）" in text:
        text = text.replace("（）", "")
    if "  " in text:
        text = _SPACES.sub(" ", text)
    for mark, pattern in _SPACE_BEFORE.items():
        if f" {mark}" in text:
            text = pattern.sub(mark, text)
    return text


def lay_out(text: str) -> str:
    """Turn wikitext lines into plain ones: no list markers, no rules, a blank line round each heading, none doubled.

    A heading stays only if some text follows before the next heading of its level or above.
    """
    out: list[str] = []
    waiting: list[tuple[int, str]] = []  # headings whose sections have no text yet
    blank = in_table = False
    for raw in text.split("\n"):
        line = raw.strip()
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
            if line[0] == "|" or line.startswith("{|") or (in_table and line[0] == "!"):
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
