"""What templates carry in the middle of a sentence: words, numbers, formulas. By a table, and by a rule for short texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum, auto
from functools import lru_cache

LONGEST = 20_000  # characters of a template that is looked into; infoboxes are dropped unread
LONGEST_GUESS = 40  # characters of the text of a template that the table does not know

Shown = Callable[[list[str], dict[str, str]], str]

_LINK = re.compile(r"\[\[[^\[\]]*\]\]")
_NAMED = re.compile(r"\s*([^\s=<>\[\]]{1,20})\s*=(?!=)")
_LANG = re.compile(r"(?:lang|link|ilh|tl)-[a-z]{2,4}(?:-[a-z]+)*|ill?m?")
_TEXT = re.compile(r"[^\W_][\w .,'’–−+/%°:()-]*|[\d.,−+-]+")
# Templates whose only argument is no text of the sentence.
_SILENT = re.compile(
    r"(?:cit|ref|sfn|efn|harv|note|see|main|further|about|for$|redirect|flagicon|image|file|anchor|portal|commons|coord"
    r"|stub|nav|infobox|authority|rp$|r$|who|when|what|why|where|which|by whom|cn$|fact|clarify|dubious|vague|update|dead"
    r"|page|user|ping|template|speed|delete|cleanup|pov|disputed|better|specify|verify|failed|color box|legend|increase"
    r"|decrease|steady|hs$|sort|dts|ntsh|toc|clear|-$|short desc|use |good article|featured|pp|lead|unref|original|need"
    r"|default|display|italic title|lowercase|taxobox|audio|listen|ipac|respell|gallery|category|wikt|section|end|begin|date$)"
)
_UNITS = {"sqmi": "sq mi", "sqkm": "km²", "km2": "km²", "m2": "m²", "m3": "m³", "km3": "km³", "C": "°C", "F": "°F"}
_RANGES = {"-": "–", "–": "–", "to": " to ", "and": " and ", "x": " × ", "by": " by ", "or": " or ", "to(-)": " to "}
_FUNCTIONS = ("formatnum", "lc", "uc", "ucfirst", "lcfirst")
_SIGNS = {
    "nbsp": " ", "spaces": " ", "space": " ", "snd": " – ", "spnd": " – ", "spaced ndash": " – ", "ndash": "–", "–": "–",
    "mdash": "—", "—": "—", "!": "|", "=": "=", "·": " · ", "dot": " · ", "middot": " · ", "bull": " • ", "•": " • ",
    "'": "'", "okina": "ʻ", "pi": "π", "circa": "c. ", "c.": "c. ",
}  # fmt: skip
_MONEY = {"us$": "US$", "usd": "US$", "gbp": "£", "£": "£", "eur": "€", "euro": "€", "inr": "₹", "jpy": "¥", "¥": "¥"}


def _argument(number: int) -> Shown:
    """The number-th argument, or the last one before it that is there."""
    return lambda args, _: next((text for text in reversed(args[:number]) if text), "")


def _joined(separator: str) -> Shown:
    return lambda args, _: separator.join(text for text in args if text)


def _quote(args: list[str], named: dict[str, str]) -> str:
    text = named.get("text") or named.get("quote") or (args[0] if args else "")
    return f"\n{text}\n" if text else ""


def _convert(args: list[str], _: dict[str, str]) -> str:
    """The value as it was written, without the one that the template works out."""
    out = ""
    for place, word in enumerate(args):
        if re.fullmatch(r"[\d.,/+−-]*\d[\d.,/+−-]*", word):
            out += word
        elif word in _RANGES and place + 1 < len(args) and re.match(r"[\d.−-]", args[place + 1]):
            out += _RANGES[word]
        else:
            return f"{out} {_UNITS.get(word, word)}" if out else word
    return out


def _number(args: list[str], named: dict[str, str]) -> str:
    """{{val|1.5|e=3|u=m}}"""
    power = f"×10^{named['e']}" if "e" in named else ""
    unit = named.get("u") or named.get("ul") or ""
    spread = f"±{args[1]}" if len(args) > 1 else ""
    return f"{args[0] if args else ''}{spread}{power}{' ' if unit else ''}{unit}"


def _fraction(args: list[str], _: dict[str, str]) -> str:
    whole = f"{args[0]} " if len(args) > 2 else ""
    return f"{whole}{args[-2]}/{args[-1]}" if len(args) > 1 else f"1/{args[0]}" if args else ""


def _nihongo(args: list[str], _: dict[str, str]) -> str:
    inside = ", ".join(text for text in args[1:3] if text)
    return f"{args[0]} ({inside})" if args and args[0] and inside else (args[0] if args else "") or inside


def _after(sign: str) -> Shown:
    return lambda args, _: sign + (args[0] if args else "")


def _tag(name: str) -> Shown:
    return lambda args, _: f"<{name}>{args[0]}</{name}>" if args else ""


def _table() -> dict[str, Shown]:
    first, second, last = _argument(1), _argument(2), lambda args, _: args[-1] if args else ""
    names: dict[Shown, str] = {
        first: (
            "nowrap nobr nobreak abbr tooltip abbrlink small smaller big larger em strong italic bold strike underline "
            "kbd code tt var mono samp smallcaps sc math mvar unicode ipa le 仮リンク interlanguage_link interlanguage_link_multi "
            "flag flagcountry flagu flaglist nts vanchor visible_anchor not_a_typo proper_name ruby ruby-ja plainlist flatlist "
            "chem2 ce xt !xt tq nbr"
        ),
        second: "lang langx w color script colored_link textcolor",
        last: "transl transliteration font_color resize fontcolor",
        _joined(""): "chem linktext gaps sic",
        _joined(", "): "ubl unbulleted_list hlist plain_list",
        _joined(" "): "sortname bibleverse uss hms as_of",
        _quote: "quote quotation blockquote cquote quote_box rquote block_quote",
        _convert: "convert cvt",
        _number: "val num",
        _fraction: "frac sfrac fraction",
        _nihongo: "nihongo",
        _tag("sup"): "sup",
        _tag("sub"): "sub",
    }
    made = {name.replace("_", " "): show for show, words in names.items() for name in words.split()}
    made |= {name: _after(sign) for name, sign in _MONEY.items()}
    made["tsl"] = lambda args, _: next((text for text in (*args[3:4], *args[2:3], *args[1:2]) if text), "")
    return made


_TABLE = _table()


def shown(body: str, within_line: bool) -> str:
    """What a reader sees of {{body}}, templates in it resolved; "" for those that show nothing in a sentence.

    `within_line`: text stands before it on its line.
    """
    if body[:1] == "#" or len(body) > LONGEST:
        return ""
    head, bar, rest = body.partition("|")
    if ":" in head:
        function, _, value = head.strip().replace("_", " ").partition(":")
        return _function(function.lower(), value) if function.lower() in _FUNCTIONS else ""
    kind, show = _known(head)
    if kind is _Kind.SIGN:
        return show([rest.partition("|")[0].strip()], {})
    if not bar:
        return ""
    if kind is _Kind.TABLE:
        return show(*_arguments(rest))
    return _guess(head, rest) if within_line and len(rest) <= 2 * LONGEST_GUESS else ""


def shows_nothing(begin: str, within_line: bool) -> bool:
    """Told from the beginning of a template with others in it: infoboxes are not put together to be dropped."""
    if begin[:1] == "#":
        return True
    head, bar, rest = begin.partition("|")
    if not bar or ":" in head:
        return False
    kind, _ = _known(head)
    return kind is _Kind.OTHER and not (within_line and len(rest) <= 2 * LONGEST_GUESS)


class _Kind(Enum):
    """What is known of a template by its name."""

    SIGN = auto()  # stands for a sign
    TABLE = auto()  # shows some of its arguments
    OTHER = auto()  # nobody listed it


@lru_cache(maxsize=1 << 14)  # names repeat, and there are some tens of thousands in the largest wikis
def _known(head: str) -> tuple[_Kind, Shown]:
    """What a template of this name, as it was written, shows."""
    name = _low(head)
    if name in _SIGNS:
        sign = _SIGNS[name]
        return _Kind.SIGN, _after(sign) if name in ("circa", "c.") else lambda args, _: sign
    show = _TABLE.get(name)
    if show is None and _LANG.fullmatch(name):
        show = _translated if name.startswith(("link", "ilh")) else _in_language
    if show is not None:
        return _Kind.TABLE, show
    return _Kind.OTHER, _in_language


def _low(head: str) -> str:
    """A template's name as the tables write it."""
    return head.strip().replace("_", " ").lower()


