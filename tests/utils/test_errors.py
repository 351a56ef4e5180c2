"""run_command: what a person sees and which exit code a shell sees."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow import PACKAGE, REPOSITORY
from nemo_workflow.utils import scratch
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import Refusal, few_of_a_kind
from tests import forked
from tests.waiting import LIMIT

PROGRAM = """
import sys
from nemo_workflow.utils.errors import Failure, Refusal, run_command
def main():
    {body}
run_command(main)
"""


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("return 0", 0, ""),
        ("return None", 0, ""),
        ("return 130", 130, ""),
        ("raise Refusal(['--lr 2: too high; use 1', '--tp 3: does not divide 8'])", 2,
         "-c: error: --lr 2: too high; use 1\n-c: error: --tp 3: does not divide 8\n"),
        ("raise Failure('rank 1 died')", 1, "-c: failed: rank 1 died\n"),
        ("raise KeyboardInterrupt", 130, ""),
        ("raise PermissionError(13, 'Permission denied', '/x/config.json')", 1,
         "-c: failed: /x/config.json: Permission denied; check its permissions, and those of the folders above it\n"),
    ],
)  # fmt: skip
def test_exit_code_and_stderr(body, code, stderr):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (code, stderr)


def test_other_errors_keep_their_traceback():
    program = PROGRAM.format(body="raise ZeroDivisionError")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("print('x')", 1, "-c: failed: what it prints can't be written: No space left on device\n"),
        ("print('x' * 99999); return 3", 1, "-c: failed: what it prints can't be written: No space left on device\n"),
        ("print('x', flush=True)", 1, "-c: failed: what it prints can't be written: No space left on device\n"),
        ("raise Failure('rank 1 died')", 1, "-c: failed: rank 1 died\n"),
    ],
)
def test_an_output_on_a_full_disk_is_told_without_a_traceback(body, code, stderr, unbuffered):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(body=body)], stdout=full, stderr=subprocess.PIPE, text=True,
            env=dict(os.environ, PYTHONUNBUFFERED=unbuffered), check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (code, stderr)


@pytest.mark.parametrize(
    ("body", "code"), [("raise Refusal('no')", 2), ("raise Failure('no')", 1), ("print('x')", 1), ("return 143", 143)]
)
def test_the_exit_code_counts_though_its_words_are_on_a_full_disk_too(body, code):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", PROGRAM.format(body=body)], stdout=full, stderr=full, check=False)
    assert done.returncode == code


def test_another_file_on_a_full_disk_keeps_its_traceback():
    body = "print('before'); open('/dev/full', 'w', buffering=1).write('x\\n')"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr.endswith("OSError: [Errno 28] No space left on device\n"), done


def test_a_closed_pipe_is_no_error():
    program = PROGRAM.format(body="[print('x' * 1000) for _ in range(10000)]")
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "$0" | head -1', program], capture_output=True, check=False
    )
    assert done.stdout == b"x" * 1000 + b"\n" and b"Traceback" not in done.stderr


def modules() -> list[str]:
    """Every module that is a command."""
    end = re.compile(r'^if __name__ == "__main__":\n    run_command\(', re.MULTILINE)
    ends = [path for path in PACKAGE.rglob("*.py") if end.search(path.read_text())]
    return sorted(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in ends)


@pytest.mark.parametrize("module", [m.removesuffix(".__main__") for m in modules()])
def test_an_error_begins_with_the_command_as_it_was_typed(module):
    words = {"runs": ["show", "x"], "sample": ["--hf-model", "x", "y"], "evaluate": ["--hf-model", "x", "--run", "y"],
             "report": ["x"], "dataset": ["x"], "preprocess": ["--input", "x"], "tokenizer": ["--input"], "patches": ["x"], "export": ["x"], "nemo_workflow": ["x"]}[module.rpartition(".")[2]]  # fmt: skip
    done = forked.run(["-m", module, *words])
    assert done.returncode == 2 and done.stderr.startswith(f"python -m {module}: error: "), done.stderr


@pytest.mark.parametrize("module", [m.removesuffix(".__main__") for m in modules()])
def test_a_python_without_any_package_is_no_traceback(module):
    """-S: nor in our environment, where it would go on."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", module, "x"], cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 2 and done.stderr.startswith(f"python -m {module}: error: "), done.stderr


