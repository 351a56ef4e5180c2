"""--dump FILE: a dump that is on the disk gives what its download gives, however it is packed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from pathlib import Path

import pytest

from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.wikipedia import command, local_dump, run
from nemo_workflow.wikipedia.local_dump import LocalDump
from tests.wikipedia.conftest import ARTICLES, NAME, WIKI
from tests.wikipedia.dump_site import DumpSite


@pytest.fixture(scope="module")
def xml(site_root: Path) -> bytes:
    return bz2.decompress((site_root / WIKI / "20250101" / ARTICLES).read_bytes())


@pytest.fixture(scope="module")
def fetched(site_root: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    site, folder = DumpSite(site_root), tmp_path_factory.mktemp("fetched")
    command.main(["--base-url", site.url, "--workers", "1", "--output-dir", str(folder)])
    site.close()
    return (folder / f"{NAME}.jsonl").read_bytes()


@pytest.fixture
def downloaded(fetched: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What the same dump gave when it came from the site; the current folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    return fetched


def other_streams(xml: bytes) -> bytes:
    """As lbzip2 packs: streams that begin in the middle of a page."""
    return b"".join(bz2.compress(xml[at : at + 100_000]) for at in range(0, len(xml), 100_000))


PACKED = {
    "one.xml": bytes,
    "one.xml.bz2": bz2.compress,
    "other-streams.xml.bz2": other_streams,
    "one.xml.gz": gzip.compress,
    "one.XML.XZ": lzma.compress,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKED)
def test_every_packing(
    name: str, xml: bytes, downloaded: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_dump, "BATCH", 50_000)
    (tmp_path / name).write_bytes(PACKED[name](xml))
    command.main(["--dump", name, "--output-dir", "out", "--workers", "1"])
    assert (tmp_path / "out" / f"{name.partition('.')[0]}.jsonl").read_bytes() == downloaded


def test_a_multistream_without_its_index(
    site_root: Path, downloaded: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The streams are found again, so that workers share them; the folder is named after the wiki."""
    path = site_root / WIKI / "20250101" / ARTICLES
    assert len([stream for stream in LocalDump(path).streams() if not stream.data]) > 4
    command.main(["--dump", str(path), "--workers", "2"])
    output = tmp_path / f"wiki_data_{WIKI}" / f"{NAME}.jsonl"
    assert output.read_bytes() == downloaded
    command.main(["--dump", str(path), "--workers", "2"])
    assert "already there, whole" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one.xml", ARTICLES])
def test_goes_on(
    name: str,
    xml: bytes,
    site_root: Path,
    downloaded: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(local_dump, "BATCH", 50_000)
    (tmp_path / "one.xml").write_bytes(xml)
    path = tmp_path / name if name == "one.xml" else site_root / WIKI / "20250101" / name
    shown = 0

    def stop(self: run.Work) -> None:
        nonlocal shown
        shown += 1
        if shown == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(run.LocalWork, "_show", stop)
    with pytest.raises(KeyboardInterrupt):
        command.main(["--dump", str(path), "--output-dir", "out", "--workers", "1"])
    command.main(["--dump", str(path), "--output-dir", "out", "--workers", "1"])
    assert "Going on after" in capsys.readouterr().err
    assert (tmp_path / "out" / f"{LocalDump(path).name}.jsonl").read_bytes() == downloaded


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"7z\xbc\xaf\x27\x1c", "7z x"),
        (b"(\xb5/\xfd\x00", "zstd -d"),
        (b"%PDF-1.7", "not a MediaWiki dump of pages"),
        (b"", "not a MediaWiki dump of pages"),
        (bz2.compress(b"<mediawiki>" + bytes(range(256)) * 999)[:300], "damaged at its beginning|not a MediaWiki dump"),
        (b"\x1f\x8b\x08\x00", "damaged at its beginning"),
    ],
)
def test_what_is_no_dump(content: bytes | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "x.xml.bz2").write_bytes(content)
    with pytest.raises(Refusal, match=words) as refused:
        command.main(["--dump", "x.xml.bz2"])
    assert "--dump" in str(refused.value)
    assert not list(tmp_path.glob("wiki_data*"))


def test_a_file_that_ends_early(xml: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local_dump, "HEAD", 2000)
    packed = gzip.compress(xml)
    (tmp_path / "x.xml.gz").write_bytes(packed[: len(packed) * 2 // 3])
    with pytest.raises(Failure, match=r"x\.xml\.gz: .*download it again"):
        command.main(["--dump", "x.xml.gz", "--workers", "1"])
    assert not list(tmp_path.glob("wiki_data_x.xml/*.jsonl"))


def test_what_to_download_is_no_word_on_a_file(tmp_path: Path) -> None:
    flags = [
        "--language",
        "en",
        "--project",
        "wikinews",
        "--date",
        "20250101",
        "--url-limit",
        "1",
        "--contact",
        "a@b.c",
    ]
    with pytest.raises(Refusal) as refused:
        command.main(["--dump", str(tmp_path / "x.xml"), *flags])
    named = [problem.partition(":")[0] for problem in refused.value.problems]
    assert named == ["--language", "--project", "--date", "--url-limit", "--contact"]


@pytest.mark.parametrize("cut", ["between pages", "within a page"])
def test_a_file_that_was_cut_is_no_whole_dump(
    cut: str, xml: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gave the pages before the cut, and exit code 0."""
    monkeypatch.chdir(tmp_path)
    middle = xml.index(b"</page>", len(xml) // 2) + len(b"</page>")
    (tmp_path / "x.xml").write_bytes(xml[: middle if cut == "between pages" else middle - 30])
    with pytest.raises(
        Failure, match=r"x\.xml: it ends without </mediawiki>; the file is damaged or incomplete"
    ) as failed:
        command.main(["--dump", "x.xml", "--output-dir", "out", "--workers", "1"])
    assert "--max-pages" in str(failed.value)
    assert not list((tmp_path / "out").glob("*.jsonl"))
    command.main(["--dump", "x.xml", "--output-dir", "some", "--workers", "1", "--max-pages", "3"])
    assert len((tmp_path / "some" / "x.jsonl").read_bytes().splitlines()) == 3


def test_a_multistream_that_was_cut_or_damaged(
    site_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    packed = (site_root / WIKI / "20250101" / ARTICLES).read_bytes()
    starts = [stream.offset for stream in LocalDump(site_root / WIKI / "20250101" / ARTICLES).streams()]
    (tmp_path / "cut.xml.bz2").write_bytes(packed[: starts[3]])
    (tmp_path / "damaged.xml.bz2").write_bytes(packed[: starts[2] + 200] + b"XXXX" + packed[starts[2] + 204 :])
    for name, words in (("cut", "it ends without </mediawiki>"), ("damaged", f"the stream at byte {starts[2]}")):
        with pytest.raises(Failure, match=words) as failed:
            command.main(["--dump", f"{name}.xml.bz2", "--output-dir", "out", "--workers", "1"])
        assert "download it again" in str(failed.value)
        assert "--date" not in str(failed.value)


def test_pages_that_are_all_broken(xml: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in old dumps, whose pages have no <ns>: a lower --min-chars would not help."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.xml").write_bytes(re.sub(rb"<ns>\d+</ns>", b"", xml))
    with pytest.raises(Failure, match="dumps from before 2012 have no <ns>: take a later one"):
        command.main(["--dump", "x.xml", "--output-dir", "out", "--workers", "1"])
