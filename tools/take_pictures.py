"""The pages' pictures, all of runs of our own: `python -m tools.take_pictures` writes docs/pictures/ (minutes on a CPU).

continual.png: the losses of docs/continual.md's two runs, whose commands are all run. live.svg: the terminal while the laptop's example trains; report.png: the report of that run, in Chromium; plan.svg: what
--dry-run prints of the example for an H100. The text is Python's own sources.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nemo_workflow import REPOSITORY
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import Failure, Refusal, run_command
from nemo_workflow.utils.files import written_aside
from tools import demo, terminal_picture

FOLDER = REPOSITORY / "docs" / "pictures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = "1200,1100"
LOWER = "1500,590"
LINKS = (
    "pretrain_llm.py",
    "preprocess_data.sh",
    "ckpt_conversion",
    "tools",
    "nemo_workflow",
)  # that the page's commands name
CORPUS_BYTES = 160_000_000
SHOWN = 75  # step at which the terminal is taken
TRAINING = "python pretrain_llm.py --config examples/laptop.yaml -E my_run --split 98,1,1 --val-check-interval 50"
PLAN = "python pretrain_llm.py --config examples/one_h100.yaml --hf-model-id my_tokenizer --max-steps 80 -E h100_run --dry-run"


def main() -> int:
    """Make the data, train, and take the three pictures."""
    parser = Parser(
        prog="python -m tools.take_pictures",
        description="Write the pages' pictures: train the laptop's example on Python's sources, take the terminal, the"
        " report and a plan, and run docs/continual.md. What is in --work-dir already is used again.",
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("/tmp/nemo_workflow"),
        help="folder of data and run, to be seen in the pictures (default /tmp/nemo_workflow)",
    )
    parser.add_argument("--only", choices=("laptop", "continual"), help="one page's pictures; unset: all")
    arguments = parser.parse_args()
    work = arguments.work_dir.absolute()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise Refusal(f"no browser found ({', '.join(BROWSERS)}); apt-get install chromium")
    FOLDER.mkdir(parents=True, exist_ok=True)
    if arguments.only != "continual":
        make_data(work)
        take_live_line(work)
        take_plan(work)
        take_page(browser, work / "nemo_experiments" / "my_run" / "report.html", "report.png", SIZE)
    if arguments.only != "laptop":
        take_continual(browser, work / "continual")
    return 0


def take_continual(browser: str, place: Path) -> None:
    """Run what docs/continual.md shows, in a folder like a clone, and take the page that compares its runs."""
    place.mkdir(parents=True, exist_ok=True)
    for name in LINKS:
        if not (place / name).exists():
            (place / name).symlink_to(REPOSITORY / name)
    text = (REPOSITORY / "docs" / "continual.md").read_text(encoding="utf-8")
    script = "\n".join(re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-eux"], input=script, text=True, cwd=place, env={**os.environ, "PATH": path}, check=True)
    take_page(browser, place / "nemo_experiments" / "compare-chinese-mixed.html", "continual.png", LOWER)


def make_data(work: Path) -> None:
    """my_tokenizer and my_data, as the examples name them."""
    texts = work / "sources.jsonl"
    if not texts.exists():
        work.mkdir(parents=True, exist_ok=True)
        with written_aside(texts) as stream:
            for text in sources(CORPUS_BYTES):
                stream.write(json.dumps({"text": text}) + "\n")
    if not (work / "my_tokenizer").exists():
        with tempfile.TemporaryDirectory() as place:
            demo.write_corpus(Path(place) / "part.jsonl")
            demo.train_tokenizer(Path(place) / "part.jsonl", work / "my_tokenizer")
    if not (work / "my_data").exists():
        script, flags = (
            REPOSITORY / "preprocess_data.sh",
            f"--tokenizer my_tokenizer --input {texts.name} --output-dir my_data",
        )
        subprocess.run(["bash", str(script), *flags.split()], cwd=work, check=True)


def sources(limit: int) -> Iterator[str]:
    """The environment's Python files, `limit` bytes of them at most."""
    size = 0
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        size += len(text)
        if size > limit:
            return
        yield text


def words_of(command: str) -> list[str]:
    """A command as it is shown -> as it is run from another folder."""
    words = shlex.split(command)
    words[:2] = [sys.executable, str(REPOSITORY / words[1])]
    return [str(REPOSITORY / word) if word.startswith("examples/") else word for word in words]


def take_live_line(work: Path) -> None:
    """Train to the end; the picture is the terminal as it stood at step SHOWN."""
    if (work / "nemo_experiments" / "my_run").exists():
        raise Refusal(f"{work / 'nemo_experiments' / 'my_run'}: exists; delete it, or name another --work-dir")
    taken: list[str] = []

    def seen(lines: list[str]) -> None:
        if not taken and lines and re.match(rf"step {SHOWN}/\d+ .* left$", lines[-1]):
            # a speed that other processes took is not the example's
            taken.extend(line for line in lines if "other processes share the CPU" not in line)

    code = terminal_picture.record(words_of(TRAINING), work, seen)
    if code or not taken:
        raise Failure(f"exit code {code} of the training; step {SHOWN} was{'' if taken else ' not'} seen")
    write("live.svg", terminal_picture.svg(TRAINING, taken, "a run while it trains"))


def take_plan(work: Path) -> None:
    done = subprocess.run(words_of(PLAN), cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(done.stderr)
    write("plan.svg", terminal_picture.svg(PLAN, done.stdout.splitlines(), "a plan, made on a laptop"))


def take_page(browser: str, page: Path, name: str, size: str) -> None:
    """A screen of a report, as a desktop shows it."""
    picture = FOLDER / name
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        flags += [f"--window-size={size}", "--virtual-time-budget=8000", f"--screenshot={picture}"]
        done = subprocess.run([browser, *flags, page.as_uri()], capture_output=True, text=True, check=False)
    if done.returncode or not picture.is_file():
        raise Failure(f"{browser}: {done.stderr.strip()[-500:]}")
    print(f"{picture}: {picture.stat().st_size / 1024:.0f} KiB")


def write(name: str, picture: str) -> None:
    with written_aside(FOLDER / name) as stream:
        stream.write(picture)
    print(f"{FOLDER / name}: {len(picture) / 1024:.0f} KiB")


if __name__ == "__main__":
    run_command(main)
