"""What a forked rank has of its own, how it ends, and when ranks are not forked. What NeMo imports is left out.

With NeMo: every start of tests/e2e/run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_workflow.launch import torchrun
from nemo_workflow.training import liveness, rank
from nemo_workflow.utils.errors import STOPPED
from nemo_workflow.utils.folder_kinds import PLAN
from tests.e2e.run.harness import REPOSITORY
from tests.waiting import LIMIT, until

# two ranks, forked one after the other; each does the Python code that it is handed
PARENT = """
import atexit, functools, json, os, random, signal, socket, sys, time

import numpy

from pathlib import Path
from nemo_workflow.launch import torchrun
from nemo_workflow.training import rank

folder, code = Path(sys.argv[1]), sys.argv[2]

def be(attempt):
    exec(code, {"attempt": attempt, "folder": folder, "parent": parent, "store": store})

rank.main, parent = be, os.getpid()
atexit.register(lambda: print("at exit", os.environ.get("RANK")))
opened = set(torchrun._descriptors())
store = socket.create_server(("127.0.0.1", 0))  # torchrun's, which must go with torchrun
signal.signal(signal.SIGTERM, lambda *_: print("torchrun's own handler"))
codes = []
for number in ("0", "1"):
    os.environ["ONLY_OF_TORCHRUN"] = "yes"
    variables = {"RANK": number, "LOCAL_RANK": number, "PATH": os.environ["PATH"]}
    with (folder / f"out{number}").open("w") as out, (folder / f"err{number}").open("w") as err:
        words = ("python", "-u", "-m", "the.module", str(folder))
        fork = torchrun.Fork(functools.partial(torchrun._be_rank, words, variables, (out, err), opened))
        codes.append(fork.wait(600))
print(json.dumps(codes))
os._exit(0)
"""


def forked(folder: Path, code: str) -> tuple[list[int], list[str], list[str]]:
    """(exit codes, what was printed, what was complained of) of two ranks that do `code`."""
    done = subprocess.run(
        [sys.executable, "-c", PARENT, folder, code], cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0 and done.stderr == "", done
    out, err = ([(folder / f"{name}{number}").read_text() for number in "01"] for name in ("out", "err"))
    return json.loads(done.stdout.splitlines()[-1]), out, err


@pytest.mark.parametrize(
    ("code", "ends", "complaint"),
    [
        ("pass", 0, ""),
        ("raise SystemExit", 0, ""),
        ("import sys; sys.exit(75)", 75, ""),
        ("import sys; sys.exit('why')", 1, "why\n"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import os; os._exit(9)", 9, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15, ""),
    ],
)
def test_a_forked_rank_ends_as_a_python_would(code: str, ends: int, complaint: str, tmp_path: Path) -> None:
    codes, out, err = forked(tmp_path, code)
    assert codes == [ends, ends]
    by_itself = ends >= 0 and "_exit" not in code
    assert out == ([f"at exit {number}\n" for number in (0, 1)] if by_itself else ["", ""])
    assert all(complaint in text if complaint else text == "" for text in err), err


def test_a_forked_rank_has_variables_words_streams_and_chance_of_its_own(tmp_path: Path) -> None:
    code = """
import json, numpy, os, random, signal, socket, sys
seen = {
    "variables": sorted(os.environ), "words": sys.argv, "session": os.getsid(0) == os.getpid(), "chance": (random.random(), numpy.random.random()),
    "store": os.readlink(f"/proc/self/fd/{store.fileno()}"), "term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
    "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "parent": os.getppid() == parent,
}
os.write(1, json.dumps(seen).encode() + b"\\n")  # as C libraries do
"""
    codes, out, _ = forked(tmp_path, code)
    first, second = (json.loads(text.splitlines()[0]) for text in out)
    assert codes == [0, 0]
    assert not set(first.pop("chance")) & set(second.pop("chance"))
    assert first == second == {
        "variables": ["LOCAL_RANK", "PATH", "RANK"], "words": ["the.module", str(tmp_path)], "session": True,
        "store": os.devnull, "term": True, "blocked": 0, "parent": True,
    }  # fmt: skip


def test_waiting_for_a_rank_has_an_end(tmp_path: Path) -> None:
    program = """
import os, subprocess, sys, time
from nemo_workflow.launch import torchrun
fork = torchrun.Fork(lambda mask: time.sleep(1000) or os._exit(0))
try:
    fork.wait(0.2)
except subprocess.TimeoutExpired:
    print(fork.poll())
os.kill(fork.pid, 9)
print(fork.wait(600), fork.poll())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.stdout == "None\n-9 -9\n", done


