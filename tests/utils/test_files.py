"""written_aside: whole or not there."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.run_dir.run import RunFolder
from nemo_workflow.runs.control import find_run
from nemo_workflow.utils import files
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import write_json, written_aside


def test_a_file_appears_whole_with_the_usual_mode(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with written_aside(path) as stream:
        stream.write("ä\n")
        assert not path.exists()
    assert path.read_bytes() == "ä\n".encode()
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), written_aside(path) as stream:
        stream.write("half")
        raise RuntimeError
    assert path.read_text() == '{\n  "old": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_killed_half_way_the_old_file_stays(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    program = (
        "import os, signal, sys; from nemo_workflow.utils.files import written_aside\n"
        "with written_aside(sys.argv[1]) as s:\n    s.write('half'); s.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_json_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_locks_is_no_error(tmp_path, monkeypatch):
    def refuses(number):
        def flock(stream, how):
            raise OSError(number, "no")

        return flock

    with (tmp_path / "a").open("w") as stream:
        assert files.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB) is True
        with (tmp_path / "a").open("w") as other, pytest.raises(BlockingIOError):
            files.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for number in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            monkeypatch.setattr(fcntl, "flock", refuses(number))
            assert files.flock(stream, fcntl.LOCK_EX) is False
        monkeypatch.setattr(fcntl, "flock", refuses(errno.EIO))
        with pytest.raises(OSError):
            files.flock(stream, fcntl.LOCK_EX)


def test_bytes_go_the_same_way(tmp_path):
    with written_aside(tmp_path / "a.bin", "wb") as stream:
        stream.write(b"\xff\x00")
        (aside,) = tmp_path.iterdir()
        assert aside.name.startswith(".a.bin.") and aside.suffix == ".tmp"
    assert (tmp_path / "a.bin").read_bytes() == b"\xff\x00"


def test_what_is_written_is_on_disk_before_it_is_renamed(tmp_path, monkeypatch):
    """A power cut can't be had here: the order of the calls to the system is what is looked at."""
    calls = []
    fsync, replace = os.fsync, Path.replace

    def synced(fd):
        calls.append(("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file", os.fstat(fd).st_size > 0))
        fsync(fd)

    def renamed(self, target):
        calls.append(("renamed", True))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_json(tmp_path / "a.json", {"word": "ä"})
    assert calls == [("file", True), ("renamed", True), ("folder", True)]
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "word": "ä"\n}\n'


def test_the_users_umask_counts_and_stays(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", 1)
        assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_a_path_is_told_from_the_current_folder_where_it_lies_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = files.from_here_if_below
    assert told(tmp_path / "runs" / "a") == "runs/a" and told("runs/a") == "runs/a"
    assert told(tmp_path.parent / "b") == str(tmp_path.parent / "b") and told("../b") == "../b"


def test_a_refusal_names_the_current_folder_of_a_relative_path_alone(tmp_path: Path) -> None:
    assert files.from_here("a") == f" (relative to the current folder, {Path.cwd()})"
    assert files.from_here("~/a") == files.from_here(tmp_path) == ""


def test_a_refusal_names_what_is_spelled_like_it_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_tokenizer").mkdir()
    monkeypatch.chdir(tmp_path)
    assert files.from_here("my_tokeniser").endswith(f"{tmp_path}; did you mean my_tokenizer?)")
    assert files.from_here(tmp_path / "my_tokenizr") == f" (did you mean {tmp_path}/my_tokenizer?)"
    assert "did you mean" not in files.from_here("other/my_tokenizr") + files.from_here("yours")


def test_a_path_of_the_demo_that_is_not_there_leads_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = "`make demo` makes it)"
    assert files.from_here("demo_output/dataset") == f" (relative to the current folder, {tmp_path}; {said}"
    assert files.from_here(tmp_path / "demo_output" / "tokenizer") == f" ({said}"
    assert said not in files.from_here("my_demo_output/dataset")
    monkeypatch.setattr(files, "REPOSITORY", tmp_path)  # as after `pip install .`, without a Makefile
    assert "make demo" not in files.from_here("demo_output/dataset")


def test_a_refusal_of_a_path_in_the_root_thinks_of_a_variable() -> None:
    """`$PLACE/corpus` without a PLACE."""
    assert files.from_here("/no_such_corpus") == " (a shell variable in front of it may be unset)"
    assert files.no_such_folder("/no_such_corpus") == "no such folder (a shell variable in front of it may be unset)"
    assert files.from_here("/no_such/corpus") == files.from_here("/no_such_corpus")
    assert files.from_here("/tmp") == files.from_here("/tmp/no_such") == files.from_here("/") == ""
    assert "write the path in full" in files.from_here("${CORPUS}/x")  # as it came from a file of --config


def test_a_path_is_told_without_dots_where_it_leads_to_the_same_place(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path / "a")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.absolute("../x") == files.absolute("b/../../x") == files.absolute(Path("../x")) == tmp_path / "x"
    assert str(files.absolute("../link/../x")) == f"{tmp_path}/a/../link/../x"  # which is a/x
    assert files.absolute("~/../x") == tmp_path.parent / "x"
    assert files.absolute("./~nobody") == tmp_path / "a" / "~nobody"
    assert str(files.absolute("../loop")) == f"{tmp_path}/a/../loop"


def test_no_message_shows_dots_that_lead_back(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(Refusal, match=rf"--output-dir {tmp_path}/out: no such folder"):
        find_run("../out", "x")
    run = RunFolder(Path("../out/x"))
    assert run.path == tmp_path / "out" / "x"


def test_a_plan_is_told_and_kept_without_dots(place, monkeypatch):
    (place.root / "here").mkdir()
    monkeypatch.chdir(place.root / "here")
    plan = place.plan(output_dir="../out", dataset_dir="../data", hf_model_id="../hf")
    assert plan.run_dir == str(place.root / "out" / plan.settings.experiment)
    assert ".." not in plan.to_json().replace("...", "")
