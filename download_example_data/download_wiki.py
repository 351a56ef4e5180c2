"""Download a Wikipedia and write its articles as JSON Lines. `python download_wiki.py --help` lists the flags."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nemo_workflow.utils.errors import run_command

if __name__ == "__main__":
    run_command("nemo_workflow.wikipedia.command:main")
