"""Processes that start in odd surroundings: each as a command of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nemo_workflow import REPOSITORY
from nemo_workflow.utils import scratch, startup

RUNS = [sys.executable, "-m", "nemo_workflow.runs"]
ELSEWHERE = dict(os.environ, PYTHONPATH=str(REPOSITORY))
STRANGER = 2_000_000_017  # a uid without an entry in passwd


def shell(line: str, *words: str, **more: object) -> subprocess.CompletedProcess[str]:
    """Run a line of bash; `"$@"` in it is `words`."""
    command = ["bash", "-c", line, "bash", *words]
    return subprocess.run(command, text=True, capture_output=True, check=False, **more)  # type: ignore[call-overload]


def test_a_current_folder_that_is_gone_is_refused(tmp_path: Path) -> None:
    done = shell(
        f'mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir {tmp_path}/gone; "$@"', *RUNS, "list", env=ELSEWHERE
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == "python -m nemo_workflow.runs: error: the current folder no longer exists; change to one that does (cd)\n"
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_dev_null(closed: str, tmp_path: Path) -> None:
    """What is opened next doesn't get what is printed."""
    program = (
        "import os, sys; from nemo_workflow.utils.errors import run_command; from pathlib import Path\n"
        "def main():\n"
        f"    with Path({str(tmp_path / 'opened')!r}).open('w') as stream:\n"
        "        print('to stdout', flush=True); print('to stderr', file=sys.stderr, flush=True)\n"
        "        os.system('echo of a child')\n"
        "        stream.write('mine'); sys.stdin.read()\n"
        "run_command(main)\n"
    )
    done = shell(f'"$@" {closed}', sys.executable, "-c", program, env=ELSEWHERE, stdin=subprocess.DEVNULL)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done
    assert (tmp_path / "opened").read_text() == "mine"
    assert shell(f'"$@" {closed}', *RUNS, "--output-dir", str(tmp_path), "list", cwd=REPOSITORY).returncode in (0, 2)


