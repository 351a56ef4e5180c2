"""report.html of a generated run: its size, its words, and what a real browser makes of it."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest

from nemo_workflow.run_dir.run import RunFolder
from nemo_workflow.runs.report.page import write_comparison
from tests.runs import browser, fake_runs
from tests.waiting import LIMIT

CHARTS = ["Loss", "Loss by tokens", "Learning rate", "Gradient norm", "Speed", "Memory"]
INKED = """
return Bokeh.documents[0].roots().map(root => {
  const view = Bokeh.index.get_by_id(root.id);
  const layer = view.canvas_view.primary.canvas;
  const pixels = layer.getContext("2d").getImageData(0, 0, layer.width, layer.height).data;
  let coloured = 0;
  for (let at = 0; at < pixels.length; at += 4) {
    const [red, green, blue] = pixels.slice(at, at + 3);
    if (Math.max(red, green, blue) - Math.min(red, green, blue) > 80 && pixels[at + 3] > 100) coloured++;
  }
  const lines = root.renderers.map(r => r.data_source.data.x.length);
  return [root.name, coloured, lines];
})"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fake_runs.reported(tmp_path_factory.mktemp("experiments") / "demo")


@pytest.mark.e2e
@browser.needs_browser
def test_a_browser_draws_it(run: RunFolder, tmp_path: Path) -> None:
    with browser.opened(tmp_path / "profile") as driver:
        for name, width, dark in (("desktop", 1300, False), ("dark", 1300, True), ("phone", 390, False)):
            browser.show(driver, run.path / "report.html", width, 900, dark)
            drawn = wait_for_charts(driver)
            assert [title for title, _, _ in drawn] == CHARTS
            for title, coloured, lines in drawn:
                assert coloured > 50, f"{title} is empty ({name})"
                assert lines[0] == 100
            assert drawn[0][2][1:3] == [99, 4]  # means of two steps; validations at 25, 50, 75, 100
            wide = driver.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, "it has to be pushed sideways"
            ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(255, 255, 255)") is not dark
            shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
            (tmp_path / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
        complaints = [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        assert complaints == []
        asked = [
            entry["message"]
            for entry in driver.get_log("performance")
            if "Network.requestWillBeSent" in entry["message"]
        ]
        assert not [message for message in asked if '"url":"http' in message]


@pytest.mark.e2e
@browser.needs_browser
def test_a_browser_draws_the_comparison(run: RunFolder, tmp_path: Path) -> None:
    fake_runs.write_run(tmp_path / "other", lr=5e-4)
    page = write_comparison([run, RunFolder(tmp_path / "other")], [("lr", "0.001", "0.0005")], tmp_path / "both.html")
    with browser.opened(tmp_path / "profile") as driver:
        browser.show(driver, page, 1300, 900)
        drawn = wait_for_charts(driver)
        assert len([lines for lines in drawn[0][2] if lines == 100]) == 2
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def wait_for_charts(driver: object) -> list[list[object]]:
    end = time.monotonic() + LIMIT
    while True:
        try:
            found = driver.execute_script(INKED)  # type: ignore[attr-defined]
            if found and all(coloured > 50 for _, coloured, _ in found):
                return found
        except Exception:  # noqa: BLE001 - not there yet
            found = []
        if time.monotonic() > end:
            return found
        time.sleep(0.3)
