"""The pages' pictures, of a run of our own: `python -m tools.take_pictures RUN` writes docs/pictures/ with Chromium."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from nemo_workflow import REPOSITORY
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import Failure, Refusal, run_command

FOLDER = REPOSITORY / "docs" / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = "1200,900"


def main() -> int:
    """A screen of the run's report, as a desktop shows it."""
    parser = Parser(
        prog="python -m tools.take_pictures",
        description="Write the pictures of the pages from a finished run's report, with Chromium.",
    )
    parser.add_argument("run", type=Path, help="folder of a run, such as nemo_experiments/my_run")
    report = parser.parse_args().run / "report.html"
    if not report.is_file():
        raise Refusal(f"{report}: no such file; python -m nemo_workflow.runs report writes it")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise Refusal(f"no browser found ({', '.join(BROWSERS)}); apt-get install chromium")
    FOLDER.mkdir(parents=True, exist_ok=True)
    picture = FOLDER / "report.png"
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        flags += [f"--window-size={SIZE}", "--virtual-time-budget=8000", f"--screenshot={picture}"]
        done = subprocess.run(
            [browser, *flags, report.absolute().as_uri()], capture_output=True, text=True, check=False
        )
    if done.returncode or not picture.is_file():
        raise Failure(f"{browser}: {done.stderr.strip()[-500:]}")
    print(f"{picture}: {picture.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    run_command(main)
