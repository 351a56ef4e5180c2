"""Wikipedia pages made up from a seed: wikitext of every kind, and beside each page the text that a reader sees.

What a reader sees and what must go are written with two disjoint vocabularies, so any word that leaks or is lost shows
up in a comparison of words. Each construct is one method that returns (wikitext, text); the text follows MediaWiki's
rules, with lists, headings and paragraphs laid out as `nemo_workflow.wikipedia.wikitext.lines` says.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

Pair = tuple[str, str]

_SHOWN_SYLLABLES = ("ka", "lo", "mi", "re", "sun", "ta", "ve", "dor", "nel", "pa", "ri", "gos", "tum", "bel", "an")
_HIDDEN_SYLLABLES = ("xo", "zu", "qi", "jax", "wyk", "zex", "quo", "xil", "juz", "wob")
_SHOWN_HAN = "天地玄黃宇宙洪荒日月盈昃辰宿列張寒來暑往秋收冬藏閏餘成歲律呂調陽雲騰致雨露結為霜金生麗水玉出崑岡劍號巨闕珠稱夜光果珍李柰菜重芥薑"
_HIDDEN_HAN = "鱗潛羽翔龍師火帝鳥官人皇始制文字乃服衣裳推位讓國有虞陶唐弔民伐罪周發殷湯坐朝問道垂拱平章愛育黎首臣伏戎羌"
MAIN, TALK, WIKIPEDIA, FILE, TEMPLATE, CATEGORY, MODULE = 0, 1, 4, 6, 10, 14, 828


@dataclass(frozen=True)
class Page:
    """`expected` is None for a page that must be left out whatever --min-chars says."""

    id: int
    title: str
    namespace: int
    text: str
    expected: str | None = None
    redirect: str | None = None
    model: str = "wikitext"


class Writer:
    """Writes constructs, in Chinese characters or in words of Latin letters."""

    def __init__(self, chance: random.Random, han: bool):
        self.chance = chance
        self.han = han

    def words(self, low: int, high: int, hidden: bool = False) -> str:
        count = self.chance.randint(low, high)
        if self.han:
            return "".join(self.chance.choices(_HIDDEN_HAN if hidden else _SHOWN_HAN, k=count * 2))
        syllables = _HIDDEN_SYLLABLES if hidden else _SHOWN_SYLLABLES
        return " ".join("".join(self.chance.choices(syllables, k=self.chance.randint(2, 3))) for _ in range(count))

    def hidden(self, low: int = 1, high: int = 3) -> str:
        return self.words(low, high, hidden=True)

    # --- within a line ------------------------------------------------------------------------------------------
    def plain(self) -> Pair:
        text = self.words(3, 12)
        return text, text

    def link(self) -> Pair:
        text = self.words(1, 2)
        return f"[[{text}]]", text

    def piped_link(self) -> Pair:
        text = self.words(1, 3)
        return f"[[{self.hidden()}|{text}]]", text

    def section_link(self) -> Pair:
        text = self.words(1, 2)
        return f"[[{self.hidden()}#{self.hidden()}|''{text}'']]", text

    def colon_link(self) -> Pair:
        text = self.words(1, 2)
        return f"[[:Category:{self.hidden()}|{text}]]", text

    def suffixed_link(self) -> Pair:
        text = self.words(1, 1)
        return f"[[{text}]]s", f"{text}s"

    def external_link(self) -> Pair:
        text = self.words(1, 3)
        return f"[https://example.org/{self.chance.randint(1, 999)}?a=b&c=d {text}]", text

    def bare_external_link(self) -> Pair:
        text = self.words(1, 2)
        space = "" if self.han else " "
        return f"{text}{space}[http://example.org/{self.chance.randint(1, 999)}]", text

    def bold(self) -> Pair:
        text = self.words(1, 2)
        return f"'''{text}'''", text

    def italic(self) -> Pair:
        text = self.words(1, 3)
        return f"''{text}''", text

    def bold_italic(self) -> Pair:
        text = self.words(1, 2)
        return f"'''''{text}'''''", text

    def reference(self) -> Pair:
        text = self.words(1, 2)
        return f"{text}<ref>{self.hidden()} [http://example.org {self.hidden()}]. [[{self.hidden()}]]</ref>", text

    def named_reference(self) -> Pair:
        text = self.words(1, 2)
        return f'{text}<ref name="{self.hidden(1, 1)}" />', text

    def cited_reference(self) -> Pair:
        text = self.words(1, 2)
        return f'{text}<ref name="a{self.chance.randint(1, 99)}" group=note>{self.citation()}</ref>', text

    def citation(self) -> str:
        return (
            f"{{{{cite web |url=https://example.org/{self.chance.randint(1, 999)} |title={self.hidden()} "
            f"|author=[[{self.hidden()}]] |date={{{{date|{self.chance.randint(1900, 2020)}}}}} }}}}"
        )

    def inline_template(self) -> Pair:
        text = self.words(1, 2)
        return f"{text}{{{{{self.hidden(1, 1)}|{self.hidden()}|{{{{{self.hidden(1, 1)}|k={self.hidden()}}}}}}}}}", text

    def parser_function(self) -> Pair:
        text = self.words(1, 2)
        return f"{text}{{{{#if: {{{{{{{self.hidden(1, 1)}|}}}}}} | {self.hidden()} | {self.hidden()} }}}}", text

    def hollow_brackets(self) -> Pair:
        text = self.words(1, 2)
        if self.han:
            return f"{text}（{{{{audio|x.ogg|{self.hidden()}}}}}；）", text
        return f"{text} ({{{{audio|x.ogg|{self.hidden()}}}}}; )", text

    def half_hollow_brackets(self) -> Pair:
        text, inner = self.words(1, 2), self.words(1, 2)
        if self.han:
            return f"{text}（{{{{audio|x.ogg|{self.hidden()}}}}}，{inner}）", f"{text}（{inner}）"
        return f"{text} ({{{{audio|x.ogg|{self.hidden()}}}}}, {inner})", f"{text} ({inner})"

    def comment(self) -> Pair:
        text = self.words(1, 2)
        return f"{text}<!-- {self.hidden()} [[ {{{{ -->", text

    def nowiki(self) -> Pair:
        text = self.words(1, 2)
        return f"<nowiki>[[{text}]] ''</nowiki>", f"[[{text}]] ''"

    def formula(self) -> Pair:
        name = "".join(self.chance.choices("abcdefgh", k=3))
        formula = f"\\frac{{{name}}}{{{{2}}}} < {self.chance.randint(1, 99)}"
        return f"<math>{formula}</math>", f"${formula}$"

    def html(self) -> Pair:
        text, more = self.words(1, 2), self.words(1, 1)
        tag = self.chance.choice(("small", "sub", "sup", "u", "span", "code", "kbd", "big", "abbr", "s"))
        attributes = self.chance.choice(("", ' style="color:red"', " class='x'"))
        return f"<{tag}{attributes}>{text}</{tag.upper()}>{more}", f"{text}{more}"

    def hidden_span(self) -> Pair:
        text = self.words(1, 2)
        return f'{text}<span style="display: none">{self.hidden()}</span>', text

    def entity(self) -> Pair:
        first, second = self.words(1, 1), self.words(1, 1)
        entity, shown = self.chance.choice(
            (("&nbsp;", " "), ("&ndash;", "–"), ("&amp;", "&"), ("&lt;", "<"), ("&#8220;", "“"), ("&times;", "×"))
        )
        return f"{first}{entity}{second}", f"{first}{shown}{second}"

    def ruby(self) -> Pair:
        text = self.words(1, 1)
        return f"<ruby>{text}<rp>(</rp><rt>{self.hidden(1, 1)}</rt><rp>)</rp></ruby>", text

    def variant(self) -> Pair:
        text = self.words(1, 2)
        if not self.han:
            return text, text
        form = self.chance.randrange(5)
        if form == 0:
            return f"-{{zh-hans:{self.hidden()}; zh-hant:{text}}}-", text
        if form == 1:
            return f"-{{zh-cn:{self.hidden()};zh-tw:{text};zh-hk:{self.hidden()};}}-", text
        if form == 2:
            return f"-{{A|zh-cn:{self.hidden()}; zh-tw:{text}}}-", text
        if form == 3:
            return f"{text}-{{H|zh-cn:{self.hidden()}; zh-tw:{self.hidden()}}}-", text
        return f"-{{{text}}}-", text

    def line_break(self) -> Pair:
        first, second = self.words(1, 3), self.words(1, 3)
        return f"{first}<br />{second}", f"{first}\n{second}"

    def unclosed_bold(self) -> Pair:
        text = self.words(1, 2)
        return f"'''{text}", text

    INLINE = (
        (plain, 40),
        (link, 22),
        (piped_link, 16),
        (section_link, 2),
        (colon_link, 1),
        (suffixed_link, 2),
        (external_link, 2),
        (bare_external_link, 1),
        (bold, 4),
        (italic, 4),
        (bold_italic, 1),
        (reference, 3),
        (named_reference, 3),
        (cited_reference, 5),
        (inline_template, 5),
        (parser_function, 1),
        (hollow_brackets, 1),
        (half_hollow_brackets, 1),
        (comment, 1),
        (nowiki, 0.5),
        (formula, 1),
        (html, 3),
        (hidden_span, 0.5),
        (entity, 3),
        (ruby, 0.5),
        (variant, 3),
        (line_break, 0.5),
        (unclosed_bold, 0.2),
    )

    def sentence(self, low: int = 3, high: int = 8, breaks: bool = True) -> Pair:
        makers, weights = zip(*self.INLINE, strict=True)
        chosen = self.chance.choices(makers, weights, k=self.chance.randint(low, high))
        pairs = [self.plain()]
        for make in chosen:
            if make is Writer.line_break and not breaks:
                continue
            pair = make(self)
            if pairs[-1][0].endswith("'") and pair[0].startswith("'"):
                pairs.append(self.plain())  # runs of quotes that touch would mean something else
            pairs.append(pair)
        glue, stop = ("", "。") if self.han else (" ", ".")
        return glue.join(p[0] for p in pairs) + stop, glue.join(p[1] for p in pairs) + stop

    # --- blocks -------------------------------------------------------------------------------------------------
    def paragraph(self) -> Pair:
        pairs = [self.sentence() for _ in range(self.chance.randint(1, 4))]
        glue = "" if self.han else " "
        return glue.join(p[0] for p in pairs), glue.join(p[1] for p in pairs)

    def bullets(self) -> Pair:
        return self._items(("* ", "** ", "*", "*: "))

    def numbers(self) -> Pair:
        return self._items(("# ", "## ", "#* "))

    def indented(self) -> Pair:
        return self._items((":", ":: "))

    def _items(self, marks: tuple[str, ...]) -> Pair:
        pairs = [self.sentence(1, 3, breaks=False) for _ in range(self.chance.randint(2, 6))]
        return "\n".join(self.chance.choice(marks) + p[0] for p in pairs), "\n".join(p[1] for p in pairs)

    def definitions(self) -> Pair:
        term, (markup, text) = self.words(1, 2), self.sentence(1, 3, breaks=False)
        return f"; {term}\n: {markup}", f"{term}\n{text}"

    def blockquote(self) -> Pair:
        markup, text = self.sentence(breaks=False)
        return f"<blockquote>{markup}</blockquote>", text

    def division(self) -> Pair:
        markup, text = self.sentence(breaks=False)
        return f'<div class="x" style="text-align:center">\n{markup}\n</div>', text

    def poem(self) -> Pair:
        verses = [self.words(3, 5) for _ in range(4)]
        return "<poem>\n" + "\n".join(verses) + "\n</poem>", "\n".join(verses)

    def preformatted(self) -> Pair:
        text = f"{self.words(2, 3)} [[x]]\n\n  {self.words(2, 3)}"
        return f"<pre>\n{text}\n</pre>", text

    def source_code(self) -> Pair:
        text = f"def {self.chance.choice('fgh')}(x):\n    return '{{{{' + {self.chance.randint(1, 99)}"
        return f'<syntaxhighlight lang="python">\n{text}\n</syntaxhighlight>', text

    TEXT_BLOCKS = (
        (paragraph, 50),
        (bullets, 8),
        (numbers, 3),
        (indented, 2),
        (definitions, 2),
        (blockquote, 2),
        (division, 1),
        (poem, 2),
        (preformatted, 0.5),
        (source_code, 0.5),
    )

    def infobox(self) -> str:
        rows = "\n".join(
            f"| {self.hidden(1, 1)} = {self.chance.choice((self.hidden(), f'[[{self.hidden()}]]', self.citation(), '{{{x|}}}'))}"
            for _ in range(self.chance.randint(4, 14))
        )
        return f"{{{{Infobox {self.hidden(1, 1)}\n{rows}\n| image = [[File:x.jpg|{self.hidden()}]]\n}}}}"

    def infobox_with_table(self) -> str:
        return f"{{{{{self.hidden(1, 1)}\n| map = \n{self.table()}\n|}}}}"

    def table(self) -> str:
        rows = "\n".join(
            f'|-\n| style="x" | {self.hidden()} || [[{self.hidden()}|{self.hidden()}]]\n| {self.citation()}'
            for _ in range(self.chance.randint(2, 8))
        )
        return f'{{| class="wikitable sortable"\n|+ {self.hidden()}\n! {self.hidden()} !! {self.hidden()}\n{rows}\n|}}'

    def nested_table(self) -> str:
        return f"{{|\n|-\n|\n{self.table()}\n| {self.hidden()}\n|}}"

    def indented_table(self) -> str:
        return f":{self.table()}"

    def html_table(self) -> str:
        return f"<table border=1><tr><td>{self.hidden()}</td><td><table><tr><th>{self.hidden()}</th></tr></table></td></tr></table>"

    def image(self) -> str:
        name = self.chance.choice(("File", "Image", "檔", "檔案", "file"))
        return (
            f"[[{name}:{self.hidden()}.jpg|thumb|upright=1.2|{self.hidden()} [[{self.hidden()}|{self.hidden()}]] "
            f"[http://example.org {self.hidden()}] [[{self.hidden()}]]]]"
        )

    def gallery(self) -> str:
        return f'<gallery mode="packed">\nFile:{self.hidden()}.png|{self.hidden()} [[{self.hidden()}]]\n</gallery>'

    def timeline(self) -> str:
        return f"<timeline>\nImageSize = width:800\n{self.hidden()}\n</timeline>"

    def long_comment(self) -> str:
        return f"<!--\n== {self.hidden()} ==\n{self.hidden()}\n-->"

    def switches(self) -> str:
        return self.chance.choice(("__TOC__", "__NOTOC__", "__NOEDITSECTION__", "{{PAGENAME}}", "----"))

    HIDDEN_BLOCKS = (
        (table, 5),
        (nested_table, 1),
        (indented_table, 1),
        (html_table, 1),
        (image, 8),
        (gallery, 1),
        (timeline, 0.5),
        (long_comment, 1),
        (switches, 1),
        (infobox_with_table, 1),
    )

    def tail(self) -> str:
        """What stands at the end of an article: headings over references, navigation boxes, categories, languages."""
        heading = self.hidden()
        references = self.chance.choice(
            ("{{reflist|2}}", "<references/>", f"<references>{self.citation()}</references>")
        )
        categories = "\n".join(
            f"[[{self.chance.choice(('Category', '類', '分類'))}:{self.hidden()}|*]]"
            for _ in range(self.chance.randint(1, 4))
        )
        languages = "\n".join(
            f"[[{code}:{self.hidden()}]]" for code in self.chance.sample(("de", "fr", "ja", "zh-yue"), 2)
        )
        return (
            f"== {heading} ==\n{references}\n\n{{{{Navbox\n| list1 = * [[{self.hidden()}]]\n* [[{self.hidden()}]]\n}}}}\n"
            f"{{{{DEFAULTSORT:{self.hidden()}}}}}\n{categories}\n{languages}"
        )

    def article(self, sections: int) -> Pair:
        """A whole article: (wikitext, text)."""
        shown, hidden = list(self.TEXT_BLOCKS), list(self.HIDDEN_BLOCKS)
        markup: list[str] = [self.infobox()] if self.chance.random() < 0.5 else []
        text: list[str] = []
        for section in range(sections):
            if section:
                title, level = self.words(1, 2), self.chance.choice(("==", "===", "== "))
                markup.append(f"{level.strip()}{' ' if level[-1] == ' ' else ''}{title} {level.strip()}")
                text.append(title)
            blocks = self.chance.choices([m for m, _ in shown], [w for _, w in shown], k=self.chance.randint(1, 3))
            for make in blocks:
                block, seen = make(self)
                markup.append(block)
                text.append(seen)
                if self.chance.random() < 0.25:
                    extra = self.chance.choices([m for m, _ in hidden], [w for _, w in hidden])[0]
                    markup.append(extra(self))
        markup.append(self.tail())
        return "\n\n".join(markup), "\n\n".join(text)


def pages(count: int, seed: int = 1, first_id: int = 1) -> Iterator[Page]:
    """`count` pages of a dump: about four in five are articles, the rest redirects, stubs and other namespaces."""
    chance = random.Random(seed)
    for number in range(first_id, first_id + count):
        writer = Writer(chance, han=chance.random() < 0.5)
        title = f"{writer.words(1, 2).capitalize()} {number}"
        kind = chance.random()
        if kind < 0.08:
            target = writer.hidden()
            yield Page(number, title, MAIN, f"#REDIRECT [[{target}]]", redirect=target)
        elif kind < 0.14:
            name, space = chance.choice(
                (
                    ("Template", TEMPLATE),
                    ("Category", CATEGORY),
                    ("File", FILE),
                    ("Talk", TALK),
                    ("Wikipedia", WIKIPEDIA),
                )
            )
            yield Page(number, f"{name}:{title}", space, f"{writer.hidden(5, 20)} {{{{{{1|}}}}}}")
        elif kind < 0.15:
            yield Page(number, f"Module:{title}", MODULE, "return {}", model="Scribunto")
        elif kind < 0.2:
            yield Page(
                number, title, MAIN, f"'''{title}'''。{{{{stub}}}}\n[[Category:{writer.hidden()}]]", f"{title}。"
            )
        else:
            text, expected = writer.article(sections=min(20, 1 + int(chance.expovariate(0.3))))
            yield Page(number, title, MAIN, text, expected)
