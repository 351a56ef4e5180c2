"""The wikitext of our own tests and made-up pages through the cleaner and through the libraries that are kept.

    python benchmarks/wikitext_cases.py --write FOLDER          cases and pages as JSON
    PYTHON benchmarks/wikitext_cases.py --read FOLDER --tool cleaner|mwparserfromhell|wikitextprocessor

PYTHON is one that has the library. Printed: how many of the cases' texts are right (white space counts for nothing), and
millions of characters of the pages a CPU-second.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SECONDS = 15.0  # of CPU for the slow ones


def write(folder: Path) -> None:
    from tests.wikipedia.generator import pages
    from tests.wikipedia.test_wikitext import CASES

    (folder / "cases.json").write_text(json.dumps(list(CASES.values())), encoding="utf-8")
    (folder / "pages.json").write_text(json.dumps([page.text for page in pages(400, seed=3)]), encoding="utf-8")


def cleaner() -> Callable[[str], str]:
    from nemo_workflow.wikipedia.wikitext.cleaner import Cleaner

    return Cleaner().clean


def mwparserfromhell() -> Callable[[str], str]:
    import mwparserfromhell

    return lambda text: str(mwparserfromhell.parse(text).strip_code())


def wikitextprocessor() -> Callable[[str], str]:
    """It parses; the text of the tree is taken here in the plainest way."""
    from wikitextprocessor import Wtp

    parser = Wtp()

    def text_of(node: Any) -> str:
        if isinstance(node, str):
            return node
        kind = str(node.kind)
        if "TEMPLATE" in kind or "TABLE" in kind:
            return ""
        children = (node.args[-1:] or [[]])[0] if "LINK" in kind or "URL" in kind else node.children
        return "".join(map(text_of, children))

    def clean(text: str) -> str:
        parser.start_page("page")
        return text_of(parser.parse(text))

    return clean


TOOLS = {"cleaner": cleaner, "mwparserfromhell": mwparserfromhell, "wikitextprocessor": wikitextprocessor}


def measure(folder: Path, tool: str) -> None:
    clean = TOOLS[tool]()
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    right = sum(clean(wikitext).split() == text.split() for wikitext, text in cases)
    characters, began = 0, time.process_time()
    for page in json.loads((folder / "pages.json").read_text(encoding="utf-8")):
        clean(page)
        characters += len(page)
        if time.process_time() - began > SECONDS:
            break
    speed = characters / (time.process_time() - began) / 1e6
    print(f"| {tool} | {right} of {len(cases)} | {speed:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, metavar="FOLDER")
    parser.add_argument("--read", type=Path, metavar="FOLDER")
    parser.add_argument("--tool", choices=tuple(TOOLS))
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if args.write:
        write(args.write)
    if args.read and args.tool:
        measure(args.read, args.tool)


if __name__ == "__main__":
    main()
