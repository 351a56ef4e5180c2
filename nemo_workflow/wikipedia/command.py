"""The flags of download_wiki.py, what they refuse, and the start of the work."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.files import absolute
from nemo_workflow.utils.meant import called
from nemo_workflow.wikipedia.journal import Rules

PROJECTS = (
    "wikipedia", "wiktionary", "wikinews", "wikibooks", "wikiquote", "wikisource", "wikiversity", "wikivoyage",
)  # fmt: skip
WIKIMEDIA = "https://dumps.wikimedia.org"
MOST_WORKERS = 8  # by default: 8 keep up with any line to the site, and with the promise of 500 MB


# what other tools' commands call our flags
MEANINGS = called(
    {
        "--language": "lang wiki l code site",
        "--output-dir": "output out dest out-dir output-path save-dir o",
        "--dump": "input dump-file file",
        "--date": "dump-date snapshot version",
        "--max-pages": "limit num-articles max-articles max-docs num-pages max-documents",
        "--min-chars": "min-length min-text-length min-size",
        "--base-url": "mirror url",
        "--workers": "processes num-proc num-workers threads jobs nproc",
        "--convert": "simplified traditional opencc",
        "--contact": "email mail user-agent",
        "--overwrite": "force",
        "--keep-metadata": "metadata with-metadata",
    },
    {
        "json jsonl format": "--output-dir gets JSON lines by default: leave it out",
        "proxy": "the environment's HTTPS_PROXY is used; --base-url names a mirror",
        "resume continue": "the same command continues: leave it out",
    },
)


def parser() -> argparse.ArgumentParser:
    made = Parser(
        description='Download a Wikipedia and write its articles as JSON Lines, one {"text": …} per page.',
        meanings=MEANINGS,
        epilog="Interrupted? The same command continues. What is already there and intact isn't downloaded again.",
    )

    def add(name: str, **keywords: Any) -> None:
        made.add_argument(f"--{name}", **keywords)

    add(
        "language",
        metavar="CODE",
        help="code of the Wikipedia: en, zh, zh-yue, … (default zh-classical)",
    )
    add(
        "project",
        choices=PROJECTS,
        metavar="NAME",
        help=f"{', '.join(PROJECTS[:-1])} or {PROJECTS[-1]} (default wikipedia)",
    )
    add("date", metavar="YYYYMMDD", help="date of the dump (default: the newest finished one)")
    add("output-dir", metavar="DIR", help="where to write (default wiki_data_CODE in the current folder)")
    add(
        "dump",
        metavar="FILE",
        help="a dump on this disk (…-pages-articles….xml, .bz2, .gz or .xz) instead of a download; no index is needed",
    )
    add("url-limit", type=positive, metavar="N", help="only the first N parts of a large wiki")
    add("max-pages", type=positive, metavar="N", help="stop after N articles")
    add(
        "min-chars", type=int, default=50, metavar="N", help="leave out articles shorter than N characters (default 50)"
    )
    add(
        "convert",
        choices=("s2t", "t2s", "none"),
        default="none",
        help="Chinese characters: simplified to traditional, the reverse, or as they are (default none)",
    )
    add("keep-metadata", action="store_true", help="write id, title and url beside text")
    add("base-url", metavar="URL", help=f"a mirror of the dump site (default {WIKIMEDIA})")
    add(
        "workers",
        type=positive,
        metavar="N",
        help=f"processes that extract the text (default: one per CPU, at most {MOST_WORKERS})",
    )
    add(
        "contact",
        metavar="ADDRESS",
        help="mail or web address to name in the User-Agent, as Wikimedia asks of frequent callers",
    )
    add("overwrite", action="store_true", help="replace an output that was made with other settings")
    return made


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of 1 or more")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; raises Refusal and Failure."""
    args = parser().parse_args(argv)
    check(args)
    from nemo_workflow.wikipedia.local_dump import LocalDump

    dump = LocalDump(absolute(args.dump)) if args.dump else None
    # imports requests: 0.3 s that --help and refusals can do without
    from nemo_workflow.wikipedia.run import Request, run, run_local

    rules = Rules(args.min_chars, args.convert, args.keep_metadata, args.max_pages)
    other = "" if args.project == "wikipedia" else f"_{args.project}"
    of = dump.name.partition("-")[0] if dump else f"{args.language}{other}"
    folder = absolute(args.output_dir or f"wiki_data_{of}")
    workers = args.workers or min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    request = Request(
        args.language,
        args.date,
        args.base_url,
        args.contact,
        args.url_limit,
        workers,
        args.overwrite,
        args.project,
    )
    try:
        if dump:
            run_local(dump, request, rules, folder)
        else:
            run(request, rules, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Failure(
                f"--output-dir {folder}: the disk is full; nothing is lost: free some space and run the same command again"
            ) from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.ENOENT, errno.EEXIST):
            raise Refusal(
                f"--output-dir {folder}: {error.strerror}: {error.filename}; name a folder you may write to"
            ) from None
        raise
    return 0


def check(args: argparse.Namespace) -> None:
    """Set defaults; refuse what can be refused without a network."""
    problems = []
    of_download = ("language", "project", "date", "url_limit", "base_url", "contact")
    for name in of_download if args.dump else ():
        if getattr(args, name) is not None:
            flag = name.replace("_", "-")
            problems.append(f"--{flag}: says what to download, and --dump names a file that is here; leave one out")
    args.language = "zh-classical" if args.language is None else args.language
    args.project = args.project or "wikipedia"
    args.base_url = WIKIMEDIA if args.base_url is None else args.base_url
    if (
        not all(part.isalnum() and part.isascii() for part in args.language.split("-"))
        or args.language != args.language.lower()
    ):
        problems.append(f"--language {args.language}: expected a code such as en, zh or zh-classical")
    if args.date and not (len(args.date) == 8 and args.date.isdigit()):
        problems.append(f"--date {args.date}: expected YYYYMMDD; leave it out for the newest finished dump")
    if not args.base_url.startswith(("http://", "https://")):
        problems.append(f"--base-url {args.base_url}: expected an address that starts with https:// or http://")
    if args.convert != "none" and importlib.util.find_spec("opencc") is None:
        problems.append(
            f"--convert {args.convert}: needs OpenCC: pip install -r requirements.txt, or use --convert none"
        )
    if problems:
        raise Refusal(problems)