@pytest.mark.parametrize("module", [m.removesuffix(".__main__") for m in modules()])
def test_help_is_printed_and_nothing_done(module, tmp_path):
    done = forked.run(["-m", module, "--help"], cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stderr
    assert list(tmp_path.iterdir()) == []


def own_parser():
    made = Parser(prog="x")
    made.add_argument("-mbs", "--micro-batch-size", "--micro_batch_size")
    made.add_argument("-N", "--num-nodes", type=int)
    made.add_argument("--words", nargs="+")
    made.add_argument("--hf-token")
    made.add_argument("--add", nargs="+", action="extend")
    made.add_argument("--eod", action=argparse.BooleanOptionalAction, default=True)
    made.add_argument_group("below").add_argument("--output-dir", default="d")
    made.add_argument("--quick", action="store_true")
    return made


@pytest.mark.parametrize(
    ("words", "note"),
    [
        ("-N 2 --num-nodes=3", "--num-nodes 3 replaces -N 2, which was given before it"),
        ("--words a b --words a", "--words a replaces --words a b, which was given before it"),
        ("--hf-token secret --hf-token other", "--hf-token replaces --hf-token, which was given before it"),
        ("--no-eod --eod", "--eod replaces --no-eod, which was given before it"),
        ("--output-dir a --output-dir b", "--output-dir b replaces --output-dir a, which was given before it"),
    ],
)
def test_a_second_value_is_never_taken_in_silence(words, note, capsys):
    own_parser().parse_args(words.split())
    assert capsys.readouterr().err == f"note: {note}\n"


def test_a_subcommands_flag_does_not_replace_the_one_before_it_in_silence(capsys):
    made = Parser(prog="x")
    made.add_argument("--output-dir", default="d")
    show = made.add_subparsers().add_parser("show")
    show.add_argument("--output-dir", default=argparse.SUPPRESS)
    assert made.parse_args(["--output-dir", "a", "show", "--output-dir", "a"]).output_dir == "a"
    assert capsys.readouterr().err == ""
    assert made.parse_args(["--output-dir", "a", "show", "--output-dir", "b"]).output_dir == "b"
    assert "note: --output-dir b replaces --output-dir a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--micro-batch 2", "unrecognized arguments: --micro-batch 2; did you mean --micro-batch-size? (see --help)"),
        ("--num_node=2", "unrecognized arguments: --num_node=2; did you mean --num-nodes? (see --help)"),
        ("-mb 2", "unrecognized arguments: -mb 2; did you mean -mbs? (see --help)"),
        ("--zzz", "unrecognized arguments: --zzz (see --help)"),
        (
            "--output-dir my run",
            "unrecognized arguments: run; each value follows its flag, and one with spaces stands in quotes: --output-dir 'my run' (see --help)",
        ),
        (
            "my_data",
            "unrecognized arguments: my_data; each value follows its flag, and one with spaces stands in quotes (see --help)",
        ),
        ("-N x", "argument -N/--num-nodes: invalid int value: 'x' (see --help)"),
    ],
)
def test_a_mistyped_flag_is_refused_with_the_nearest_one(words, problem):
    with pytest.raises(Refusal) as caught:
        own_parser().parse_args(words.split())
    assert caught.value.problems == [problem]


def test_a_flag_may_be_repeated_where_nothing_is_lost(capsys):
    words = "-N 2 --num-nodes 2 --add a b --add c --eod --eod --quick --quick --output-dir x"
    found = own_parser().parse_args(words.split())
    assert (found.num_nodes, found.add, found.eod, found.output_dir) == (2, ["a", "b", "c"], True, "x")
    assert own_parser().parse_args(["-N", "3"]).num_nodes == 3  # a command line knows nothing of the one before
    assert capsys.readouterr().err == ""


