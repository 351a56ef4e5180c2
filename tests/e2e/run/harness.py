"""Starts pretrain_llm.py as a user would, with faults at chosen points, and reads what a run left behind."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_workflow.run_dir import metrics
from nemo_workflow.run_dir.checkpoints import list_checkpoints, problem_of
from tests.waiting import LIMIT, until

REPOSITORY = Path(__file__).resolve().parents[3]
FAULTS = Path(__file__).parent / "faults"
FONTS = f"{tempfile.gettempdir()}/nemo-workflow-{os.getuid()}/matplotlib"  # listed once for all


@dataclass
class Start:
    """How one start ended."""

    code: int
    output: str


@dataclass(eq=False)
class Experiment:
    """One experiment: its folder and the command that starts it."""

    corpus: Path  # holds tokenizer/ and dataset/
    output: Path
    name: str = "run"
    ranks: int = 1
    steps: int = 12
    flags: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.output / self.name

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def command(self, *more: str, steps: int | None = None) -> list[str]:
        return [
            sys.executable, "pretrain_llm.py", "--accelerator", "cpu", "--model-name", "llama_tiny",
            "--hf-model-id", str(self.corpus / "tokenizer"), "--dataset-dir", str(self.corpus / "dataset"),
            "--output-dir", str(self.output), "--experiment", self.name, "--num-gpus", str(self.ranks),
            "--global-batch-size", "4", "--micro-batch-size", "2", "--seq-length", "64",
            "--max-steps", str(steps or self.steps), "--save-every", "4", "--val-check-interval", "4",
            "--log-every", "1", *self.flags, *more,
        ]  # fmt: skip

    def start(
        self,
        *more: str,
        steps: int | None = None,
        fault: str | None = None,
        record: Path | None = None,
        slow: float | None = None,
        background: bool | None = None,
        old_cpu: int | None = None,
        report: bool | None = None,
        when: Callable[[dict[str, Any]], bool] | None = None,
        send: int = signal.SIGTERM,
        prefix: tuple[str, ...] = (),
    ) -> Start:
        """Run the command to its end; `when` an event fits, the launcher gets the signal `send`, once."""
        asked = {
            "FAULT": fault,
            "RECORD": record,
            "SLOW": slow,
            "ASYNC": background,
            "OLD_CPU": old_cpu,
            "REPORT": report,
        }
        environment = {key: value for key, value in os.environ.items() if key not in asked}
        environment |= {key: str(value) for key, value in asked.items() if value is not None}
        environment["PYTHONPATH"] = str(FAULTS)
        environment |= {"TMPDIR": self.temporary, "MPLCONFIGDIR": FONTS}
        tail = metrics.Tail(self.folder / metrics.FILE, from_end=True)
        words = [*prefix, *self.command(*more, steps=steps)]
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(words, cwd=REPOSITORY, env=environment, stdout=said, stderr=said)
            self._follow(process, tail, when, send)
            said.seek(0)
            output = said.read().decode()
        return Start(process.returncode, output)

    def _follow(
        self,
        process: subprocess.Popen[bytes],
        tail: metrics.Tail,
        when: Callable[[dict[str, Any]], bool] | None,
        send: int,
    ) -> None:
        try:
            if when is not None:
                end = time.monotonic() + LIMIT
                while process.poll() is None and time.monotonic() < end:
                    if any(when(event) for event in tail.new()):
                        process.send_signal(send)
                        break
                    time.sleep(0.02)
            process.wait(timeout=LIMIT)
        finally:
            process.kill()

    @functools.cached_property
    def temporary(self) -> str:
        """The TMPDIR of all starts: not pytest's, whose path is too long for sockets."""
        folder = tempfile.mkdtemp(dir="/tmp")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    # -- what it left ---------------------------------------------------------------------------------------------

    def events(self) -> list[dict[str, Any]]:
        """Events of the history that counts."""
        return metrics.effective(metrics.read(self.folder / metrics.FILE))

    def history(self) -> dict[str, Any]:
        """Everything that must not depend on how often a run was stopped."""
        kept = self.events()
        return {
            "steps": [
                [e[key] for key in ("step", "loss", "lr", "grad_norm", "consumed_samples")]
                for e in kept
                if e["event"] == "step"
            ],
            "validations": [[e["step"], e["val_loss"]] for e in kept if e["event"] == "validation"],
        }

    def left_in_temporary(self) -> list[str]:
        """Our folders and multiprocessing's among the temporary files."""
        return sorted(path.name for kind in ("pymp-*", "nemo-????????") for path in Path(self.temporary).glob(kind))

    def whole(self) -> list[int]:
        """Steps of the checkpoints that are whole."""
        return [c.step for c in list_checkpoints(self.checkpoints) if problem_of(c) is None]

    def resumed_after(self) -> int:
        """The step that the last start went on from."""
        return [e["step"] for e in metrics.read(self.folder / metrics.FILE) if e["event"] == "start"][-1]

    def attempt(self) -> Path:
        """Folder of the last start."""
        return max((self.folder / "attempts").iterdir(), key=lambda path: path.stat().st_mtime)


Sample = tuple[int, int, int, str, str]


def samples(record: Path) -> dict[str, list[Sample]]:
    """What RECORD holds: part -> (index, epoch, number, source, hash of the tokens) in the order of the index."""
    parts: dict[str, set[Sample]] = {}
    for line in record.read_text(encoding="utf-8").splitlines():
        _, part, index, epoch, number, source, tokens = line.split("\t")
        parts.setdefault(part, set()).add((int(index), int(epoch), int(number), source, tokens))
    return {part: sorted(rows) for part, rows in parts.items()}


def lines_of(record: Path, part: str) -> list[int]:
    """Indices of a part as they were read, in order."""
    rows = [line.split("\t") for line in record.read_text(encoding="utf-8").splitlines()]
    return [int(row[2]) for row in rows if row[1] == part]


def flip_a_byte(path: Path, at: float = 0.5) -> None:
    """Damage a file without changing its size."""
    with path.open("rb+") as stream:
        stream.seek(int(path.stat().st_size * at))
        byte = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([byte[0] ^ 0x10]))


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names a folder."""
    import psutil

    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or []):
            found.append(process.pid)
    return found


def none_left(folder: Path) -> bool:
    """Wait until all processes of a run are gone."""
    return bool(until(lambda: not processes_of(folder), 0.2))


def manifest(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
