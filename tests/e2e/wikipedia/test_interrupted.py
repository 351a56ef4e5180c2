"""Killed and interrupted calls: the next one goes on, and the output is the same to the byte."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.waiting import LIMIT, all_gone, until
from tests.wikipedia.dump_site import DumpSite, Fault

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).resolve().parents[3] / "download_example_data" / "download_wiki.py"
NAME = "enwiki-20250101-pages-articles-multistream"
LAST = f"{NAME}3.xml-p301p420.bz2"


class Call:
    """download_wiki.py in a process group of its own."""

    def __init__(self, site: DumpSite, folder: Path):
        command = [
            sys.executable,
            SCRIPT,
            "--base-url",
            site.url,
            "--language",
            "en",
            "--workers",
            "2",
            "--output-dir",
            folder,
        ]
        self.folder = folder
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def wait_for(self, true: Callable[[], bool]) -> None:
        def seen() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            return true()

        until(seen)

    def at_last_part(self) -> bool:
        """Two parts are in the journal and the third is being fetched."""
        try:
            entry = json.loads((self.folder / "dump" / f"{NAME}.jsonl.progress.json").read_text())
        except FileNotFoundError:
            return False
        return entry["part"] == 2 and (self.folder / "dump" / f"{LAST}.part").exists()

    def finish(self) -> str:
        out, errors = self.process.communicate(timeout=LIMIT)
        assert self.process.returncode == 0, errors
        return out + errors


def output(folder: Path) -> bytes:
    return (folder / f"{NAME}.jsonl").read_bytes()


@pytest.fixture
def whole(site: DumpSite, tmp_path: Path) -> bytes:
    """What a call that nobody interrupts writes."""
    Call(site, tmp_path / "whole").finish()
    return output(tmp_path / "whole")


def test_kill_9(site: DumpSite, tmp_path: Path, whole: bytes) -> None:
    held = threading.Event()
    site.faults[LAST] = [Fault(held=held)]
    call = Call(site, tmp_path / "killed")
    call.wait_for(call.at_last_part)
    workers = psutil.Process(call.process.pid).children(recursive=True)
    assert len(workers) >= 2
    os.kill(call.process.pid, signal.SIGKILL)
    call.process.communicate()
    assert all_gone(worker.pid for worker in workers)
    held.set()
    assert not (tmp_path / "killed" / f"{NAME}.jsonl").exists()
    have = (tmp_path / "killed" / "dump" / f"{LAST}.part").stat().st_size
    site.asked.clear()
    said = Call(site, tmp_path / "killed").finish()
    assert "Going on after 300 pages" in said
    assert output(tmp_path / "killed") == whole
    assert site.ranges(LAST) == [f"bytes={have}-"] if have else [None]
    fetched = {asked.path.rsplit("/")[-1] for asked in site.asked if asked.path.endswith(".bz2")}
    assert fetched <= {LAST, f"{NAME}-index3.txt-p301p420.bz2"}


def test_ctrl_c(site: DumpSite, tmp_path: Path, whole: bytes) -> None:
    site.faults[LAST] = [Fault(slow=4)]
    call = Call(site, tmp_path / "stopped")
    call.wait_for(call.at_last_part)
    os.killpg(call.process.pid, signal.SIGINT)
    _, errors = call.process.communicate(timeout=LIMIT)
    assert call.process.returncode == 130
    assert "Stopped after 300 pages; the same command continues from here." in errors
    assert "Traceback" not in errors
    assert "Going on after 300 pages" in Call(site, tmp_path / "stopped").finish()
    assert output(tmp_path / "stopped") == whole


def test_killed_worker(site: DumpSite, tmp_path: Path, whole: bytes) -> None:
    held = threading.Event()
    site.faults[LAST] = [Fault(held=held)]
    call = Call(site, tmp_path / "worker")
    call.wait_for(call.at_last_part)
    for worker in psutil.Process(call.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # once one is gone the pool ends the others
            if "spawn_main" in " ".join(worker.cmdline()):
                worker.kill()
    held.set()
    _, errors = call.process.communicate(timeout=LIMIT)
    assert call.process.returncode == 1
    assert "a worker process was killed" in errors and "--workers" in errors
    assert "Traceback" not in errors
    Call(site, tmp_path / "worker").finish()
    assert output(tmp_path / "worker") == whole


def test_kills_at_any_moment(site: DumpSite, tmp_path: Path, whole: bytes) -> None:
    chance = random.Random(5)
    for _ in range(5):
        call = Call(site, tmp_path / "often")
        time.sleep(chance.uniform(0.3, 1.8))
        os.killpg(call.process.pid, signal.SIGKILL)
        call.process.communicate()
    Call(site, tmp_path / "often").finish()
    assert output(tmp_path / "often") == whole
