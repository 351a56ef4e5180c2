"""A dump site with three small dumps, and the command called against it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_workflow.wikipedia import command, extract, http
from tests.wikipedia.dump import write_dump
from tests.wikipedia.dump_site import DumpSite
from tests.wikipedia.generator import Page, pages

WIKI = "zh_classicalwiki"
NAME = f"{WIKI}-20250101-pages-articles-multistream"
ARTICLES, INDEX = f"{NAME}.xml.bz2", f"{NAME}-index.txt.bz2"


@pytest.fixture(scope="session")
def made() -> list[Page]:
    return list(pages(420))


@pytest.fixture(scope="session")
def site_root(tmp_path_factory: pytest.TempPathFactory, made: list[Page]) -> Path:
    """zh-classical: an unfinished dump, the newest finished one, an old one. en: a dump in three parts."""
    root = tmp_path_factory.mktemp("site")
    write_dump(root, [made], date="20250101")
    write_dump(root, [made[:5]], date="20250120", status="in-progress")
    write_dump(root, [made[:5]], date="20241201")
    write_dump(root, [made[:150], made[150:300], made[300:]], wiki="enwiki")
    return root


@pytest.fixture
def site(site_root: Path) -> Iterator[DumpSite]:
    serving = DumpSite(site_root)
    yield serving
    serving.close()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off for hundredths of a second instead of seconds."""
    monkeypatch.setattr(http, "FIRST_WAIT", 0.01)


@pytest.fixture(autouse=True)
def workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers forked from a process that has imported what they need; started from nothing, each takes a third of a second.

    So starts the `downloaded` of test_local_dump.py, and all in tests/e2e/wikipedia.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nemo_workflow.wikipedia.extract"])
    monkeypatch.setattr(extract, "multiprocessing", SimpleNamespace(get_context=lambda method: context))


@pytest.fixture
def wiki(site: DumpSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run the command in an empty folder with one worker; return that folder."""
    monkeypatch.chdir(tmp_path)

    def call(*flags: str) -> Path:
        command.main(["--base-url", site.url, "--workers", "1", *flags])
        return tmp_path

    return call
