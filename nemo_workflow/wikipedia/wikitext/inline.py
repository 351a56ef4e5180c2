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
_LANG = re.compile(r"(?:lang|link|ilh|tl)-[a-z]{2,4}(?:-[a-z]+)*|ipa-[a-z]{2,4}|ill?m?|interlanguage link(?: multi)?")
_TEXT = re.compile(r"[^\W_][\w .,'’–−+/%°:()-]*|[\d.,−+-]+")
# Templates whose only argument is no text of the sentence.
_SILENT = re.compile(
    r"(?:cit|ref|oclc|issn|isbn|doi|hdl|pmid|imdb|dmoz|icd|osm|inflation|goodreads|worldcat|official|sfn|efn|harv|note|see|main|further|about|for$|redirect|flagicon|image|file|anchor|portal|commons"
    r"|stub|nav|infobox|authority|rp$|r$|who|when|what|why|where|which|by whom|cn$|fact|clarify|dubious|vague|update|dead"
    r"|page|user|ping|template|speed|delete|cleanup|pov|disputed|better|specify|verify|failed|color box|legend|increase"
    r"|decrease|steady|hs$|sort|dts|ntsh|toc|clear|-$|short desc|use |good article|featured|pp|lead|unref|original|need"
    r"|default|display|italic title|lowercase|taxobox|audio|listen|ipac|respell|gallery|category|wikt|section|end|begin|date$|wikipedia |[\w ]+ in topic$)"
)
_UNITS = {
    "sqmi": "sq mi",
    "sqkm": "km²",
    "km2": "km²",
    "m2": "m²",
    "m3": "m³",
    "km3": "km³",
    "C": "°C",
    "F": "°F",
    "C-change": "°C",
    "F-change": "°F",
}
_RANGES = {"-": "–", "–": "–", "to": " to ", "and": " and ", "x": " × ", "by": " by ", "or": " or ", "to(-)": " to "}
_FUNCTIONS = ("formatnum", "lc", "uc", "ucfirst", "lcfirst")
_SIGNS = {
    "nbsp": " ", "spaces": " ", "space": " ", "snd": " – ", "spnd": " – ", "spaced ndash": " – ", "ndash": "–", "–": "–",
    "mdash": "—", "—": "—", "!": "|", "=": "=", "·": " · ", "dot": " · ", "middot": " · ", "bull": " • ", "•": " • ",
    "'": "'", "'s": "'s", "' \"": "' \"", "thinsp": " ", "snds": " – ", "endash": "–", "--": "—", "emdash": "—", "mdashb": " — ",
    "half": "1/2", "co2": "CO2", "h2o": "H2O", "rs": "₹", "okina": "ʻ", "pi": "π", "circa": "c. ", "c.": "c. ",
}  # fmt: skip
_NOTES = {"flat": "♭", "b": "♭", "sharp": "♯", "#": "♯", "natural": "♮"}
_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_SHIPS = "uss hms ss rms mv hmas hmcs ins jds sms usns uscgc hmnzs"
_MONEY = {
    "$": "$",
    "a$": "A$",
    "aud": "A$",
    "€": "€",
    "us$": "US$",
    "usd": "US$",
    "gbp": "£",
    "£": "£",
    "eur": "€",
    "euro": "€",
    "inr": "₹",
    "jpy": "¥",
    "¥": "¥",
}


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
    spread = ("" if args[1].startswith("(") else "±") + args[1] if len(args) > 1 else ""  # 1.5(2) is written so
    return f"{args[0] if args else ''}{spread}{power}{' ' if unit else ''}{unit}"


def _fraction(args: list[str], _: dict[str, str]) -> str:
    whole = f"{args[0]} " if len(args) > 2 else ""
    return f"{whole}{args[-2]}/{args[-1]}" if len(args) > 1 else f"1/{args[0]}" if args else ""


def _nihongo(args: list[str], _: dict[str, str]) -> str:
    inside = ", ".join(text for text in args[1:3] if text)
    return f"{args[0]} ({inside})" if args and args[0] and inside else (args[0] if args else "") or inside


def _date(args: list[str], named: dict[str, str]) -> str:
    """{{birth date|1990|5|3}}: 3 May 1990; words are left as they stand."""
    if not all(map(str.isdecimal, args[:3])):
        return args[0]
    year, month, day = (*map(int, args[:3]), 0, 0)[:3]
    name = _MONTHS[month - 1] if 1 <= month <= 12 else ""
    return " ".join(str(part) for part in (day, name, year) if part)


