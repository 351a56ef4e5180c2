"""Language variants in wikitext, -{zh-hans:…; zh-hant:…}- (https://www.mediawiki.org/wiki/Writing_systems/Syntax)."""

from __future__ import annotations

import re
from functools import partial
from urllib.parse import urlsplit

from nemo_workflow.wikipedia.wikitext.nested import replace_pairs

# Languages whose wikis convert between scripts; elsewhere x-{y}-z is text.
_CONVERTED = frozenset(
    ["zh", "gan", "wuu", "yue", "sr", "sh", "kk", "ku", "uz", "tg", "iu", "ike", "shi", "crh", "ban", "mni", "tly"]
)
TRADITIONAL = ("zh-hant", "zh-tw", "zh-hk", "zh-mo", "zh", "hant", "gan-hant", "wuu-hant")
SIMPLIFIED = ("zh-hans", "zh-cn", "zh-sg", "zh-my", "zh", "hans", "gan-hans", "wuu-hans")

_CODE = r"(?:zh|sr|sh|gan|wuu|kk|ku|uz|tg|iu|ike|shi|crh|ban|mni|tly)(?:-[a-z]+)*|han[st]"
_RULE = re.compile(rf"(?:^|;)\s*+(?:[^;:|]*=>)?\s*+({_CODE})\s*+:", re.IGNORECASE)
_FLAGS = re.compile(r"\s*(?:[A-Z+-]|" + _CODE + r")?(?:\s*;\s*(?:[A-Z+-]|" + _CODE + r"))*\s*")
_SILENT = frozenset("HTDN-")


def converts(url: str) -> bool:
    """Whether the wiki at this address, https://zh.wikipedia.org/wiki/, is of a language with variants; True if unknown."""
    language, dot, rest = (urlsplit(url).hostname or "").partition(".")
    return not dot or not rest.startswith("wik") or language.split("-")[0] in _CONVERTED


def resolve(text: str, preferred: tuple[str, ...]) -> str:
    """Replace every -{…}- by the text that a reader of the first available variant in `preferred` sees."""
    return replace_pairs(text, "-{", "}-", partial(_shown, preferred=preferred))


def _shown(body: str, preferred: tuple[str, ...]) -> str:
    flags: set[str] = set()
    head, bar, tail = body.partition("|")
    if bar and _FLAGS.fullmatch(head):
        flags = {flag.strip() for flag in head.split(";")}
        body = tail
    if flags & _SILENT:
        return ""
    if "R" in flags:
        return body
    rules = list(_RULE.finditer(body))
    if not rules:
        return body
    ends = [rule.start() for rule in rules[1:]] + [len(body)]
    texts: dict[str, str] = {}
    for rule, end in zip(rules, ends, strict=True):
        texts.setdefault(rule[1].lower(), body[rule.end() : end].strip().rstrip(";").strip())
    for code in preferred:
        if code in texts:
            return texts[code]
    return next(iter(texts.values()))
