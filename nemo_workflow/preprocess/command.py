"""preprocess_data.sh and `python -m nemo_workflow.preprocess`: the flags, and the order of the work."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nemo_workflow.models.tokenizer_files import CONFIG
from nemo_workflow.preprocess.sources import not_utf8, stem_of
from nemo_workflow.utils import help_screen
from nemo_workflow.utils.arguments import Parser, is_there
from nemo_workflow.utils.console import Meter, counted
from nemo_workflow.utils.errors import Failure, Refusal, os_errors_refused
from nemo_workflow.utils.meant import called

if TYPE_CHECKING:
    from nemo_workflow.preprocess.run import Run

DESCRIPTION = """\
Turn text (.txt, .md, JSON lines, Parquet, Arrow) into .bin/.idx pairs that pretrain_llm.py reads:
<output-dir>/preprocessed/<prefix>_text_document.bin, .idx and .json (its figures).
"""


USAGE = "--tokenizer DIR_OR_ID --input PATH … --output-dir DIR [FLAG …]"
FIRST = (
    "* --input", "* --tokenizer", "* --output-dir", "--join", "--json-keys", "--input-dir", "--data-prefix", "--on-error",
    "--overwrite", "--workers", "--executor",
)  # fmt: skip
EXAMPLES = (
    "PROGRAM --tokenizer my_tokenizer --input my_text.txt --output-dir my_data",
    "PROGRAM --tokenizer Qwen/Qwen3-0.6B-Base --input my_texts --output-dir my_data",
)


def _called(program: str) -> str:
    """As it is typed: a script of the shell by bash."""
    return f"bash {program}" if program.endswith(".sh") else program


MAX_BAD = 5.0  # per cent

# what datatrove, Megatron-LM, litgpt and Hugging Face's scripts call our flags
_OF = {
    "--json-keys": "text-keys text-key text-field text-column text-column-name column key field",
    "--tokenizer": "tokenizer-model tokenizer-path tokenizer-name tokenizer-dir tokenizer-id tokenizer-name-or-path"
    " model model-name model-id model-path model-dir model-name-or-path hf-model hf-model-id hf-model-dir base-model checkpoint-dir"
    " vocab vocab-file merge-file",
    "--input": "input-file input-files input-path data dataset datasets data-path data-files train-file file files text texts jsonl parquet",
    "--input-dir": "data-dir dataset-dir source-path folder dir",
    "--data-prefix": "prefix file-prefix",
    "--output-dir": "output output-path output-prefix output-folder out out-dir destination-path save save-dir save-to-disk",
    "--workers": "num-workers num-proc nproc processes num-processes tasks threads num-threads cpus jobs preprocessing-num-workers",
    "--append-eod": "append-eos add-eos add-eod",
    "--eod-token": "eos eos-token eod",
    "--special-tokens": "add-bos add-special-tokens use-bos prepend-bos",
    "--join": "merge concat concatenate combine",
    "--on-error": "skip-errors ignore-errors skip-bad errors",
    "--overwrite": "force overwrite-output-dir overwrite-cache",
}
_SAID = {
    "tokenizer-type": "the files of --tokenizer say what it is: leave it out",
    "seq-length seq-len sequence-length max-length max-seq-length block-size chunk-size": "texts are kept whole here; pretrain_llm.py --seq-length"
    " cuts them",
    "dataset-impl dtype": "the files are Megatron's .bin/.idx, with 2 bytes per token where the vocabulary allows it, else 4",
    "split val-split test-split validation-split train-split": "all of it is preprocessed; pretrain_llm.py --split divides it",
    "dataset-name dataset-config subset hf-dataset streaming": "it reads files of this machine: bring a data set here with"
    " `hf download NAME --repo-type dataset --local-dir DIR`, then --input DIR",
    "encoding charset": "text is read as UTF-8: iconv -f CODING -t UTF-8 OLD > NEW converts it",
    "resume continue": "the same command continues: leave it out",
    "clean dedup filter lower lowercase rm-whitespaces keep-newlines split-sentences": "texts are taken as they are: leave it out",
    "batch-size log-interval chunk": "how much is read at once, and how often it is told, needs no flag: leave it out",
    "partitions": "the work is divided by itself: --workers says among how many processes",
    "seed shuffle": "the order of the texts is kept; pretrain_llm.py --seed shuffles",
    "max-samples max-documents limit num-samples": "all texts are taken; a shorter file gives fewer",
}
MEANINGS = called(_OF, _SAID)


def parser() -> Parser:
    """The flags, spelled with hyphens."""
    program = os.environ.get("PREPROCESS_PROGRAM", "python -m nemo_workflow.preprocess")
    p = Parser(
        prog=program,
        description=DESCRIPTION,
        add_help=False,
        meanings=MEANINGS,
        typed=_with_its_flag,
    )
    help_screen.add_help(p, USAGE, FIRST, [example.replace("PROGRAM", _called(program)) for example in EXAMPLES])
    p.may_be_empty.add("separator")
    p.for_words, p.for_new = "--input", "--output-dir"
    p.any_text |= {"separator", "eod_token", "json_keys", "join_fields"}
    p.needed = [("input", "input_dir"), ("tokenizer",), ("output_dir",)]
    group = p.add_argument_group("input")
    group.add_argument(
        "--input-dir",
        metavar="DIR",
        nargs="+",
        action="extend",
        default=[],
        help="folder with the input files; folders in it are read too (.jsonl, .json, .txt, .md, each also .gz, .bz2, .xz or .zst; .parquet, .arrow)",
    )
    group.add_argument(
        "--data-prefix",
        metavar="NAME",
        nargs="+",
        action="extend",
        default=[],
        help="input files in that folder, without extension; default: all of them, also in folders below",
    )
    group.add_argument(
        "--input",
        metavar="PATH",
        nargs="+",
        action="extend",
        default=[],
        help="input files, folders, quoted globs ('data/*/part-*.jsonl'), @FILE with one such name per line, or - for names on "
        "standard input; instead of --input-dir and --data-prefix",
    )
    group.add_argument(
        "--join",
        choices=("all", "folder"),
        nargs="?",
        const="all",
        help="one pair for all inputs, in the order of their names; folder: one per top folder (default: one per file)",
    )
    group.add_argument(
        "--json-keys",
        metavar="KEY",
        nargs="+",
        action="extend",
        help="keys (tables: columns) that hold the text; one output each (default: text); a.b is key b of the object in a",
    )
    group.add_argument(
        "--join-fields",
        metavar="KEY",
        nargs="+",
        action="extend",
        help="keys whose texts are joined into one; instead of --json-keys",
    )
    group.add_argument(
        "--separator",
        metavar="TEXT",
        help=r"text between them; \n, \r, \t and \\ are read as in JSON (default: \n\n)",
    )
    group.add_argument(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="at a bad line: stop and write nothing (default), or leave it out and list it in <prefix>.rejects.jsonl",
    )
    group.add_argument(
        "--max-bad",
        metavar="PERCENT",
        type=float,
        help=f"with --on-error skip: refuse an input with more bad lines than this, all files together (default: {MAX_BAD:g})",
    )
    group = p.add_argument_group("tokens")
    group.add_argument(
        "--tokenizer",
        "--hf-tokenizer",
        "--ht-tokenizer",
        metavar="DIR_OR_ID",
        help="folder with a Hugging Face tokenizer, or a Hub id (HF_TOKEN from the environment)",
    )
    group.add_argument(
        "--append-eod",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="end each document with the end-of-document token (default: yes)",
    )
    group.add_argument(
        "--eod-token", metavar="TOKEN", help="the end-of-document token (default: the tokenizer's eos_token)"
    )
    group.add_argument(
        "--special-tokens",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="add the special tokens that the tokenizer puts around a text, such as Llama's <|begin_of_text|>, as Megatron-LM does (default: yes)",
    )
    group.add_argument(
        "--engine",
        choices=("auto", "fastokens", "tokenizers"),
        default="auto",
        help="library that encodes; auto (default): fastokens where it gives the same ids",
    )
    group.add_argument(
        "--trust-remote-code", action="store_true", help="run the Python code that comes with the tokenizer"
    )
    group = p.add_argument_group("output and work")
    group.add_argument("--output-dir", metavar="DIR", help="the files are written to its folder preprocessed/")
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="start over: replace existing outputs, and discard what a stopped run has done",
    )
    group.add_argument(
        "--workers",
        metavar="N",
        type=int,
        help="worker processes (default: the CPU cores this process may use)",
    )
    return p


def _with_its_flag(word: str) -> str:
    """A word alone with its flag: a tokenizer's folder, or what else is there."""
    flag = "--tokenizer" if _is_tokenizer(Path(word).expanduser()) else "--input" if is_there(word) else ""
    return f"{flag} {shlex.quote(word)}" if flag else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, run on this machine."""
    args = parser().parse_args(argv)
    with os_errors_refused(f"--output-dir {args.output_dir}"):
        check(args)
    return run(args)


def run(args: argparse.Namespace) -> int:
    """Do on this machine what checked arguments say; where that ends early, say what is kept of it."""
    signal.signal(signal.SIGTERM, _stop)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy starts its threads, which nothing here uses, when it is imported
    began, meter = time.monotonic(), Meter()
    prepared: Run | None = None
    try:
        prepared = _prepared(args, meter)
        if prepared is not None:
            _carry_out(prepared, began)
    except Failure as failure:
        raise _with_what_is_left(failure, prepared) from None
    except (KeyboardInterrupt, _Stopped) as stopped:
        name = "SIGTERM" if isinstance(stopped, _Stopped) else "Ctrl-C"
        meter.note(f"stopped by {name}; {_left(prepared)}")
        raise
    return 0


def _left(run: Run | None) -> str:
    """What is kept of a run that has ended early, and what the same command does then."""
    if run is None or run.output is None:  # of an earlier one, something may be kept
        return "nothing was encoded yet; the same command does it"
    return run.left(run.output)


def _with_what_is_left(failure: Failure, run: Run | None) -> Failure:
    from nemo_workflow.preprocess.output_dir import OvertakenError

    return failure if isinstance(failure, OvertakenError) else Failure(f"{failure}; {_left(run)}")


def _prepared(args: argparse.Namespace, meter: Meter) -> Run | None:
    """The run that is left to do; None, after a word on it, where all is done."""
    from nemo_workflow.preprocess.asked import read_asked
    from nemo_workflow.preprocess.output_dir import clean_up_stale
    from nemo_workflow.preprocess.startup import Loading
    from nemo_workflow.preprocess.work import still_to_do

    asked = read_asked(args)
    with os_errors_refused(f"--output-dir {args.output_dir}"):
        for line in [*asked.notes, *clean_up_stale(asked.folder, None if args.overwrite else asked.recipe)]:
            meter.note(line)
        todo = still_to_do(asked)
    if len(todo.groups) < len(asked.groups):
        done = len(asked.groups) - len(todo.groups)
        meter.note(f"{counted(done, 'pair')} already complete: same input, tokenizer and flags")
    if not todo.groups:
        print(asked.nothing_to_do())
        return None
    loading = Loading(args, asked.tokenizer, todo.sources, asked.keys)
    loading.load(beside="nemo_workflow.preprocess.run")
    from nemo_workflow.preprocess.run import Run

    return Run(args, todo, asked.recipe, asked.keys, asked.folder, loading, meter)


def _carry_out(run: Run, began: float) -> None:
    """Do it and print its closing lines; what ends early leaves no new folder that is empty."""
    new = [folder for folder in (run.folder, run.folder.parent) if not folder.exists()]
    try:
        for line in run.execute(began):
            print(line)
    except BaseException:
        for folder in new:
            with contextlib.suppress(OSError):  # something is in it that is worth keeping
                folder.rmdir()
        raise


def check(args: argparse.Namespace) -> None:
    """Set what was left out and read the keys; raises Refusal with every problem."""
    problems = []
    if args.input and (args.input_dir or args.data_prefix):
        problems.append("--input: can't be combined with --input-dir or --data-prefix; leave --input out, or those")
    if args.workers is None:
        args.workers = len(os.sched_getaffinity(0))
    elif args.workers < 1:
        problems.append(f"--workers {args.workers}: at least 1")
    problems += [*_check_bad(args), *_check_keys(args), *_swapped(args)]
    for flag, name in (("--output-dir", args.output_dir), ("--tokenizer", args.tokenizer)):
        if not_utf8(Path(name).absolute()):
            problems.append(f"{flag} {name}: the path is not UTF-8; rename what is not")
    output = Path(args.output_dir).expanduser()
    if output.exists() and not output.is_dir():
        problems.append(f"--output-dir {args.output_dir}: a file; give a folder")
    if problems:
        raise Refusal(problems)


def _swapped(args: argparse.Namespace) -> Iterator[str]:
    """A tokenizer where the text is expected, and text where the tokenizer is."""
    flag, names = ("--input", args.input) if args.input else ("--input-dir", args.input_dir)
    tokenizer = Path(args.tokenizer).expanduser()
    try:
        swapped = len(names) == 1 and _holds_text(tokenizer) and _is_tokenizer(Path(names[0]).expanduser())
    except OSError:  # what can't be looked at is refused with its own name later
        swapped = False
    if swapped:
        yield (
            f"--tokenizer {args.tokenizer}, {flag} {names[0]}: look swapped, the first is text and the second a tokenizer; use"
            f" --tokenizer {shlex.quote(names[0])} {flag} {shlex.quote(args.tokenizer)}"
        )


def _is_tokenizer(place: Path) -> bool:
    return place.name == "tokenizer.json" or any((place / name).is_file() for name in ("tokenizer.json", CONFIG))


def _holds_text(place: Path) -> bool:
    if place.is_dir():
        return not _is_tokenizer(place) and any(stem_of(path) for path in place.iterdir())
    return place.is_file() and stem_of(place) is not None and not _is_tokenizer(place)


def _check_bad(args: argparse.Namespace) -> Iterator[str]:
    """What is wrong with --max-bad; sets its default."""
    if args.max_bad is None:
        args.max_bad = MAX_BAD
    elif not 0 <= args.max_bad <= 100:
        yield f"--max-bad {args.max_bad:g}: a percentage from 0 to 100"
    elif args.on_error != "skip":
        yield (
            f"--max-bad {args.max_bad:g}: of the lines that --on-error skip leaves out; without it the first bad line stops "
            "the run. Add --on-error skip, or leave this out"
        )


def _check_keys(args: argparse.Namespace) -> Iterator[str]:
    """What is wrong with the keys; sets their defaults and reads the separator."""
    if args.join_fields and args.json_keys:
        yield "--join-fields: can't be combined with --json-keys; leave one out"
    if args.separator is not None and not args.join_fields:
        yield "--separator: goes between the texts of --join-fields; add that, or leave this out"
    for name in ("json_keys", "join_fields"):
        given = [key.strip() for word in getattr(args, name) or () for key in word.split(",")]
        setattr(args, name, list(dict.fromkeys(given)))
    flag, keys = ("--join-fields", args.join_fields) if args.join_fields else ("--json-keys", args.json_keys)
    if any(not key for key in keys) or any("/" in key for key in args.json_keys):
        yield f"{flag}: a key names an output file, so it must not be empty or hold a /"
    if any(map(not_utf8, keys)):
        yield f"{flag}: a key is not UTF-8"
    args.json_keys = args.json_keys or ([] if args.join_fields else ["text"])
    if args.eod_token is not None and not args.append_eod:
        yield f"--eod-token {args.eod_token}: ends each document, and --no-append-eod leaves that end out; give one of the two"
    text = r"\n\n" if args.separator is None else args.separator
    args.separator = re.sub(r"\\([nrt\\])", lambda found: {"n": "\n", "r": "\r", "t": "\t"}.get(found[1], "\\"), text)


class _Stopped(SystemExit):
    """By SIGTERM."""


def _stop(*_: object) -> NoReturn:
    raise _Stopped(128 + signal.SIGTERM)
