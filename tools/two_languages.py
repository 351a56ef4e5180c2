"""Sentences in two languages that a small grammar makes, for docs/continual.md: `python -m tools.two_languages text`.

Real words in made-up sentences: enough for a tiny model to learn, and to forget.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import run_command
from nemo_workflow.utils.files import written_aside

ENGLISH = {
    "who": "the farmer, my brother, an old teacher, the tall sailor, her daughter, the young baker, a quiet child, our neighbour",
    "does": "carries, finds, paints, sells, repairs, hides, washes, remembers",
    "what": "a lamp, the red boat, an apple, two letters, the broken chair, some bread, a silver key, the map",
    "where": "near the river, behind the house, in the market, on the hill, at the station, under the bridge",
    "when": "in the morning, every day, before dinner, after the rain, in winter, on Sunday",
}
CHINESE = {
    "who": "农民, 我弟弟, 老教师, 高个子水手, 她女儿, 年轻的面包师, 安静的孩子, 我们的邻居",
    "does": "带来, 找到, 画了, 卖掉, 修理, 藏起, 清洗, 记得",
    "what": "一盏灯, 红色的船, 苹果, 两封信, 坏椅子, 面包, 银钥匙, 地图",
    "where": "在河边, 在房子后面, 在市场, 在山上, 在车站, 在桥下",
    "when": "早上, 每天, 晚饭前, 雨后, 冬天, 星期天",
}
SENTENCES = 12  # in a document
Words = Callable[[str], str]


def english(word: Words) -> str:
    """A sentence."""
    said = f"{word('who')} {word('does')} {word('what')} {word('where')} {word('when')}"
    return f"{said[0].upper()}{said[1:]}. "


def chinese(word: Words) -> str:
    """A sentence with the same parts."""
    return f"{word('when')}{word('who')}{word('where')}{word('does')}{word('what')}。"


LANGUAGES = {"english": (ENGLISH, english), "chinese": (CHINESE, chinese)}


def main() -> int:
    """Write NAME.jsonl and NAME_held_out.jsonl for each language."""
    parser = Parser(prog="python -m tools.two_languages", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder to write")
    parser.add_argument("--documents", type=int, default=3000, help="of each language (default %(default)s)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in LANGUAGES:
        write(arguments.folder / f"{name}.jsonl", name, arguments.documents, seed=1)
        write(arguments.folder / f"{name}_held_out.jsonl", name, max(20, arguments.documents // 20), seed=2)
    return 0


def write(path: Path, language: str, documents: int, seed: int) -> None:
    """JSON lines with the same text for the same seed."""
    words, sentence = LANGUAGES[language]
    parts = {part: listed.split(", ") for part, listed in words.items()}
    chance = random.Random(seed)
    with written_aside(path) as stream:
        for _ in range(documents):
            text = "".join(sentence(lambda part: chance.choice(parts[part])) for _ in range(SENTENCES))
            stream.write(json.dumps({"text": text.strip()}, ensure_ascii=False) + "\n")
    print(path)


if __name__ == "__main__":
    run_command(main)