def _as_of(args: list[str], named: dict[str, str]) -> str:
    return f"{'as' if named.get('lc') else 'As'} of {named.get('alt') or _date(args, named)}" if args else ""


def _ship(prefix: str) -> Shown:
    """{{USS|Hornet|CV-12|6}}: the third argument says what of it is shown."""

    def show(args: list[str], _: dict[str, str]) -> str:
        first, *more = (prefix, *args) if prefix else args
        name, number, style = (*more, "", "", "")[:3]
        shown = f"{first} {name}" if style not in ("1", "6") else name
        return f"{shown} ({number})" if number and style in ("", "1") else shown

    return show


def _written(args: list[str], named: dict[str, str]) -> str:
    """{{zh|t=…|p=…}}, {{Korean|hangul=…}}: a text in several scripts."""
    keys = ("c", "t", "s", "hangul", "hanja", "1", "p", "rr", "j", "w")
    return "; ".join([*args[:1], *(named[key] for key in keys if named.get(key))])


def _french_link(args: list[str], named: dict[str, str]) -> str:
    return named.get("texte") or named.get("fr") or (args[0] if args else "")


def _born_died(args: list[str], _: dict[str, str]) -> str:
    born, died = ("".join(args[at : at + 2]) for at in (0, 2))
    return f"（{born}－{died}）"


def _reading(args: list[str], _: dict[str, str]) -> str:
    return f"{args[0]}（{args[1]}）" if len(args) > 1 else "".join(args)


def _old_style(args: list[str], _: dict[str, str]) -> str:
    """{{OldStyleDate|2 February|1905|20 January}}"""
    day, year, old = (*args, "", "", "")[:3]
    return f"{day} [O.S. {old}] {year}".strip() if old else f"{day} {year}".strip()


def _place(args: list[str], named: dict[str, str]) -> str:
    """{{coord|13|19|N|169|9|W}}: 13°19′N 169°9′W; what is shown beside the page's title only is none of the sentence."""
    if named.get("display", "inline").startswith("t"):
        return ""
    signs, out, parts = "°′″", "", 0
    for word in args:
        if re.fullmatch(r"-?\d+(\.\d+)?", word) and parts < 3:
            out += word + signs[parts]
            parts += 1
        elif word in "NSEW" and parts:
            out, parts = f"{out}{word} ", 0
        else:
            break
    return out.strip() if out[-2:-1] in "EW" else _degrees(args)


def _degrees(args: list[str]) -> str:
    """{{coord|44.1|-87.9}}"""
    if len(args) < 2 or not all(re.fullmatch(r"-?\d+(\.\d+)?", word) for word in args[:2]):
        return ""
    halves = zip(args[:2], ("SN", "WE"), strict=True)
    return " ".join(f"{word.lstrip('-')}°{half[not word.startswith('-')]}" for word, half in halves)


def _height(args: list[str], named: dict[str, str]) -> str:
    return " ".join(f"{named[unit]} {unit}" for unit in ("m", "cm", "ft", "in") if named.get(unit))


def _after(sign: str) -> Shown:
    return lambda args, _: sign + (args[0] if args else "")


def _wrapped(marks: str) -> Shown:
    return lambda args, _: f"{marks[0]}{args[0]}{marks[1]}" if args else ""


def _century(args: list[str], _: dict[str, str]) -> str:
    """French {{s|XIX|e}}; elsewhere a short text."""
    if args and re.fullmatch(r"[IVX]+", args[0]):
        return f"{args[0]}{args[1] if len(args) > 1 else 'e'} siècle"
    return args[0] if args else ""


def _chemical(args: list[str], _: dict[str, str]) -> str:
    """{{chem|SO|4|2-}}: the charge at the end is raised."""
    *parts, end = args or [""]
    charge = f"^({end})" if parts and re.fullmatch(r"\d*[-+−]", end) else end
    return "".join((*parts, charge))


def _language(args: list[str], named: dict[str, str]) -> str:
    return named.get("text") or _argument(2)(args, named)


def _tag(name: str) -> Shown:
    return lambda args, _: f"<{name}>{args[0]}</{name}>" if args else ""


