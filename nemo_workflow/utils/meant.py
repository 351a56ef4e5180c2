"""What a word was meant for that a command doesn't know: a flag under another tool's name, one mistyped, one of another case."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

# difflib's ratio of two names without their dashes, from which one may stand for the other: of our flags, and of other tools' words
ALIKE, ALIKE_ELSEWHERE = 0.7, 0.85
# a secret, which must not be led to another flag, such as --hf-tokenizer
OF_THE_HUB = re.compile(
    r"--((hf|hub|hf-hub|huggingface)-?)?(tok|toke|token|tokn|tokens|tokne|auth)(-file)?", re.IGNORECASE
)
SHORT = 8  # letters with the dashes: of no more, one other makes another word, such as dpo of dp
MUCH_FURTHER = 0.15  # of that ratio


def called(names: Mapping[str, str], said: Mapping[str, str] | None = None) -> dict[str, str]:
    """The meanings of a parser from tables: our flag -> what other tools call it, and `said`: others' words -> what to say to them.

    Words stand without their hyphens, several with blanks between.
    """
    meant = {f"--{word}": f"did you mean {flag}?" for flag, words in names.items() for word in words.split()}
    return meant | {f"--{word}": text for words, text in (said or {}).items() for word in words.split()}


def meant(flag: str, known: Iterable[str], meanings: Mapping[str, str]) -> str:
    """What to say to a flag with hyphens that is none of `known`, such as 'did you mean --X?'; empty where nothing is like it.

    First what other tools call ours, then another case or a beginning of one, then the nearest spelling of either; of a
    name with dots (`optimizer.lr`) also its last part alone.
    """
    dashed = flag.lower() if flag.startswith("--") else f"-{flag.lower()}"  # -b as --b
    if said := meanings.get(flag) or meanings.get(dashed):
        return said
    ours = sorted(known)
    off = re.sub(r"^--(no|disable|without)-", "--", flag)
    if off != flag and off in ours:
        return f"{off} is off where it isn't given: leave both out"
    if OF_THE_HUB.fullmatch(flag) and f"{flag}s" not in ours:
        return "a token of the Hub is read from the environment's HF_TOKEN"
    same = next((name for name in ours if name.lower() == flag.lower()), "")
    if found := same or _begun(flag, ours) or _nearest(flag, ours, meanings):
        return meanings.get(found) or f"did you mean {found}?"
    last = flag.rpartition(".")[2]
    return meant(f"--{last}", ours, meanings) if last != flag else ""


def _begun(flag: str, ours: Iterable[str]) -> str:
    """The one flag that begins so, or the one with which all the others that do begin."""
    found = sorted((name for name in ours if name.startswith(flag)), key=len)
    return found[0] if found and flag.strip("-") and all(name.startswith(found[0]) for name in found) else ""


def _nearest(flag: str, ours: Iterable[str], meanings: Iterable[str]) -> str:
    """The one of ours, or of other tools' words, that is spelled most alike; of two that are as near ours."""
    name = flag.strip("-")
    names = {one.strip("-"): one for one in ours}
    words = {one.strip("-"): one for one in meanings if one.startswith("--") and " " not in one and len(one) > SHORT}
    close = difflib.get_close_matches(name, _of_number(name, names), n=1, cutoff=ALIKE)
    close += difflib.get_close_matches(name, _of_number(name, words), n=1, cutoff=ALIKE_ELSEWHERE)
    best = max(close, key=lambda one: difflib.SequenceMatcher(None, one, name).ratio(), default="")
    return names.get(best) or words.get(best, "")


def _of_number(name: str, known: Iterable[str]) -> list[str]:
    """Those that have the digits of a name that has any."""
    return [one for one in known if digits(name) in ("", digits(one))]


def digits(name: str) -> str:
    """A beta3 is no beta2."""
    return re.sub(r"\D", "", name)


def close_to(word: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """Up to three of `known` that look like a word, the nearest first; none that is much further off than the nearest."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=cutoff)
    ratios = [difflib.SequenceMatcher(None, name, word).ratio() for name in close]
    return [name for name, ratio in zip(close, ratios, strict=True) if ratio > ratios[0] - MUCH_FURTHER]
