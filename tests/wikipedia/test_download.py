"""Files over HTTP: resume, retries, checksums, two connections."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from nemo_workflow.utils.errors import Failure
from nemo_workflow.wikipedia.download import Downloads, Tally, fetch
from nemo_workflow.wikipedia.http import Client
from nemo_workflow.wikipedia.site import RemoteFile
from tests.waiting import LIMIT
from tests.wikipedia.conftest import ARTICLES
from tests.wikipedia.dump_site import DumpSite, Fault

PLACE = f"zh_classicalwiki/20250101/{ARTICLES}"


@pytest.fixture
def file(site: DumpSite) -> RemoteFile:
    content = (site.root / PLACE).read_bytes()
    return RemoteFile(ARTICLES, f"{site.url}/{PLACE}", len(content), hashlib.sha1(content).hexdigest())


def get(file: RemoteFile, folder: Path) -> Tally:
    tally = Tally()
    with Client("agent/1") as client:
        path = fetch(client, file, folder, tally)
    assert hashlib.sha1(path.read_bytes()).hexdigest() == file.sha1
    assert [p.name for p in folder.iterdir()] == [file.name]
    assert tally.done == file.size
    return tally


def test_whole_file_with_user_agent(site: DumpSite, file: RemoteFile, tmp_path: Path) -> None:
    get(file, tmp_path)
    (asked,) = site.asked
    assert (asked.range, asked.agent) == (None, "agent/1")


def test_a_right_file_is_not_fetched_again(site: DumpSite, file: RemoteFile, tmp_path: Path) -> None:
    get(file, tmp_path)
    site.asked.clear()
    assert get(file, tmp_path).fetched == 0
    assert site.asked == []


def test_cut_connections_go_on_where_they_ended(site: DumpSite, file: RemoteFile, tmp_path: Path) -> None:
    site.faults[ARTICLES] = [Fault(cut_after=30_000), Fault(cut_after=0), Fault(cut_after=20_000)]
    assert get(file, tmp_path).fetched == file.size
    assert site.ranges(ARTICLES) == [None, "bytes=30000-", "bytes=30000-", "bytes=50000-"]


def test_half_a_file_of_an_earlier_call(site: DumpSite, file: RemoteFile, tmp_path: Path) -> None:
    content = (site.root / PLACE).read_bytes()
    (tmp_path / f"{ARTICLES}.part").write_bytes(content[:40_000])
    assert get(file, tmp_path).fetched == file.size - 40_000
    assert site.ranges(ARTICLES) == ["bytes=40000-"]


def test_half_a_file_of_another_program(site: DumpSite, file: RemoteFile, tmp_path: Path) -> None:
    (tmp_path / ARTICLES).write_bytes((site.root / PLACE).read_bytes()[:50_000])
    get(file, tmp_path)
    assert site.ranges(ARTICLES) == ["bytes=50000-"]


def test_whole_part_without_its_name(site: DumpSite, file: RemoteFile, tmp_path: Path) -> None:
    (tmp_path / f"{ARTICLES}.part").write_bytes((site.root / PLACE).read_bytes())
    get(file, tmp_path)
    assert site.asked == []


def test_a_server_without_ranges(site: DumpSite, file: RemoteFile, tmp_path: Path) -> None:
    site.faults[ARTICLES] = [Fault(cut_after=30_000), Fault(ignore_range=True)]
    assert get(file, tmp_path).fetched == file.size + 30_000


def test_a_busy_server(site: DumpSite, file: RemoteFile, tmp_path: Path) -> None:
    site.faults[ARTICLES] = [Fault(status=503, headers={"Retry-After": "0"}), Fault(status=500)]
    get(file, tmp_path)
    assert len(site.asked) == 3


@pytest.mark.parametrize("leftover", [b"wrong" * 2000, b"x" * 10_000_000], ids=["shorter", "longer"])
def test_wrong_leftover_is_replaced(site: DumpSite, file: RemoteFile, tmp_path: Path, leftover: bytes) -> None:
    (tmp_path / f"{ARTICLES}.part").write_bytes(leftover)
    get(file, tmp_path)


def test_wrong_checksum_once(site: DumpSite, file: RemoteFile, tmp_path: Path) -> None:
    site.faults[ARTICLES] = [Fault(spoil=True)]
    tally = get(file, tmp_path)
    (note,) = tally.take_notes()
    assert ARTICLES in note and file.sha1 in note
    assert site.ranges(ARTICLES) == [None, None]


def test_wrong_checksum_twice(site: DumpSite, file: RemoteFile, tmp_path: Path) -> None:
    site.faults[ARTICLES] = [Fault(spoil=True), Fault(spoil=True)]
    with Client("test") as client, pytest.raises(Failure) as failed:
        fetch(client, file, tmp_path, Tally())
    for word in (file.url, "SHA-1", "twice", "--base-url", "--date"):
        assert word in str(failed.value)
    assert list(tmp_path.iterdir()) == []


def test_connections_cut_without_end(site: DumpSite, file: RemoteFile, tmp_path: Path) -> None:
    site.faults[ARTICLES] = [Fault(cut_after=1000)] + [Fault(cut_after=0)] * 20
    with Client("test") as client, pytest.raises(Failure) as failed:
        fetch(client, file, tmp_path, Tally())
    for word in (file.url, f"1000 of {file.size} bytes", "same command continues"):
        assert word in str(failed.value)
    assert (tmp_path / f"{ARTICLES}.part").stat().st_size == 1000


def test_a_file_that_vanished(site: DumpSite, file: RemoteFile, tmp_path: Path) -> None:
    site.faults[ARTICLES] = [Fault(status=404)]
    with Client("test") as client, pytest.raises(Failure, match="HTTP 404"):
        fetch(client, file, tmp_path, Tally())


def test_two_connections_at_most(site: DumpSite, tmp_path: Path) -> None:
    folder = site.root / "enwiki" / "20250101"
    files = []
    for path in sorted(folder.glob("*.bz2")):
        content = path.read_bytes()
        url = f"{site.url}/enwiki/20250101/{path.name}"
        files.append(RemoteFile(path.name, url, len(content), hashlib.sha1(content).hexdigest()))
        site.faults[path.name] = [Fault(slow=0.02)]
    downloads = Downloads(tmp_path, lambda stop: Client("test", stop), Tally())
    futures = [downloads.submit(file) for file in files]
    for future in futures:
        future.result(timeout=LIMIT)
    assert len(files) == 6
    assert site.most_at_once == 2
