"""The line that a person sees, where nobody sees it any more."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_workflow.utils import console
from nemo_workflow.utils.console import Meter, human_count
from tests.e2e.run.harness import REPOSITORY
from tests.waiting import LIMIT

PROGRAM = """
import sys
from nemo_workflow.utils.console import Meter
from nemo_workflow.utils.errors import run_command
def main():
    sys.stdin.readline()
    meter = Meter(sys.stdout, outlive=sys.argv[1] == "outlive")
    for _ in range(3):
        meter.note("a note")
        meter.show("a step", always=True)
        meter.close()
    print("of someone else", flush=True)
    print("done", file=sys.stderr)
run_command(main)
"""


@pytest.mark.parametrize(("kind", "code", "told"), [("outlive", 0, "done\n"), ("", 141, "")])
def test_a_closed_pipe_ends_only_what_is_made_to_be_seen(kind: str, code: int, told: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind], cwd=REPOSITORY, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout and process.stderr and process.stdin
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    errors = process.stderr.read()
    assert process.wait(LIMIT) == code and errors == told


def test_a_log_on_a_full_disk_goes_on_when_there_is_room() -> None:
    """/dev/full says that the disk is full; it stays the log."""
    program = PROGRAM.replace('print("of', 'import os; assert os.readlink("/proc/self/fd/1") == "/dev/full"; #')
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program, "outlive"], cwd=REPOSITORY, input="\n", text=True, stdout=full,
            stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert done.stderr.startswith("done\n")


@pytest.mark.parametrize(
    ("count", "said"),
    [(999, "999"), (1000, "1k"), (999_700_000, "1B"), (1_234_567, "1.23M"), (999.4, "999"), (5e15, "5e+03T")],
)
def test_a_count_is_short(count: float, said: str) -> None:
    assert human_count(count) == said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What a meter takes for the time."""
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console.shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((20, 5)))
    return now


def test_a_live_line_is_cut_to_the_terminal_and_drawn_ten_times_a_second(clock: list[float]) -> None:
    stream = Terminal()
    meter = Meter(stream)
    assert meter.columns == 19
    meter.show("x" * 30)
    meter.show("too soon")
    clock[0] += 0.0999
    meter.show("too soon")
    clock[0] += 0.0002
    meter.show("second")
    meter.show("third", always=True)
    assert stream.getvalue() == "\r\x1b[K" + "x" * 19 + "\r\x1b[Ksecond\r\x1b[Kthird"
    meter.note("stays")
    meter.note("this too")
    meter.close()
    assert stream.getvalue().endswith("third\r\x1b[Kstays\nthis too\n")
    meter.show("last", always=True)
    meter.close()
    meter.close()
    assert stream.getvalue().endswith("this too\n\r\x1b[Klast\n")


def test_a_log_has_a_line_every_so_often(clock: list[float]) -> None:
    stream = io.StringIO()
    meter = Meter(stream)
    meter.show("first, and longer than twenty characters")
    clock[0] += 9.9
    meter.show("too soon")
    meter.show("in any case", always=True)
    clock[0] += 9.9
    meter.show("too soon")
    clock[0] += 0.2
    meter.show("later")
    meter.note("a note")
    meter.close()
    assert stream.getvalue() == "first, and longer than twenty characters\nin any case\nlater\na note\n"
    often = Meter(io.StringIO(), every=0.0)
    often.show("a")
    often.show("b")
    assert isinstance(often.stream, io.StringIO) and often.stream.getvalue() == "a\nb\n"


def test_a_meter_writes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Meter().note("here")
    assert capsys.readouterr() == ("", "here\n")


class Broken(io.StringIO):
    """A stream that fails as one on a full disk does, or as a closed pipe."""

    def __init__(self, number: int, fd: int):
        super().__init__()
        self.number, self.fd = number, fd

    def write(self, text: str) -> int:
        raise OSError(self.number, "no")

    def fileno(self) -> int:
        return self.fd


@pytest.mark.parametrize(("number", "kept"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EPIPE, False), (errno.EIO, False)])  # fmt: skip
def test_a_stream_that_is_gone_leads_nowhere(tmp_path: Path, number: int, kept: bool) -> None:
    with (tmp_path / "log").open("w") as log:
        meter = Meter(Broken(number, log.fileno()), outlive=True)
        meter.note("unseen")
        assert os.path.samestat(os.fstat(log.fileno()), (tmp_path / "log").stat()) == kept
        assert os.path.samestat(os.fstat(log.fileno()), Path(os.devnull).stat()) != kept
        os.write(log.fileno(), b"still writable")
        with pytest.raises(OSError):
            Meter(Broken(number, log.fileno())).note("an error")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        *((lambda n=n: console.human_bytes(n), said) for n, said in (
            (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (-2048, "-2.0 KiB"), (2**20, "1.0 MiB"),
            (5 * 2**30, "5.0 GiB"), (2**40, "1.0 TiB"), (2**52, "4096.0 TiB"))),
        *((lambda n=n: console.human_time(n), said) for n, said in (
            (-5, "0 s"), (8.4, "8 s"), (59.6, "1 min 00 s"), (95, "1 min 35 s"), (3599, "59 min 59 s"), (3600, "1 h 00 min"),
            (3725, "1 h 02 min"), (360_000, "100 h 00 min"))),
        *((lambda n=n: console.human_step(n), said) for n, said in ((0.07412, "0.0741 s"), (62.51, "62.5 s"), (2240, "37 min 20 s"))),
        *((lambda n=n, noun=noun: console.counted(n, noun), said) for n, noun, said in (
            (1, "step", "1 step"), (6000, "step", "6,000 steps"), (0, "step", "0 steps"), (2, "batch", "2 batches"),
            (2, "class", "2 classes"), (1, "batch", "1 batch"), (2, "epoch", "2 epochs"), (3, "branch", "3 branches"))),
        *((lambda n=n: console.every(n), said) for n, said in ((1, "every step"), (6, "every 6 steps"), (6000, "every 6,000 steps"))),
        *((lambda names=names: console.and_more(names), said) for names, said in (
            (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a and 2 more"), (["a"] * 5001, "a and 5,000 more"))),
        *((lambda n=n: console.human_count(n), said) for n, said in (
            (0, "0"), (12.4, "12"), (999.6, "1k"), (1500, "1.5k"), (-2500, "-2.5k"), (1e6, "1M"), (7e9, "7B"), (15e12, "15T"))),
    ],
)  # fmt: skip
def test_numbers_for_people(call: Callable[[], str], said: str) -> None:
    assert call() == said


def test_counts_and_large_numbers_are_said_as_people_write_them() -> None:
    assert [console.counted(1, "entry"), console.counted(2, "entry"), console.counted(1200, "key")] == [
        "1 entry",
        "2 entries",
        "1,200 keys",
    ]
    assert [console.one_of([1]), console.one_of([1, 2]), console.one_of([1, 2, 4])] == ["1", "1 or 2", "1, 2 or 4"]
    assert console.human_epochs(1.5) == "1.50 epochs" and console.human_epochs(406091370.56) == "406,091,371 epochs"
