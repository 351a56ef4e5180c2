"""Pairs of brackets that nest: each pair replaced from the inside out, in time linear in the text."""

from __future__ import annotations

from collections.abc import Callable

GONE = "\x04"  # stands where something was removed, until the text is tidied; no page may hold it
DEEPEST = 20  # what lies deeper stays as it is: a bound keeps the time linear


def replace_pairs(text: str, opening: str, closing: str, shown: Callable[[str], str]) -> str:
    """Replace each `opening` … `closing` by `shown(what is between)`; brackets without a partner stay."""
    first, *pieces = text.split(opening)
    if not pieces:
        return text
    out = [first]
    opened: list[int] = []  # where in `out` each open bracket stands
    for piece in pieces:
        head, closed, rest = piece.partition(closing)
        if closed and closing not in rest:  # nothing nests in it
            out.append(shown(head))
            out.append(rest)
            continue
        if len(opened) < DEEPEST:
            opened.append(len(out))
        out.append(opening)
        out.append(head)
        for tail in rest.split(closing) if closed else ():
            if opened:
                start = opened.pop()
                body = "".join(out[start + 1 :])
                del out[start:]
                out.append(shown(body))
            else:
                out.append(closing)
            out.append(tail)
    return "".join(out)