def test_a_value_may_follow_a_short_flag_at_once():
    assert (
        own_parser().parse_args(["-N2", "-mbs=4"]).__dict__.items() >= {"num_nodes": 2, "micro_batch_size": "4"}.items()
    )


def test_hundreds_of_problems_of_one_kind_are_few_lines() -> None:
    """A line for each of 500 files hid the one that was another."""
    alike = [
        f"/data/s{number}/p.bin: holds token id {number}, but the tokenizer of 't{number}' has 9"
        for number in range(300)
    ]
    assert list(few_of_a_kind([*alike, "--lr 2: too high"])) == [
        *alike[:3],
        f"and 297 more like the 3 above, the last: {alike[-1]}",
        "--lr 2: too high",
    ]
    assert list(few_of_a_kind(alike[:4])) == alike[:4]
    different = [f"--flag-{sign}: wrong" for sign in "abcdef"]
    assert list(few_of_a_kind(different)) == different


# every command as a user types it; the first import of ours in it is met by a Ctrl-C, and then the last
ENTRIES = [
    ["pretrain_llm.py"], ["ckpt_conversion/convert_from_hf_to_nemo2.py"], ["ckpt_conversion/convert_from_nemo2_to_hf.py"],
    ["download_example_data/download_wiki.py"], *(["-m", module.removesuffix(".__main__")] for module in modules()),
]  # fmt: skip
INTERRUPT = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["AT"]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
"""


def interrupted(words: list[str], at: str, tmp_path: Path, **more: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT)
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}", "AT": at} | more
    return subprocess.run(
        [sys.executable, *words], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("words", ENTRIES, ids=" ".join)
def test_ctrl_c_among_the_first_imports_shows_no_traceback(words: list[str], tmp_path: Path) -> None:
    """A signal in the middle of an import, as Ctrl-C gives it: the interpreter's own doing, so a process of its own."""
    done = interrupted([*words, "--help"], "nemo_workflow.utils", tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (130, "", "")


def test_ctrl_c_before_the_first_import_of_ours(tmp_path: Path) -> None:
    """The line that `make install` puts beside its packages; another program of that Python keeps what it has."""
    folder = tmp_path / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python3.*/site-packages")
    shutil.copy(REPOSITORY / "tools" / "ctrl_c.pth", site / "_nemo_workflow_ctrl_c.pth")
    (site / "_z.pth").write_text("import os, sys; os.environ.get('NOW') and os.kill(os.getpid(), 2)\n")
    for words, quiet in (*((words, True) for words in ENTRIES), (["-c", "pass"], False), (["-m", "json.tool"], False)):
        done = subprocess.run(
            [folder / "bin" / "python", *words], cwd=REPOSITORY, env=os.environ | {"NOW": "1"}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert ((done.returncode, done.stderr) == (130, "")) == quiet, (words, done)


def test_ctrl_c_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """nohup, or a shell script's job in the background."""
    command = f"trap '' INT; exec '{sys.executable}' pretrain_llm.py --list-models llama"
    env = os.environ | {"PYTHONPATH": str(tmp_path), "AT": "nemo_workflow.utils"}
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT)
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "llama_tiny" in done.stdout, done.stderr


def test_empty_folders_of_libraries_go_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's compiler makes one at its import; what is in one stays."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("LOGNAME", "me:too")
    empty, cache = tmp_path / f"nemo-workflow-{os.getuid()}", tmp_path / "torchinductor_me_too"
    for folder in (empty, cache):
        folder.mkdir()
    (cache / "kernel.py").touch()
    scratch.remove_empty()
    assert list(tmp_path.iterdir()) == [cache]
    (cache / "kernel.py").unlink()
    scratch.remove_empty()
    assert list(tmp_path.iterdir()) == []
