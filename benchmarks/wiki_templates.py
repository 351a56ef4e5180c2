"""What inline templates show in real wikitext: the cleaner and the kept libraries beside wtf_wikipedia, a reference of other people.

    npm install --prefix NODE wtf_wikipedia
    python -m venv OTHER && OTHER/bin/pip install mwparserfromhell wikitextprocessor gensim
    python benchmarks/wiki_templates.py --dump FILE… --node NODE --other-python OTHER/bin/python

FILE is a dump, packed with bzip2: gensim's package ships three in gensim/test/test_data (real pages of 2010 to 2014; nothing of
them is committed). Every template that stands in a sentence, outside of references, tables and other templates, is given to
each tool in a sentence of its own. Words are compared: numbers, words, and single Chinese characters, in any order, as often
as the template occurs. `--show N` prints the most frequent templates of which ours differs.
"""

from __future__ import annotations

import argparse
import bz2
import html
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEFORE, AFTER = "Alpha", "omega"
PAGE = re.compile(r"<page>.*?</page>", re.DOTALL)
TEXT = re.compile(r"<text[^>]*>(.*?)</text>", re.DOTALL)
HIDDEN = re.compile(r"<!--.*?-->|<ref[^>]*/>|<ref[\s>].*?</ref>|<(math|nowiki|source|pre|gallery)\b.*?</\1>", re.DOTALL)
WORD = re.compile(r"[\u3400-\u9fff]|[^\W_]+(?:[.,'’/·-][^\W_]+)*")
LONGEST = 2_000  # characters; what is longer is no part of a sentence

WTF = """
const found = require(require('module').createRequire(process.argv[1] + '/x').resolve('wtf_wikipedia'))
const wtf = found.default || found
const lines = require('fs').readFileSync(0, 'utf8').split('\\n').filter(Boolean)
for (const line of lines) console.log(JSON.stringify(wtf(JSON.parse(line)).text()))
"""
OTHERS = """
import json, sys
def mwparserfromhell(keep):
    import mwparserfromhell as library
    return lambda text: str(library.parse(text).strip_code(keep_template_params=keep))
def wikitextprocessor():
    from wikitextprocessor import Wtp
    parser = Wtp(quiet=True)
    def clean(text):
        parser.start_page('page')
        return parser.expand(text)
    return clean
def gensim():
    from gensim.corpora.wikicorpus import filter_wiki
    return filter_wiki
tool = {'mwparserfromhell': lambda: mwparserfromhell(False), 'mwparserfromhell, all arguments': lambda: mwparserfromhell(True),
        'wikitextprocessor': wikitextprocessor, 'gensim': gensim}[sys.argv[1]]()
for line in sys.stdin:
    print(json.dumps(tool(json.loads(line))))
"""
REFERENCE, OURS = "wtf_wikipedia", "the cleaner here"


def templates(text: str) -> Iterator[str]:
    """The outermost templates that stand in a sentence."""
    text = HIDDEN.sub("", text)
    depth = start = 0
    tables = 0
    for found in re.finditer(r"\{\{+|\}\}+|\n\{\||\n\|\}", text):
        token = found[0]
        if token.startswith("\n"):
            if not depth:
                tables += 1 if token == "\n{|" else -1
        elif token[0] == "{":
            if not depth:
                start = found.end() - 2
            depth += len(token) // 2
        else:
            depth -= len(token) // 2
            if depth <= 0 and start:
                whole = text[start : found.end()]
                line = text[text.rfind("\n", 0, start) + 1 : start]
                if (
                    tables <= 0
                    and len(whole) < LONGEST
                    and "|" in whole
                    and re.search(r"\w[^|]*$", line)
                    and line[0] not in "|!"
                ):
                    yield whole
                depth = start = 0


def pages(dumps: Iterable[Path]) -> Iterator[str]:
    for dump in dumps:
        with bz2.open(dump, "rt", encoding="utf-8", errors="replace") as stream:
            found = PAGE.findall(stream.read())
        for page in found:
            if "<redirect" not in page:
                yield from (html.unescape(text) for text in TEXT.findall(page))