def _table() -> dict[str, Shown]:
    first, second, last = _argument(1), _argument(2), lambda args, _: args[-1] if args else ""
    names: dict[Shown, str] = {
        first: (
            "nowrap nobr nobreak abbr tooltip abbrlink small smaller big larger em strong italic bold strike underline "
            "kbd code tt var mono samp smallcaps sc math mvar unicode le 仮リンク "
            "flag flagcountry flagu flaglist nts vanchor visible_anchor not_a_typo proper_name ruby ruby-ja plainlist flatlist "
            "chem2 ce xt !xt tq nbr abbreviation center centre midsize nastaliq noitalic höhe sclass не_переведено нп5 нп4 нп3 нп"
        ),
        second: "w color script colored_link textcolor wikt-lang native_name internal_link_helper",
        _language: "lang langx llang rtl-lang",
        last: "transl transliteration font_color resize fontcolor ipa sort",
        _chemical: "chem",
        _joined(""): "linktext gaps sic",
        _joined(", "): "ubl unbulleted_list hlist plain_list vunblist",
        _joined(" "): "sortname bibleverse date nombre unité unidad num число",
        _joined("+"): "keypress key_press keys",
        _quote: (
            "quote quotation blockquote cquote quote_box rquote block_quote citation citation_bloc cita cita_destacada zitat "
            "citazione cytat citaat quote_frame"
        ),
        _date: (
            "birth_date death_date birth-date death-date start_date end_date start-date end-date birth_date_and_age "
            "death_date_and_age start_date_and_age film_date dts dob"
        ),
        _as_of: "as_of",
        _ship(""): "ship",
        _written: "zh lang-zh korean zh-cn",
        _french_link: "lien",
        _born_died: "bd",
        _reading: "読み仮名 ruby-text",
        _height: "height",
        _old_style: "oldstyledate oldstyledatedy oldstyledateny old_style_date",
        _place: "coord coor",
        _convert: "convert cvt",
        _number: "val m",
        _fraction: "frac sfrac fraction",
        _nihongo: "nihongo",
        _tag("sup"): "sup",
        _tag("sub"): "sub",
    }
    made = {name.replace("_", " "): show for show, words in names.items() for name in words.split()}
    made |= {name: _after(sign) for name, sign in _MONEY.items()}
    made |= {name: _ship(name.upper()) for name in _SHIPS.split()}
    made |= {name: _after("×10^") for name in ("e", "10^")}
    made |= {name: _after("√") for name in ("sqrt", "radic")}
    made |= {name: _after(f"{name[:2]}. ") for name in ("floruit", "fl.", "fl")} | {"exp": _after("e^")}
    made |= {name: _wrapped(marks) for name, marks in {"abs": "||", '"': "“”", "qi": "“”"}.items()}
    made |= dict.fromkeys(("s", "s-", "sp", "sp-"), _century)
    made["music"] = lambda args, _: _NOTES.get(args[0].lower(), args[0]) if args else ""
    made |= {"us patent": _after("U.S. patent "), "vol.": _after("vol. ")}
    made["reign"] = lambda args, _: f"r. {'–'.join(args[:2])}" if args else ""
    made["tsl"] = lambda args, _: next((text for text in (*args[3:4], *args[2:3], *args[1:2]) if text), "")
    return made


_TABLE = _table()
_IN_SENTENCES = ("coord", "coor")  # on a line of their own they belong to the page's head


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
        return show(*_arguments(rest)) if within_line or _low(head) not in _IN_SENTENCES else ""
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
        show = _in_language
        if name.startswith(("link", "ilh")):
            show = _translated
        elif name.startswith("il"):
            show = _other_wiki
    if show is not None:
        return _Kind.TABLE, show
    return _Kind.OTHER, _in_language


def _low(head: str) -> str:
    """A template's name as the tables write it."""
    return head.strip().replace("_", " ").lower()


def _in_language(args: list[str], named: dict[str, str]) -> str:
    return named.get("lt") or named.get("text") or (args[0] if args else "")


def _other_wiki(args: list[str], named: dict[str, str]) -> str:
    """{{ill|Text|de|Title}}, and as it was written before 2016: {{ill|de|Text|Title}}."""
    if len(args) > 2 and re.fullmatch(r"[a-z]{2,3}", args[0]) and not re.fullmatch(r"[a-z]{2,3}", args[1]):
        return args[1]
    return _in_language(args, named)


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