@pytest.mark.parametrize("flags", [["-O"], ["-OO"], ["-uOOs"], []])
def test_docstrings_and_assertions_are_kept(flags: list[str], tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys; from nemo_workflow.utils.errors import run_command\n"
        "def main():\n"
        "    'a docstring'\n"
        "    print(main.__doc__, sys.flags.optimize, sys.argv[1:], os.environ.get('PYTHONOPTIMIZE'))\n"
        "run_command(main)\n"
    )
    variables = ELSEWHERE if flags else {**ELSEWHERE, "PYTHONOPTIMIZE": "2"}
    done = subprocess.run(
        [sys.executable, *flags, program, "-O", "--flag", "-"],
        env=variables,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.stdout == "a docstring 0 ['-O', '--flag', '-'] None\n", done


needs_root = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, for another uid")


@pytest.fixture
def stranger() -> list[str]:
    """The beginning of a command that runs as a uid without a name and without HOME (docker --user, OpenShift)."""
    return ["env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME", "setpriv", f"--reuid={STRANGER}", "--clear-groups"]


WHO = """
import getpass, os
from pathlib import Path
from nemo_workflow.utils.errors import run_command
def main():
    print(getpass.getuser(), Path.home(), os.access(Path.home(), os.W_OK))
    (Path.home() / "of a library").touch()  # an empty one goes at the end
run_command(main)
"""


@needs_root
def test_a_user_without_a_name_and_a_home(stranger: list[str], tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    readable = tmp_path / "code"
    shutil.copytree(
        REPOSITORY / "nemo_workflow", readable / "nemo_workflow", ignore=shutil.ignore_patterns("__pycache__")
    )
    ours = [folder for folder in tmp_path.parents if folder.stat().st_uid == os.getuid() and "pytest" in str(folder)]
    subprocess.run(["chmod", "a+rx", *ours], check=True)
    subprocess.run(["chmod", "-R", "a+rX", readable], check=True)
    python = ["/usr/bin/env", f"PYTHONPATH={readable}", f"TMPDIR={tmp_path}", "python3"]
    done = subprocess.run([*stranger, *python, "-c", WHO], text=True, capture_output=True, check=False, cwd="/")
    assert done.stdout == f"uid{STRANGER} {tmp_path}/nemo-workflow-{STRANGER} True\n", done
    home = tmp_path / f"nemo-workflow-{STRANGER}"
    home.rename(tmp_path / "elsewhere")
    home.symlink_to(tmp_path / "elsewhere")  # by somebody else
    done = subprocess.run([*stranger, *python, "-c", WHO], text=True, capture_output=True, check=False, cwd="/")
    assert done.stdout.startswith(f"uid{STRANGER} {home}-") and done.stdout.endswith(" True\n"), done


@pytest.mark.parametrize(("path", "why"), [("~no-such-user/runs", "there is no user no-such-user"), ("~root/runs", "")])
def test_a_home_that_is_nowhere_is_refused(path: str, why: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*RUNS, "--output-dir", path, "list"], text=True, capture_output=True, check=False, cwd=REPOSITORY
    )
    assert (f"--output-dir {path}: {why}" in done.stderr) == bool(why), done
    assert "Traceback" not in done.stderr


def test_a_tilde_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    assert startup.no_home("~/runs") == ""
    monkeypatch.setenv(startup.HOMELESS, "yes")
    assert "HOME is not set" in startup.no_home("~/runs")
    assert "HOME is not set" in startup.no_home("~")
    assert startup.no_home("a~b") == startup.no_home("~ some text") == startup.no_home("./~/x") == ""


SOCKET = """
import multiprocessing
from nemo_workflow.utils.errors import run_command
def main():
    for start in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(start).Manager() as manager:
            queue = manager.Queue()
            queue.put(start)
            print(queue.get())
if __name__ == "__main__":
    run_command(main)
"""


@pytest.mark.parametrize("length", [60, 76, 90, 200])
def test_a_long_folder_for_temporary_files(length: int, tmp_path: Path) -> None:
    place = Path(tempfile.mkdtemp(dir="/tmp", prefix="x" * (length - 5 - 8)))  # 8: what mkdtemp adds
    program = tmp_path / "program.py"
    program.write_text(SOCKET)
    assert len(str(place)) == length
    try:
        done = subprocess.run(
            [sys.executable, program], text=True, capture_output=True, check=False,
            env={**ELSEWHERE, "TMPDIR": str(place)},
        )  # fmt: skip
        left = list(place.iterdir())
    finally:
        shutil.rmtree(place)
    assert done.stdout.split() == ["fork", "spawn", "forkserver"], done.stderr[-500:]
    assert left == []


def test_a_long_folder_for_temporary_files_without_a_shorter_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", f"/{'x' * 90}")
    monkeypatch.setenv("TMPDIR", f"/{'x' * 90}")
    monkeypatch.setattr(scratch, "SHORT_PLACES", (str(tmp_path / "gone"),))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    (problem,) = startup.short_sockets()
    assert problem.endswith("set TMPDIR to a path of at most 75 bytes")


@pytest.mark.slow
def test_a_python_without_nemo_goes_on_in_the_environment_that_make_has_made(tmp_path: Path) -> None:
    """Nobody has to activate .venv: a bare environment stands for the system's Python."""
    bare, home = tmp_path / "bare", tmp_path / "home"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    shutil.copytree(REPOSITORY / "nemo_workflow", home / "nemo_workflow", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pretrain_llm.py", home)
    python, clean = str(bare / "bin" / "python"), {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [python, str(home / "pretrain_llm.py"), "--dry-run", "--hf-model-id", str(tmp_path), "--dataset-dir", "d"]
    before = subprocess.run(command, env=clean, text=True, capture_output=True, check=False)
    assert before.returncode == 2 and "not installed" in before.stderr and "source" not in before.stdout
    (home / ".venv" / "bin").mkdir(parents=True)
    (home / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (home / ".venv" / "bin" / "python").chmod(0o755)
    after = subprocess.run(command, env=clean, text=True, capture_output=True, check=False)
    assert after.returncode == 2 and "not installed" not in after.stderr and "--dataset-dir d" in after.stderr
    module = subprocess.run(
        [python, "-m", "nemo_workflow.runs", "list"], cwd=home, env=clean, text=True, capture_output=True
    )
    assert "not installed" not in module.stderr and "Traceback" not in module.stderr


def test_matplotlibs_fonts_stay_out_of_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the temporary files, in a folder that nobody else can have prepared; what the user has set stays."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    own = tmp_path / f"nemo-workflow-{os.getuid()}"
    (tmp_path / "foreign").mkdir()
    own.symlink_to(tmp_path / "foreign")
    startup.keep_caches_out_of_home()
    chosen = Path(os.environ["MPLCONFIGDIR"])
    assert chosen.name == "matplotlib" and chosen.parent.parent == tmp_path and chosen.parent != own
    own.unlink()
    monkeypatch.delenv("MPLCONFIGDIR")
    startup.keep_caches_out_of_home()
    assert os.environ["MPLCONFIGDIR"] == str(own / "matplotlib") and own.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("MPLCONFIGDIR", "/mine")
    startup.keep_caches_out_of_home()
    assert os.environ["MPLCONFIGDIR"] == "/mine"


PRINTS = """
import os, sys
from nemo_workflow.utils.errors import run_command
def main():
    path, text = sys.argv[1:]
    path.encode()  # as the tokenizers library does
    print(os.path.exists(path), sys.getfilesystemencoding(), text)
run_command(main)
"""


@pytest.mark.parametrize(
    ("variables", "printed"),
    [
        ({"PYTHONIOENCODING": "ascii"}, rb"Zeit f\xfcr \u65e5"),
        ({"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, "Zeit für 日".encode()),
    ],
    ids=["output", "locale"],
)
def test_other_letters_where_the_surroundings_know_none(
    variables: dict[str, str], printed: bytes, tmp_path: Path
) -> None:
    place = tmp_path / "Übung 日"
    place.mkdir()
    without = {name: value for name, value in ELSEWHERE.items() if name not in ("LC_ALL", "PYTHONUTF8")}
    done = subprocess.run(
        [sys.executable, "-c", PRINTS, place, "Zeit für 日"], env=without | variables, capture_output=True, check=False
    )
    assert done.stdout == b"True utf-8 " + printed + b"\n", done
