"""The pages: they build without a warning, and every link inside the site leads somewhere."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.runs.browser import needs_browser, opened, show

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
BEGIN = ("quickstart", "layout", "runs", "troubleshooting", "known_issues", "versions", "architecture", "flags")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", ".", str(place)]
    built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return place


class Page(HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and (name == "href" or (name == "src" and tag != "iframe")):
                self.links.append(value)
            if value and name == "id":
                self.anchors.add(value)


def test_every_internal_link_leads_somewhere(site: Path) -> None:
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    broken, checked = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            checked += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages.get(target)
            if not target.exists() or (parts.fragment and known and unquote(parts.fragment) not in known.anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == [] and checked > 500


def test_every_page_is_in_the_navigation(site: Path) -> None:
    links = Page((site / "docs" / "index.html").read_text(encoding="utf-8")).links
    for page in (REPOSITORY / "docs").glob("*.md"):
        assert page.stem == "index" or f"{page.stem}.html" in links, page.name
    assert all(f"{name}.html" in links for name in BEGIN) and "../README.html" in links


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "conf.py").write_bytes((REPOSITORY / "docs" / "conf.py").read_bytes())
    (tmp_path / "docs" / "index.md").write_text("# Here\n\n[there](nowhere.md)\n")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-c", "docs", ".", str(tmp_path / "out")]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode != 0 and "nowhere.md" in built.stderr


def test_flags_stay_as_they_are_typed(site: Path) -> None:
    """No dash that a shell doesn't know; the site's own folder opens on the first page."""
    assert "docs/index.html" in (site / "index.html").read_text(encoding="utf-8")
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "\u2013dry-run" not in text and "\u2013output-dir" not in text, page


def test_the_guide_stands_once_in_the_navigation(site: Path) -> None:
    text = (site / "docs" / "index.html").read_text(encoding="utf-8")
    assert (
        text.count('href="../README.html"') == text.count('href="../README.html">The guide<') == 2
    )  # sidebar and page
    assert "Copyright" not in text


CUT = """
const width = document.documentElement.clientWidth;
const beyond = e => e.getBoundingClientRect().right > width + 1;
return {
  wide: document.documentElement.scrollWidth > width,
  cut: [...document.querySelectorAll('p code, li code, h1, h2, img')].filter(e => !e.closest('td') && beyond(e)).length,
  pictures: [...document.querySelectorAll('article img')].filter(i => i.complete && i.naturalWidth > 0).length,
};
"""
PICTURES = {
    "README": 3,
    "docs/runs": 2,
    "docs/layout": 2,
    "docs/troubleshooting": 0,
    "docs/flags": 0,
    "docs/preprocess": 0,
}


@needs_browser
def test_pages_fit_a_phone_and_a_desktop(site: Path, tmp_path: Path) -> None:
    """Nothing but code blocks and tables is wider than the screen, and these scroll; every picture is shown."""
    with opened(tmp_path) as driver:
        for page, pictures in PICTURES.items():
            for width in (390, 1280):
                show(driver, site / f"{page}.html", width, 844)
                assert driver.execute_script(CUT) == {"wide": False, "cut": 0, "pictures": pictures}, (page, width)