def _in_language(args: list[str], named: dict[str, str]) -> str:
    return named.get("lt") or (args[0] if args else "")


def _translated(args: list[str], named: dict[str, str]) -> str:
    return args[2] if len(args) > 2 else _in_language(args, named)


def _guess(head: str, rest: str) -> str:
    """A template that nobody listed: its one argument where that is a short text."""
    text = rest.strip()
    if "[[" in text:
        text = _LINK.sub(lambda link: link[0].strip("[]").rpartition("|")[2], text)
    if len(text) > LONGEST_GUESS or not _TEXT.fullmatch(text):
        return ""
    name = _low(head)
    return "" if len(name) < 2 or _SILENT.match(name) else rest.strip()


def _arguments(rest: str) -> tuple[list[str], dict[str, str]]:
    """Positional and named arguments; a bar within a link parts nothing."""
    links: list[str] = []

    def hide(found: re.Match[str]) -> str:
        links.append(found[0])
        return f"\x05{len(links) - 1}\x05"

    if "[[" in rest:
        rest = _LINK.sub(hide, rest)
    args: list[str] = []
    named: dict[str, str] = {}
    for part in rest.split("|"):
        found = _NAMED.match(part) if "=" in part else None
        text = part[found.end() :] if found else part
        if links:
            text = re.sub("\x05(\\d+)\x05", lambda place: links[int(place[1])], text)
        text = text.strip()
        if found is None or found[1] == str(len(args) + 1):
            args.append(text)
        else:
            named[found[1].lower()] = text
    return args, named


def _function(name: str, value: str) -> str:
    value = value.strip()
    if name == "formatnum":
        whole, dot, more = value.partition(".")
        digits = whole.lstrip("-−")
        if digits.isdecimal() and digits.isascii():
            whole = whole[: len(whole) - len(digits)] + f"{int(digits):,}"
        return whole + dot + more
    change = {"lc": str.lower, "uc": str.upper, "ucfirst": lambda text: text[:1].upper() + text[1:]}
    return change.get(name, lambda text: text[:1].lower() + text[1:])(value)
