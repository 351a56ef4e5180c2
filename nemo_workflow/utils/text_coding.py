"""What a text is coded in that is not UTF-8."""

from __future__ import annotations

import unicodedata


def coding_of(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by the byte order mark, or by the zero bytes among its first characters: those of a text and no others."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    if b"\0" not in head or len(head) < 4:
        return None
    usual = {name: _usual_share(head[: len(head) // 4 * 4], name) for name in _WITHOUT_MARK}
    best = max(usual, key=lambda name: usual[name])
    least = MOSTLY_USUAL if _text_but_for_zeros(head) else LEAST_USUAL
    return best if usual[best] > least else None


_WITHOUT_MARK = ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE")
LEAST_USUAL = 0.02  # of the characters of a text, Chinese too, that are letters of ASCII, blanks, line breaks or ，。、
MOSTLY_USUAL = 0.8  # the same of an English one


def _text_but_for_zeros(head: bytes) -> bool:
    """Whether the zero bytes are all that keeps a beginning from being UTF-8 without a control character."""
    text = head.replace(b"\0", b"").decode("utf-8", "replace")[:-1]  # the head may end within a character
    return "\ufffd" not in text and not any(character < " " and character not in "\n\r" for character in text)


def _usual_share(data: bytes, coding: str) -> float:
    """The share of the characters that every text has, read in a coding; 0 where they are none of a text."""
    try:
        text = data.decode(coding)
    except UnicodeDecodeError as error:
        # the head may end within a pair of surrogates
        if error.start < len(data) - 4 or not error.start:
            return 0.0
        text = data[: error.start].decode(coding)
    if any(
        unicodedata.category(character) in ("Cc", "Cn", "Co") and character not in "\t\n\r\f\ufeff"
        for character in text
    ):
        return 0.0
    usual = sum(character.isascii() or character in "\u3000\u3001\u3002\uff0c" for character in text)
    return usual / len(text)
