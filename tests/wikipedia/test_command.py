"""download_wiki.py against a dump site: what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest

from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.wikipedia import command
from tests.waiting import until
from tests.wikipedia.conftest import ARTICLES, INDEX, NAME
from tests.wikipedia.dump import write_dump
from tests.wikipedia.dump_site import DumpSite, Fault
from tests.wikipedia.generator import Page

SCRIPT = Path(__file__).resolve().parents[2] / "download_example_data" / "download_wiki.py"
Wiki = Callable[..., Path]


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(made: list[Page], least: int = 50) -> list[str]:
    return [page.expected for page in made if page.expected and len(page.expected) >= least]


def test_the_guide_s_call(wiki: Wiki, made: list[Page], capsys: pytest.CaptureFixture[str], site: DumpSite) -> None:
    folder = wiki()
    output = folder / "wiki_data_zh-classical" / f"{NAME}.jsonl"
    assert records(output) == [{"text": text} for text in texts(made)]
    said = capsys.readouterr().out
    assert f"--data-prefix {NAME} --input-dir {output.parent}" in said
    assert f"{len(texts(made))} articles" in said
    assert {path.name for path in output.parent.iterdir()} == {"dump", output.name}
    assert {path.name for path in (output.parent / "dump").iterdir()} == {
        ARTICLES,
        INDEX,
        ".lock",
        f"{NAME}.jsonl.made.json",
    }
    assert all("nemo-workflow/" in asked.agent for asked in site.asked)


def test_again_does_nothing(wiki: Wiki, site: DumpSite, capsys: pytest.CaptureFixture[str]) -> None:
    output = wiki() / "wiki_data_zh-classical" / f"{NAME}.jsonl"
    before = output.stat()
    site.asked.clear()
    wiki()
    assert "already there" in capsys.readouterr().out
    assert (output.stat().st_mtime_ns, output.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert not any(asked.path.endswith(".bz2") for asked in site.asked)


@pytest.mark.slow
def test_other_settings_are_refused_then_overwrite(wiki: Wiki, site: DumpSite, made: list[Page]) -> None:
    output = wiki("--output-dir", "o") / "o" / f"{NAME}.jsonl"
    before = output.read_bytes()
    with pytest.raises(Refusal) as refused:
        wiki("--output-dir", "o", "--min-chars", "1")
    for word in (str(output), "--min-chars 50, not 1", "--overwrite"):
        assert word in str(refused.value)
    assert output.read_bytes() == before
    site.asked.clear()
    wiki("--output-dir", "o", "--min-chars", "1", "--overwrite")
    assert len(records(output)) == len(texts(made, 1)) > len(texts(made))
    assert not any(asked.path.endswith(".bz2") for asked in site.asked)


def test_a_file_of_the_user_s_is_not_replaced(wiki: Wiki, tmp_path: Path) -> None:
    output = tmp_path / "o" / f"{NAME}.jsonl"
    output.parent.mkdir()
    output.write_text("mine")
    with pytest.raises(Refusal, match="already there"):
        wiki("--output-dir", "o")
    assert output.read_text() == "mine"


def test_an_output_cut_short_is_not_taken_for_whole(wiki: Wiki) -> None:
    output = wiki("--output-dir", "o") / "o" / f"{NAME}.jsonl"
    os.truncate(output, 1000)
    with pytest.raises(Refusal, match="it has 1000 bytes instead of"):
        wiki("--output-dir", "o")


def test_metadata(wiki: Wiki, made: list[Page]) -> None:
    rows = records(wiki("--keep-metadata", "--min-chars", "1") / "wiki_data_zh-classical" / f"{NAME}.jsonl")
    pages = [page for page in made if page.expected]
    assert [(row["id"], row["title"], row["text"]) for row in rows] == [(p.id, p.title, p.expected) for p in pages]
    assert list(rows[0]) == ["text", "id", "title", "url"]
    for row in rows:
        assert unquote(row["url"]) == "https://zh-classical.wikipedia.org/wiki/" + row["title"].replace(" ", "_")
        assert " " not in row["url"]


@pytest.mark.parametrize("limit", [1, 3, 150])
def test_max_pages(wiki: Wiki, made: list[Page], limit: int) -> None:
    rows = records(wiki("--max-pages", str(limit)) / "wiki_data_zh-classical" / f"{NAME}.jsonl")
    assert [row["text"] for row in rows] == texts(made)[:limit]


def test_max_pages_fetches_only_the_parts_it_needs(wiki: Wiki, site: DumpSite) -> None:
    wiki("--language", "en", "--max-pages", "10")
    assert {asked.path.rsplit("-", 1)[-1] for asked in site.asked if asked.path.endswith(".bz2")} == {"p1p150.bz2"}


def test_all_parts_and_two_workers(wiki: Wiki, made: list[Page]) -> None:
    folder = wiki("--language", "en", "--workers", "2") / "wiki_data_en"
    (output,) = folder.glob("*.jsonl")
    assert output.name == "enwiki-20250101-pages-articles-multistream.jsonl"
    assert [row["text"] for row in records(output)] == texts(made)


def test_first_parts(wiki: Wiki, made: list[Page], site: DumpSite) -> None:
    folder = wiki("--language", "en", "--url-limit", "2") / "wiki_data_en"
    (output,) = folder.glob("*.jsonl")
    assert [row["text"] for row in records(output)] == texts(made[:300])
    assert not any("p301p" in asked.path for asked in site.asked)


@pytest.mark.parametrize(
    ("convert", "source", "text"),
    [
        ("s2t", "汉语头发干净", "漢語頭髮乾淨軟體"),
        ("t2s", "漢語頭髮乾淨", "汉语头发干净软件"),  # the variant for simplified script, not 软体, our 軟體 converted
        ("none", "漢語頭發干净", "漢語頭發干净軟體"),
    ],
)
def test_convert(tmp_path: Path, convert: str, source: str, text: str) -> None:
    write_dump(tmp_path, [[Page(1, "T", 0, f"{source}-{{zh-cn:软件;zh-tw:軟體}}-")]])
    site = DumpSite(tmp_path)
    try:
        command.main(["--base-url", site.url, "--output-dir", str(tmp_path), "--convert", convert, "--min-chars", "1"])
    finally:
        site.close()
    assert records(tmp_path / f"{NAME}.jsonl") == [{"text": text}]


def test_broken_page_is_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: list[Page]
) -> None:
    write_dump(tmp_path, [made[:100]], spoil={made[2].id: "<page><title>Bad one</title><x></page>"})
    site = DumpSite(tmp_path)
    try:
        command.main(["--base-url", site.url, "--output-dir", str(tmp_path), "--workers", "1"])
    finally:
        site.close()
    said = capsys.readouterr()
    assert "page 'Bad one'" in said.err and ARTICLES in said.err
    assert "1 broken" in said.out
    assert len(records(tmp_path / f"{NAME}.jsonl")) == len(texts(made[:2] + made[3:100]))


def test_nothing_left(wiki: Wiki, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="lower --min-chars"):
        wiki("--min-chars", "1000000")
    assert not list(tmp_path.glob("*/*.jsonl"))


def test_progress_in_a_log(wiki: Wiki, site: DumpSite, capsys: pytest.CaptureFixture[str]) -> None:
    site.faults[ARTICLES] = [Fault(slow=0.01)]
    wiki()
    line = capsys.readouterr().err.splitlines()[0]
    for word in (NAME, "MiB" if "MiB" in line else "KiB", " of ", "/s"):
        assert word in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--language", "EN"], ["--language EN"]),
        (["--language", "../etc"], ["--language ../etc"]),
        (["--date", "2025-01-01"], ["--date 2025-01-01", "YYYYMMDD"]),
        (["--base-url", "dumps.wikimedia.org"], ["--base-url", "https://"]),
        (["--output-dir", "/proc/none"], ["--output-dir /proc/none"]),
        (["--workers", "x"], ["--workers: x: expected a whole number of 1 or more"]),
        (["--languag", "en"], ["unrecognized arguments: --languag en", "did you mean --language?"]),
    ],
)
def test_refusals(wiki: Wiki, tmp_path: Path, flags: list[str], words: list[str]) -> None:
    with pytest.raises(Refusal) as refused:
        wiki(*flags)
    for word in words:
        assert word in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_all_problems_at_once(wiki: Wiki) -> None:
    with pytest.raises(Refusal) as refused:
        wiki("--language", "EN", "--date", "x", "--base-url", "y")
    assert len(refused.value.problems) == 3


@pytest.mark.slow
def test_a_second_call_in_the_same_folder(wiki: Wiki, site: DumpSite, tmp_path: Path) -> None:
    go_on = threading.Event()
    site.faults[ARTICLES] = [Fault(held=go_on)]
    first = threading.Thread(target=wiki)
    first.start()
    until(lambda: site.ranges(ARTICLES))
    try:
        with pytest.raises(Refusal, match=r"another download_wiki\.py works there"):
            wiki()
    finally:
        go_on.set()
    first.join()
    assert list(tmp_path.glob("*/*.jsonl"))


def test_no_room_for_the_dump(wiki: Wiki, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The free space is a mock, so that the test needs no root; the next one has a real small disk."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(Refusal, match="the disk has 1000 B"):
        wiki()
    assert not list(tmp_path.glob("*/dump/*.bz2*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_disk_full_loses_nothing(wiki: Wiki, small_disk: Path, made: list[Page]) -> None:
    """The dump fits (half a megabyte) and the text (a megabyte) doesn't."""
    with pytest.raises(Failure, match="the disk is full; nothing is lost"):
        wiki("--output-dir", str(small_disk))
    subprocess.run(["mount", "-o", "remount,size=9m", small_disk], check=True)
    wiki("--output-dir", str(small_disk))
    assert [row["text"] for row in records(small_disk / f"{NAME}.jsonl")] == texts(made)


def test_help_is_light() -> None:
    code = (
        "import sys; sys.argv = ['download_wiki.py', '--help']\n"
        "from nemo_workflow.wikipedia.command import parser\n"
        "parser().format_help()\n"
        "assert not {'requests', 'orjson', 'opencc', 'torch', 'numpy'} & set(sys.modules), sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=SCRIPT.parents[1])


def test_script_from_any_folder(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, SCRIPT, "--date", "x"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr == (
        "download_wiki.py: error: --date x: expected YYYYMMDD; leave it out for the newest finished dump\n"
    )
