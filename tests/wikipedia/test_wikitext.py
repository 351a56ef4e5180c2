"""Wikitext to text: made-up pages of every kind, and the corners one by one."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from nemo_workflow.wikipedia import wikitext as wikitext_package
from nemo_workflow.wikipedia.wikitext.cleaner import Cleaner
from nemo_workflow.wikipedia.wikitext.variants import SIMPLIFIED, TRADITIONAL, converts
from tests.wikipedia.generator import pages

CASES = {
    # links
    "plain link": ("a [[b]] c", "a b c"),
    "piped link": ("a [[b (x)|b]]s c", "a bs c"),
    "link with a pipe in its text": ("[[a|b|c]]", "b|c"),
    "link to a section": ("[[a#b]]", "a#b"),
    "link to a file page": ("see [[:File:x.jpg]]", "see File:x.jpg"),
    "link with a colon that is no namespace": ("[[Star Trek: Picard]], [[2001: A|2001]]", "Star Trek: Picard, 2001"),
    "sister project": ("[[wikt:word|word]]", "word"),
    "category": ("a\n[[Category:b|*]]\n[[類:c]]", "a"),
    "category with a space and case": ("a [[ category : b]]", "a"),
    "other language": ("a\n[[de:b]]\n[[zh-min-nan:c]]", "a"),
    "file": ("a [[File:x.jpg|thumb|b]] c", "a c"),
    "file with links in its caption": ("a [[File:x.jpg|thumb|b [[c|d]] [http://e f]]] g", "a g"),
    "file of a namespace nobody listed": ("a [[Mynd:x.jpg|thumb|b]] c", "a c"),
    "media link": ("[[Media:x.ogg|listen]]", "listen"),
    "external link": ("a [https://b.org/c?d=e&f=g h i] j", "a h i j"),
    "external link without text": ("a [https://b.org]. c", "a. c"),
    "external link around a link": ("[https://b.org c [[d|e]] f]", "c e f"),
    "bare address": ("a https://b.org/c d", "a https://b.org/c d"),
    "brackets that are no link": ("a [b] [1] c", "a [b] [1] c"),
    "link never closed": ("a [[b c\n\nd", "a b c\n\nd"),
    "link inside a link": ("[[a|b [[c]] d]]", "b c d"),
    "mail": ("[mailto:a@b.org write]", "write"),
    # templates, parameters, tables
    "template": ("a{{b|c}}d", "ad"),
    "coordinates in a sentence": ("at {{coord|13|19|N|169|9|30|W|type:event|name=x}}.", "at 13°19′N 169°9′30″W."),
    "coordinates in degrees": ("at {{Coord|44.11|-87.9|display=inline,title}}.", "at 44.11°N 87.9°W."),
    "degrees with letters": ("at {{coord|57.18|N|2.1|W}}.", "at 57.18°N 2.1°W."),
    "coordinates of the page": ("{{coord|1|N|2|E}}\na {{coord|1|N|2|E|display=title}}b", "a b"),
    "coordinates that are none": ("a {{coord|x|y}}{{coord|1}}{{coord}}b", "a b"),
    "notes of music": ("in B{{music|flat}} and F{{music|sharp}}", "in B♭ and F♯"),
    "date in the old style": (
        "on {{OldStyleDate|2 February|1905|20 January}}.",
        "on 2 February [O.S. 20 January] 1905.",
    ),
    "patent": ("see {{US patent|1781541}}", "see U.S. patent 1781541"),
    "boxes of links in a line": ("a {{Africa in topic|Economy of}}{{Wikipedia books|B}}b", "a b"),
    "change of temperature": ("by {{convert|7|-|8|C-change|F-change}}", "by 7–8 °C"),
    "nested templates": ("a{{b|{{c|{{d}}}}|e={{f}}}}g", "ag"),
    "template with a table": ("a\n{{b|\n{|\n|c\n|}\n}}\nd", "a\n\nd"),
    "template with single braces": ("a{{b|{c}|}d{}}e", "ae"),
    "parameter": ("a{{{b|c}}}d", "ad"),
    "template around a parameter": ("a{{b|{{{c|{{{d|}}}}}}}}e", "ae"),
    "template never closed": ("a {{b\n|c=d\n\ne", "a b\n\ne"),
    "closing braces alone": ("a }} b", "a b"),
    "table": ('a\n{| class="b"\n|-\n! c !! d\n|-\n| e || f\n|}\ng', "a\n\ng"),
    "table in a table": ("a\n{|\n|\n{|\n|b\n|}\n|c\n|}\nd", "a\n\nd"),
    "table at the very start": ("{|\n|a\n|}\nb", "b"),
    "indented table": ("a\n:{|\n|b\n|}\nc", "a\n\nc"),
    "rows whose table templates make": ("a\n{{begin}}\n|-\n| b\n! c\n{{end}}\nd", "a\n\nd"),
    "table never closed": ("a\n{|\n| b\n\nc", "a\n\nc"),
    "HTML table": ("a<table><tr><td>b<table><td>c</table></td></tr></table>d", "a\nd"),
    "row marks in a sentence": ("a | b", "a | b"),
    # tags
    "comment": ("a<!-- b -->c", "ac"),
    "comment never closed": ("a<!-- b", "a"),
    "comment with braces": ("a<!-- {{ -->b", "ab"),
    "reference": ('a<ref>b</ref>c<ref name="d" />e<ref name=f>g</ref >', "ace"),
    "reference with a template": ("a<REF>{{b|<c>}}</REF>d", "ad"),
    "reference never closed": ("a<ref>b\n\nc", "ab\n\nc"),
    "references with content": ("a\n<references><ref>b</ref></references>", "a"),
    "gallery": ("a\n<gallery>\nx.jpg|b\n</gallery>\nc", "a\n\nc"),
    "nowiki": ("<nowiki>[[a]] {{b}} ''c''</nowiki>", "[[a]] {{b}} ''c''"),
    "empty nowiki": ("'''a<nowiki/>'''", "a"),
    "nowiki with an entity": ("<nowiki>a &amp; b</nowiki>", "a & b"),
    "nowiki in a template": ("a{{b|<nowiki>}}</nowiki>}}c", "ac"),
    "formula": ("<math>a_{{b}} < c</math>", "$a_{{b}} < c$"),
    "preformatted": ("a\n<pre>\n* b\n  [[c]]\n</pre>\nd", "a\n* b\n  [[c]]\nd"),
    "code": ('<syntaxhighlight lang="c">\nint main() { }\n</syntaxhighlight>', "int main() { }"),
    "inline HTML": ('a<sub>2</sub> <span style="x">b</span> <b>c</B>', "a2 b c"),
    "line breaks": ("a<br>b<br/>c<br />d", "a\nb\nc\nd"),
    "blocks": ('<div class="x">a</div><p>b</p>', "a\n\nb"),
    "hidden text": ('a<span style="display:none">b</span>c', "ac"),
    "ruby": ("<ruby>漢<rp>(</rp><rt>かん</rt><rp>)</rp></ruby>字", "漢字"),
    "poem": ("<poem>\na\nb\n</poem>", "a\nb"),
    "less than": ("a < b and c > d, <3", "a < b and c > d, <3"),
    "unknown tag": ("a <foo> b", "a <foo> b"),
    "tag shown as text": ("a &lt;ref&gt; b", "a <ref> b"),
    "hidden text with a tag": ('a<span style="display:none">b<b>c</b><span>d</span></span>e', "ae"),
    "raised": (
        "10<sup>23</sup>, 10<sup>−9</sup>, x<sup>n</sup>, 1<sup>st</sup>, 2<sup>n+1</sup>",
        "10^23, 10^−9, x^n, 1st, 2^(n+1)",
    ),
    "raised after a lowered text, with tags, an entity, another in it": (
        "SO<sub>4</sub><sup>2−</sup>, 10<sup><small>6</small></sup>, 2<sup>&minus;3</sup>, 2<sup>2<sup>2</sup></sup>",
        "SO4^(2−), 10^6, 2^−3, 2^(2^2)",
    ),
    "raised ordinals of one letter": ("le 2<sup>e</sup>, n<sup>o</sup> 5, x<sup>e</sup>", "le 2e, no 5, x^e"),
    "hidden text in other tags": (
        "a<p style='display:none'>b<i>c</i></p>d<b style=\"x:y; display: none\">e</b>f<sup style=display:none>g</sup>h",
        "adfh",
    ),
    "lowered": ("H<sub>2</sub>O, 5<sub>10</sub>, v<sub>max</sub>", "H2O, 5_10, v_max"),
    "code is left alone": (
        "<code>for (;;)</code>, <code>(1,)</code>, <code>f  ( ) .</code>",
        "for (;;), (1,), f  ( ) .",
    ),
    "brackets of a writer": ("f(x, ) and :) here (; really)", "f(x, ) and :) here (; really)"),
    "lowered terms": ("x<sub>i+1</sub> = a<sub>1,2</sub>, a<sub>n</sub>", "x_(i+1) = a_(1,2), a_n"),
    "names that only begin as one": ("&ampx; &notit; &Copy; &notin;", "&ampx; &notit; &Copy; ∉"),
    "names without semicolon": ("?a=1&section=2&copy=3 &copy; &amp;lt;", "?a=1&section=2&copy=3 © &lt;"),
    "entities in code": ("<syntaxhighlight>&lt;b&gt; &param</syntaxhighlight>", "&lt;b&gt; &param"),
    "names of macros": ("__FILE__, <code>__LINE__</code> __NOTOC__", "__FILE__, __LINE__"),
    "a line that begins with a bar": ("a\n|x| is positive\n|b=c\n|| d", "a\n|x| is positive"),
    # what templates show
    "language": ("by {{lang|la|homo}} and {{lang-de|Mensch}}", "by homo and Mensch"),
    "link to another language": ("是{{link-en|約翰|John}}的{{le|學生|student}}，{{tsl|en|x|乙}}", "是約翰的學生，乙"),
    "interlanguage link": ("by {{ill|Hans M|de|Hans M (Maler)|lt=Hans}} and {{ill|Max|de}}", "by Hans and Max"),
    "measure": ("{{convert|93|m|ft|abbr=on}}, {{cvt|5|-|10|km2}}, {{val|1.5|e=3|u=kg}}", "93 m, 5–10 km², 1.5×10^3 kg"),
    "number": ("{{formatnum:1234567}} {{formatnum:-1234.5}}", "1,234,567 -1,234.5"),
    "formulas": ("{{chem|H|2|O}} {{math|''x''{{sup|2}}}} {{frac|1|2}} {{frac|3|1|2}}", "H2O x^2 1/2 3 1/2"),
    "words kept together": ("{{nowrap|5 kg}} {{abbr|a.|b}} {{small|[[c|d]]}}", "5 kg a. d"),
    "quotation": ("a\n{{quote|b ''c''|d}}\ne", "a\n\nb c\n\ne"),
    "lists of templates": ("of {{hlist|a|b}}; {{plainlist|\n* c\n* d\n}}", "of a, b; * c\nd"),
    "a language's text by name": (
        "{{lang|code=ru|text=да}} {{lang-ru|1=нет}} {{rtl-lang|ar|ب}} {{IPA|en|ɪ}}",
        "да нет ب ɪ",
    ),
    "several scripts": (
        "{{zh|t=中|p=zhōng}} {{bd|1900年|1月|1950年}} {{読み仮名|漢|かん}}",
        "中; zhōng （1900年1月－1950年） 漢（かん）",
    ),
    "interlanguage link as it was written once": (
        "of {{ill|de|Hans M|Hans}} and {{ill|Max|de|fr}}",
        "of Hans M and Max",
    ),
    "dates": (
        "on {{start date|1990|5|3}}, {{dts|1777-12-16}}, {{As of|2015|3}}, {{as of|2014|lc=y}} {{birth date|1990|13|3}}",
        "on 3 May 1990, 1777-12-16, As of March 2015, as of 2014 3 1990",
    ),
    "ships": (
        "{{USS|Hornet|CV-12}}, {{HMS|Ajax|22|6}}, {{ship|SS|Great Britain}}",
        "USS Hornet (CV-12), Ajax, SS Great Britain",
    ),
    "charges, powers and roots": (
        "{{chem|SO|4|2-}} 5{{e|24}} {{val|1.00794|(7)}} {{sqrt|2}} {{abs|x}} {{CO2}} {{half}}",
        "SO4^(2-) 5×10^24 1.00794(7) √2 |x| CO2 1/2",
    ),
    "templates of French and Spanish": (
        "au {{s|XIX|e}} {{unité|5|km}} {{citation|mots}} {{lien|fr=X|lang=en|trad=Y}} {{cita|palabras}}",
        "au XIXe siècle 5 km\nmots\nX\npalabras",
    ),
    "signs and money": (
        "a{{snds}}b{{'s}} {{€|5}} {{Rs}}5 {{c.|1500}} {{fl.|1400}} {{reign|1200|1210}}",
        "a – b's €5 ₹5 c. 1500 fl. 1400 r. 1200–1210",
    ),
    "links to data bases stand on lines of their own": (
        "a\n* {{Some base|Society/Politics}}\n* b {{oclc|221147531}}",
        "a\nb",
    ),
    "signs": ("a{{ndash}}b{{snd}}c {{USD|5}}", "a–b – c US$5"),
    "short text of an unknown template": ("a {{shown|some words}} b {{shown|[[c|d]]}}", "a some words b d"),
    "unknown templates that show nothing": (
        "a {{cn|x}} {{sfn|b|1999}} {{flagicon|US}} {{odd|k=v}} {{odd|b|c}} d",
        "a d",
    ),
    "an unknown template on its own line": ("a\n{{stub thing|words}}\nb", "a\n\nb"),
    # within a line
    "bold and italics": ("'''a''' ''b'' '''''c'''''", "a b c"),
    "apostrophes": ("l'a ''''b'''' d'''''e'''", "l'a 'b' de"),
    "quotes across a link": ("''[[a|''b'']]''", "b"),
    "entities": ("a&nbsp;b&ndash;c &#x4e2d;&#25991; &lt;", "a b–c 中文 <"),
    "switches": ("__TOC__a __NOTOC__\n__無目錄__", "a"),
    "a name with underscores": ("the __init__ method", "the __init__ method"),
    # lines
    "lists": ("* a\n** b\n# c\n#: d\n: e", "a\nb\nc\nd\ne"),
    "definition": ("; a : b\n; c\n: d", "a\nb\nc\nd"),
    "definition with an address": ("; http://a.org", "http://a.org"),
    "rule": ("a\n----\nb", "a\nb"),
    "heading": ("a\n== b ==\nc", "a\n\nb\n\nc"),
    "heading with equals signs": ("=== a = b ===\nc", "a = b\n\nc"),
    "heading without text": ("a\n== b ==\n{{reflist}}\n== c ==\n[[Category:d]]", "a"),
    "heading without text before one with": ("== a ==\n=== b ===\n== c ==\nd", "c\n\nd"),
    "heading over a subsection with text": ("== a ==\n=== b ===\nc\n=== d ===\n== e ==", "a\n\nb\n\nc"),
    "heading with a link": ("== [[a|b]] ==\nc", "b\n\nc"),
    "blank lines": ("a\n\n\n\nb\nc", "a\n\nb\nc"),
    "line of a stop alone": ("a\n{{b}}.\nc", "a\nc"),
    # what templates leave behind
    "empty brackets": ("a ({{b}}) c（{{d}}）e", "a ce"),
    "half-empty brackets": ("a ({{b}}; c) d（{{e}}，f；）g", "a (c) d（f）g"),
    "a function's brackets": ("call f() now", "call f() now"),
    "space before a stop": ("a {{b}}. c {{d}}, e .net", "a. c, e .net"),
    # variants
    "variant": ("-{zh-hans:计算机; zh-hant:電腦}-", "電腦"),
    "variant by region": ("-{zh-cn:a;zh-hk:b;zh-tw:c;}-", "c"),
    "variant of one form": ("-{a}-b", "ab"),
    "variant rule for the page": ("-{H|zh-cn:a; zh-tw:b}-c", "c"),
    "variant shown and ruled": ("-{A|zh-cn:a; zh-tw:b}-", "b"),
    "variant of the title": ("-{T|zh-cn:a; zh-tw:b}-c", "c"),
    "variant one way": ("-{a=>zh-cn:b; c=>zh-tw:d}-", "d"),
    "variant raw": ("-{R|a}-", "a"),
    "variant in a variant": ("-{zh-cn:a; zh-tw:b-{c}-}-", "bc"),
    "variant in a link": ("[[a|-{zh-cn:b; zh-tw:c}-]]", "c"),
    "variant with a link": ("-{zh-cn:[[a]]; zh-tw:[[b|c]]}-", "c"),
    "variant with an address": ("-{http://a.org:80}-", "http://a.org:80"),
    "variant of a script without our choice": ("-{sr-ec:а; sr-el:b}-", "а"),
    "range with a brace": ("1-{{{a}}}2", "1-2"),
}


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://en.wikipedia.org/wiki/", "x-{y}-z"),
        ("https://zh-yue.wikipedia.org/wiki/", "xyz"),
        ("http://wiki/", "xyz"),
    ],
)
def test_variants_are_those_of_the_language(url: str, text: str) -> None:
    assert Cleaner((), TRADITIONAL if converts(url) else ()).clean("x-{y}-z") == text


@pytest.mark.parametrize(("wikitext", "text"), CASES.values(), ids=CASES)
def test_construct(wikitext: str, text: str) -> None:
    assert Cleaner(["類"]).clean(wikitext) == text


def test_the_package_names_its_cleaner() -> None:
    assert wikitext_package.Cleaner is Cleaner


def test_simplified_variant() -> None:
    assert Cleaner(preferred=SIMPLIFIED).clean("-{zh-hans:计算机; zh-hant:電腦}-") == "计算机"


def test_made_up_pages_exactly() -> None:
    cleaner = Cleaner(["檔", "類"])
    articles = [page for page in pages(600, seed=7) if page.expected is not None]
    assert len(articles) > 450
    for page in articles:
        assert cleaner.clean(page.text) == page.expected, page.title


HOSTILE = {
    piece: piece * (400_000 // len(piece))
    for piece in (
        *(
            "{{",
            "}}",
            "{{{",
            "[[",
            "[[a|",
            "]]",
            "{|\n",
            "\n{|",
            "<ref>",
            "<ref",
            "<!--",
            "<table>",
            "-{",
            "-{a",
            "}-",
            "''",
        ),
        *(
            "[http://a ",
            "=",
            "* ",
            "&",
            "({",
            "<",
            "<span style='display:none'>",
            "(",
            ";",
            ";a=>",
            "__",
            "<br ",
            " .",
            "()",
        ),
    )
} | {
    "an address without end": "[http://" + "a" * 400_000,
    "an address, then spaces": "[http://a" + " " * 400_000 + "\n",
    "a term, then spaces": "; a" + " " * 400_000 + "b",
    "a heading of spaces": "= a" + " " * 400_000 + "b",
    "a variant of spaces": "-{zh:a;" + " " * 400_000 + "}-",
    "hidden again and again": "<span " + "display:none " * 40_000,
}


@pytest.fixture
def a_minute_of_a_core() -> Iterator[None]:
    """Of this process's own time, which no load beside it uses up; its limit ends work that a look at the clock could not."""

    def too_long(*_: object) -> None:
        raise AssertionError("a minute of a core was not enough")

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, 60)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_time_is_linear_in_hostile_markup(text: str, a_minute_of_a_core: None) -> None:
    """Quadratic work on 400,000 characters takes minutes to hours."""
    Cleaner().clean(text)