def run(command: Sequence[str | Path], sentences: list[str]) -> list[str]:
    lines = "".join(json.dumps(each) + "\n" for each in sentences)
    done = subprocess.run(list(map(str, command)), input=lines, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return [json.loads(line) for line in done.stdout.splitlines()]


def ours(sentences: list[str]) -> list[str]:
    sys.path.insert(0, str(ROOT))
    from nemo_workflow.wikipedia.wikitext.cleaner import Cleaner

    return [Cleaner().clean(each) for each in sentences]


def words(text: str) -> Counter[str]:
    found = Counter(WORD.findall(html.unescape(text).replace("−", "-").lower()))
    for frame in (BEFORE, AFTER):
        found[frame.lower()] -= 1
    return +found


def score(reference: list[Counter[str]], made: list[Counter[str]], counts: list[int]) -> tuple[float, float, float]:
    """Precision and recall of words, and the share of templates with exactly the reference's."""
    both = sum(n * (a & b).total() for a, b, n in zip(reference, made, counts, strict=True))
    theirs, mine = (sum(n * each.total() for each, n in zip(side, counts, strict=True)) for side in (reference, made))
    same = sum(n for a, b, n in zip(reference, made, counts, strict=True) if a == b)
    return both / max(1, mine), both / max(1, theirs), same / sum(counts)


def table(texts: dict[str, list[str]], counts: list[int], unit: str) -> None:
    """Each tool beside the reference, over all and over those of which the reference shows something."""
    made = {tool: [words(text) for text in each] for tool, each in texts.items()}
    known = [place for place, each in enumerate(made[REFERENCE]) if each]
    print(
        f"{sum(counts)} {unit}, {len(counts)} different; {REFERENCE} shows words of {sum(counts[at] for at in known)}\n"
    )
    print(
        f"| Tool | precision | recall | exactly those words | precision where {REFERENCE} shows words |\n|---|---|---|---|---|"
    )
    for tool, each in made.items():
        if tool != REFERENCE:
            precision, recall, same = score(made[REFERENCE], each, counts)
            of_known = score(*([side[at] for at in known] for side in (made[REFERENCE], each, counts)))[0]
            print(f"| {tool} | {precision:.1%} | {recall:.1%} | {same:.1%} | {of_known:.1%} |")
    print()


def differing(calls: list[str], texts: dict[str, list[str]], counts: list[int], most: int) -> None:
    """The most frequent templates of which ours differs, an example each."""
    names: dict[str, list[int]] = {}
    for place, call in enumerate(calls):
        if words(texts[REFERENCE][place]) != words(texts[OURS][place]):
            names.setdefault(re.split(r"[|}\n]", call[2:])[0].strip().lower(), []).append(place)
    ranked = sorted(names.items(), key=lambda item: -sum(counts[place] for place in item[1]))
    for name, (first, *more) in ranked[:most]:
        theirs, mine = (texts[tool][first] for tool in (REFERENCE, OURS))
        count = counts[first] + sum(counts[place] for place in more)
        print(f"{count:5} {name}: {calls[first]!r}: reference {theirs!r}, ours {mine!r}")


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dump", type=Path, nargs="+", required=True)
    parser.add_argument("--node", type=Path, required=True, help="folder with node_modules/wtf_wikipedia")
    parser.add_argument("--other-python", type=Path, required=True)
    parser.add_argument("--show", type=int, default=0, metavar="N")
    args = parser.parse_args()
    found = Counter(each for text in pages(args.dump) for each in templates(text))
    sentences = [f"{BEFORE} {call} {AFTER}" for call in found]
    texts = all_tools(sentences, args)
    table(texts, list(found.values()), "templates in sentences")
    differing(list(found), texts, list(found.values()), args.show)


def all_tools(wikitexts: list[str], args: argparse.Namespace) -> dict[str, list[str]]:
    """What each makes of each."""
    texts = {REFERENCE: run(["node", "-e", WTF, args.node.resolve()], wikitexts), OURS: ours(wikitexts)}
    others = ("mwparserfromhell", "mwparserfromhell, all arguments", "wikitextprocessor", "gensim")
    return texts | {tool: run([args.other_python, "-c", OTHERS, tool], wikitexts) for tool in others}


if __name__ == "__main__":
    main()
