"""What a text program, a web page or Windows makes of a command that is pasted from it: dashes, quotes and blanks that a shell takes for letters."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
QUOTES = "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb\u2039\u203a"
BLANKS = "\u00a0\u2002\u2003\u2007\u2009\u200a\u200b\u202f\u2060\u3000\ufeff"
FOREIGN = re.compile(f"[{DASHES}{BLANKS}]")
QUOTES_SAID = "quotes of a text program, such as “ and ”, are letters to the shell"
FLAG = re.compile(rf"[-{DASHES}]+([A-Za-z][\w.\-{DASHES}]*)(?:([={BLANKS}]+)(.*))?", re.DOTALL)


def flag_problem(word: str, after: str, known: Collection[str], secret: Collection[str]) -> str | None:
    """The refusal of a word that is a flag of `known` but for its characters, with what to type; `after` is the next word."""
    found = FLAG.fullmatch(word)
    if not found:
        return None
    name, value = found[1], found[3] or ""
    spelled = re.sub(f"[{DASHES}_]", "-", name)
    ours = next((flag for flag in (f"--{spelled}", f"-{name}") if flag in known), None)
    foreign = FOREIGN.findall(word[: len(word) - len(value)])
    if ours is None or not foreign:
        return None
    shown = "***" if ours in secret else as_typed(value or after)
    return f"{word if ours not in secret else ours}: holds {named(foreign)}, as text programs put it; type {f'{ours} {shown}'.rstrip()}"


def value_problem(flag: str, value: str) -> str | None:
    """The refusal of a flag's value in foreign quotes, or with a blank that the shell doesn't know, which names no file."""
    quoted = in_quotes([value])
    blanks = [sign for sign in value if sign in BLANKS + "\r"]
    if not (blanks or quoted) or Path(value).exists():
        return None
    if value[-1] == "\r":
        rest = plain(value)
        return f"{flag} {rest}: a carriage return follows, as in files of Windows: take it out of the script, sed -i 's/\\r$//' SCRIPT"
    foreign = [*([value[0], value[-1]] if quoted else []), *blanks]
    return f"{flag} {value}: holds {named(foreign)}, as text programs put it; type {flag} {as_typed(value)}"


def in_quotes(words: Sequence[str]) -> str:
    """Words between foreign quotes, which the shell took for letters, as they are to be typed; empty for any others."""
    first = next((at for at, word in enumerate(words) if word[:1] and word[0] in QUOTES), None)
    last = next((at for at in range(first or 0, len(words)) if words[at][-1:] and words[at][-1] in QUOTES), None)
    if first is None or last is None:
        return ""
    return f'"{plain(" ".join(words[first : last + 1]))}"'


def with_hyphens(word: str) -> str:
    """A word that begins with a foreign dash, as a flag."""
    return re.sub(rf"^-?[{DASHES}]-?(?=[A-Za-z])", "--", word)


def named(signs: Collection[str]) -> str:
    """'an EN DASH (U+2013)', each sign once."""
    names = [f"{unicodedata.name(sign, 'CARRIAGE RETURN')} (U+{ord(sign):04X})" for sign in dict.fromkeys(signs)]
    return " and ".join(f"{'an' if name[0] in 'AEIOU' else 'a'} {name}" for name in names)


def as_typed(value: str) -> str:
    """A value as it is typed for the shell; empty for a word that is a flag."""
    return "" if with_hyphens(value)[:1] in ("-", "") else shlex.quote(plain(value))


def plain(value: str) -> str:
    """A value without foreign quotes around it, and without blanks at its ends."""
    return value.strip(QUOTES + BLANKS + "\r")
