"""preprocess_data.sh and `python -m nemo_workflow.preprocess`: the flags, and the order of the work."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nemo_workflow.preprocess.sources import not_utf8
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.console import Meter
from nemo_workflow.utils.errors import Refusal, os_errors_refused

DESCRIPTION = """\
Turn JSON lines into the .bin/.idx pairs that pretrain_llm.py reads:
<output-dir>/preprocessed/<prefix>_text_document.bin, .idx and .json (its figures).
"""


def with_hyphens(argv: Sequence[str]) -> list[str]:
    """--data_prefix and --no_append_eod are --data-prefix and --no-append-eod."""
    words = []
    for word in argv:
        flag, equals, value = word.partition("=")
        words.append(flag.replace("_", "-") + equals + value if flag.startswith("--") else word)
    return words


def parser() -> argparse.ArgumentParser:
    """The flags, spelled with hyphens."""
    program = os.environ.get("PREPROCESS_PROGRAM", "python -m nemo_workflow.preprocess")
    p = Parser(prog=program, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = p.add_argument_group("input")
    group.add_argument(
        "--input-dir",
        metavar="DIR",
        help="folder of the input files (.jsonl, .json lines, .ndjson, also .gz or .zst; .parquet)",
    )
    group.add_argument(
        "--data-prefix",
        metavar="NAME",
        nargs="+",
        action="extend",
        default=[],
        help="input files of that folder, without ending; default: all of them",
    )
    group.add_argument(
        "--input",
        metavar="PATH",
        nargs="+",
        action="extend",
        default=[],
        help="input files or folders, instead of --input-dir and --data-prefix",
    )
    group.add_argument(
        "--json-keys",
        metavar="KEY",
        nargs="+",
        action="extend",
        help="keys (Parquet: columns) that hold the text; one output each (default: text)",
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
        default=5.0,
        help="with --on-error skip: refuse a file with more bad lines than this (default: 5)",
    )
    group = p.add_argument_group("tokens")
    group.add_argument(
        "--tokenizer",
        "--hf-tokenizer",
        "--ht-tokenizer",
        metavar="DIR_OR_ID",
        required=True,
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
        help="put the tokens around a text that the tokenizer puts there, such as Llama's <|begin_of_text|>, as Megatron-LM does (default: yes)",
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
    group.add_argument("--output-dir", metavar="DIR", required=True, help="the files go into its folder preprocessed/")
    group.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    group.add_argument(
        "--workers",
        metavar="N",
        type=int,
        help="worker processes (default: the CPU cores this process may use)",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, run."""
    args = parser().parse_args(with_hyphens(sys.argv[1:] if argv is None else argv))
    args.json_keys = args.json_keys or ["text"]
    signal.signal(signal.SIGTERM, _stop)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy starts its threads, which nothing here uses, when it is imported
    with os_errors_refused(f"--output-dir {args.output_dir}"):
        _check(args)
    from nemo_workflow.preprocess.output_dir import clean_up_stale
    from nemo_workflow.preprocess.sources import find_sources
    from nemo_workflow.preprocess.startup import Loading

    began = time.monotonic()
    keys = tuple(dict.fromkeys(args.json_keys))
    sources, notes = find_sources(args.input, args.input_dir, args.data_prefix, keys)
    folder = Path(args.output_dir).expanduser() / "preprocessed"
    meter = Meter()
    with os_errors_refused(f"--output-dir {args.output_dir}"):
        for line in [*notes, *clean_up_stale(folder)]:
            meter.note(line)
        if not args.overwrite:
            _refuse_existing(folder, [stem for source in sources for stem in source.stems(keys)])
    loading = Loading(args, sources, keys)
    loading.load(beside="nemo_workflow.preprocess.run")
    from nemo_workflow.preprocess.run import Run

    for line in Run(args, sources, keys, folder, loading, meter).execute(began):
        print(line)
    return 0


def _check(args: argparse.Namespace) -> None:
    problems = []
    if not args.input and args.input_dir is None:
        problems.append("--input-dir or --input: one of them must say where the text is")
    if args.input and (args.input_dir is not None or args.data_prefix):
        problems.append("--input stands alone: leave --input-dir and --data-prefix out, or give only those")
    if args.workers is None:
        args.workers = len(os.sched_getaffinity(0))
    elif args.workers < 1:
        problems.append(f"--workers {args.workers}: at least 1")
    if not 0 <= args.max_bad <= 100:
        problems.append(f"--max-bad {args.max_bad:g}: a percentage from 0 to 100")
    if any(not key or "/" in key for key in args.json_keys):
        problems.append("--json-keys: a key names an output file, so it must not be empty or hold a /")
    for flag, name in (("--output-dir", args.output_dir), ("--tokenizer", args.tokenizer)):
        if not_utf8(Path(name).absolute()):
            problems.append(f"{flag} {name}: the path is not UTF-8; rename what is not")
    if any(map(not_utf8, args.json_keys)):
        problems.append("--json-keys: a key is not UTF-8")
    output = Path(args.output_dir).expanduser()
    if output.exists() and not output.is_dir():
        problems.append(f"--output-dir {args.output_dir}: a file; give a folder")
    if problems:
        raise Refusal(problems)


def _refuse_existing(folder: Path, stems: list[str]) -> None:
    existing = [path for stem in stems for end in (".bin", ".idx") if (path := folder / f"{stem}{end}").exists()]
    if existing:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise Refusal(f"{existing[0]}{more}: exists already; --overwrite replaces it")


def _stop(*_: object) -> NoReturn:
    print("stopped by SIGTERM; nothing was written", file=sys.stderr)
    sys.exit(143)
