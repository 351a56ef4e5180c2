"""UTF-16 and UTF-32, told by their bytes; what is neither: tests/preprocess/test_odd_inputs.py."""

from __future__ import annotations

import pytest

from nemo_workflow.utils.text_coding import coding_of

TEXTS = {
    "English": "The old house stood by the river.\nNobody lived in it.\n",
    "Chinese": "在山的那边，有一条河。河边住着一位老人，他每天都去钓鱼。",
    "Russian": "Старый дом стоял у реки. Никто в нём не жил.\n",
    "Arabic": "كان البيت القديم يقف بجانب النهر\n",
    "Hindi": "पुराना घर नदी के किनारे खड़ा था।\n",
    "emoji": "hello 😀 world\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_coding_is_told_without_a_mark(text: str) -> None:
    for coding in ("UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"):
        for end in (4096, 4094, 40):
            assert coding_of((200 * text).encode(coding)[:end]) == coding, end
    assert coding_of((200 * text).encode()) is None
