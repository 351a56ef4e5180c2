"""Cut a long text where its tokens do not change, so that a document of any length is encoded in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

PIECE = 1_000_000  # characters
WINDOW = 400  # characters on each side of a cut that must encode alike with and without it
TRIES = 300
# A line break between a letter or mark and a letter; a blank between letters; a Chinese comma or stop between ideographs.
_PLACES = re.compile(
    r"(?<=[^\s])\n(?=[^\W\d_])|(?<=[^\W\d_]) (?=[^\W\d_])|(?<=[\u4e00-\u9fff])[\uff0c\u3002\u3001\uff1b\uff1a](?=[\u4e00-\u9fff])"
)

Encode = Callable[[str], list[int]]


def pieces(parts: Iterable[str], encode: Encode) -> Iterator[str]:
    """Texts whose token ids, one after the other, are those of the whole text (special tokens around it left out).

    `encode` is without special tokens. A cut is taken only where the text around it encodes to the same ids cut and
    uncut; pre-tokenizers look a few characters ahead, so that is where a difference would show. Where no such place is
    found (one endless word) the piece grows, in the end to the whole text: slower and larger, never different.
    """
    rest, wanted = "", 2 * PIECE
    for part in parts:
        rest += part
        while len(rest) >= wanted:
            cut = _find_cut(rest, encode)
            if cut is None:
                wanted = 2 * len(rest)
                break
            yield rest[: cut[0]]
            rest, wanted = rest[cut[1] :], 2 * PIECE
    if rest:
        yield rest


def _find_cut(text: str, encode: Encode) -> tuple[int, int] | None:
    """Where the left piece ends and the right one begins: the same place, or a blank apart."""
    for count, found in enumerate(_PLACES.finditer(text, PIECE, len(text) - WINDOW)):
        if count == TRIES:
            break
        at = found.start()
        if found.group() == "\n":
            options = [(at + 1, at + 1)]
        elif found.group() == " ":
            options = [(at, at), (at, at + 1)]  # SentencePiece puts the blank back in front of every text
        else:
            options = [(at, at)]
        window = text[at - WINDOW : at + WINDOW]
        whole = encode(window)
        for end, begin in options:
            if encode(text[at - WINDOW : end]) + encode(text[begin : at + WINDOW]) == whole:
                return end, begin
    return None