ENDS = """
import logging, sys, time
from pathlib import Path
from nemo_workflow.backends import patching, registry
from nemo_workflow.launch import torchrun
folder, code, wanted = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torchrun.ALONE_SECONDS = 1
assert patching.replace(registry.find("launch.torchrun:closing"))
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes
ranks = {
    0: ("-c", f"trap '' TERM; touch {folder}/ready; for i in $(seq {wanted * 10}); do sleep 0.1; done"),
    1: ("-c", f"until [ -e {folder}/ready ]; do sleep 0.05; done; exit {code}"),
}
context = start_processes("ranks", "/bin/bash", ranks, {0: {}, 1: {}}, DefaultLogsSpecs(log_dir=str(folder / "logs")))
failures = context.wait(600).failures
print({rank: failure.exitcode for rank, failure in sorted(failures.items())})
"""


@pytest.mark.parametrize(
    ("code", "lasts", "ends"),
    [
        (3, 15, "{0: -9, 1: 3}"),  # would have ended by itself within torchrun's own 30 s
        (STOPPED, 5, f"{{1: {STOPPED}}}"),
    ],
)
def test_ranks_that_wait_for_a_failed_one_are_ended_soon(code: int, lasts: int, ends: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", ENDS, str(tmp_path), str(code), str(lasts)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout == f"{ends}\n", done


def test_what_a_fork_would_lose_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    named = torchrun._others()
    monkeypatch.setattr(torchrun, "_others", list)
    assert torchrun._in_the_way() == ""
    monkeypatch.setattr(torchrun, "_descriptors", lambda: {3: "/dev/nvidiactl", 4: "/dev/nvidia-uvm"})
    assert torchrun._in_the_way() == "importing has started CUDA"
    monkeypatch.undo()
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        assert len(torchrun._others()) == len(named) + 1
        assert torchrun._in_the_way().startswith("importing has started threads: ")
    finally:
        end.set()
        thread.join()


@pytest.mark.parametrize("fails", [ImportError("no megatron"), RuntimeError("changed")])
def test_ranks_are_not_forked_where_the_imports_fail(
    fails: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))

    def load(accelerator: str) -> Any:
        raise fails

    monkeypatch.setattr(torchrun.worker, "load", load)
    assert not torchrun._import(SimpleNamespace(accelerator="cpu"))  # type: ignore[arg-type]
    assert str(fails) in capsys.readouterr().err


def test_a_numa_binding_is_left_to_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler:
        """SubprocessHandler without torch, which takes seconds to import."""

    module = type(sys)("subprocess_handler")
    module.SubprocessHandler = Handler  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.distributed.elastic.multiprocessing.subprocess_handler", module)
    start = torchrun.forking(lambda **named: named, {})
    assert start(entrypoint="python", numa_options="node") == {"entrypoint": "python", "numa_options": "node"}
    with pytest.raises(TypeError):  # which takes no arguments
        start(entrypoint="python", numa_options=None)
    monkeypatch.setattr(torchrun, "_cuda_started", lambda: True)
    assert start(entrypoint="python") == {"entrypoint": "python"}


def test_torchrun_dies_with_a_launcher_that_is_killed_while_it_imports(tmp_path: Path) -> None:
    program = """
import os, subprocess, sys, threading, time
torchrun = '''
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
from nemo_workflow.launch import torchrun
def imports(plan):
    Path(sys.argv[1], "importing").write_text(str(os.getpid()))
    Path(sys.argv[1], "importing").rename(sys.argv[1] + "/imports")
    time.sleep(1000)
torchrun._import = imports
torchrun.Plan.from_json = lambda text: SimpleNamespace(accelerator="cpu")
torchrun.main([sys.argv[1]])
'''
def start():  # as nemo_run does, in a thread that ends; here not before the process has told the kernel
    subprocess.Popen([sys.executable, "-c", torchrun, sys.argv[1]])
    while not os.path.exists(sys.argv[1] + "/imports"):
        time.sleep(0.01)
thread = threading.Thread(target=start)
thread.start()
thread.join()
open(sys.argv[1] + "/gone", "w").close()
time.sleep(1000)
"""
    (tmp_path / PLAN).touch()
    launcher = subprocess.Popen([sys.executable, "-c", program, tmp_path], cwd=REPOSITORY)
    imports = tmp_path / "imports"
    until(imports.exists)
    mark = liveness.mark_of(int(imports.read_text()))
    until((tmp_path / "gone").exists)
    time.sleep(0.2)  # a signal that is to come has come
    assert liveness.launcher_alive(mark)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    assert until(lambda: not liveness.launcher_alive(mark))


def test_ranks_are_known_by_their_names() -> None:
    program = (
        "from nemo_workflow.utils.processes import name_process; name_process('rank 12'); print(flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    import psutil

    assert process.stdout and process.stdout.readline()
    assert (rank.number(psutil.Process(process.pid)), rank.number(psutil.Process())) == (12, -1)
    process.communicate(b"\n", timeout=LIMIT)
