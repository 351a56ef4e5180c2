"""What the flags of a preprocessing command come to: inputs, pairs, tokenizer. Imports no numpy and loads nothing."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from nemo_workflow.preprocess.earlier import recipe_of
from nemo_workflow.preprocess.groups import Group, group
from nemo_workflow.preprocess.input_files import find_sources
from nemo_workflow.preprocess.sources import Source
from nemo_workflow.preprocess.tokenizer import resolve_folder
from nemo_workflow.utils.console import human_bytes
from nemo_workflow.utils.errors import Refusal, os_errors_refused


@dataclass(frozen=True)
class Asked:
    """`keys` hold the text of a document, `names` are those of its pairs; `folder` is that of the pairs."""

    args: argparse.Namespace
    sources: list[Source]
    groups: list[Group]
    tokenizer: Path
    recipe: str
    notes: list[str]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.args.join_fields or self.args.json_keys)

    @property
    def names(self) -> tuple[str, ...]:
        return names_of(self.args)

    @property
    def folder(self) -> Path:
        return pairs_folder(self.args)

    def nothing_to_do(self) -> str:
        return f"nothing to do: {self.folder} holds what this command writes; --overwrite writes it again"


def names_of(args: argparse.Namespace) -> tuple[str, ...]:
    return ("text",) if args.join_fields else tuple(args.json_keys)


def pairs_folder(args: argparse.Namespace) -> Path:
    return Path(args.output_dir).expanduser() / "preprocessed"


def read_asked(args: argparse.Namespace) -> Asked:
    """Look for the inputs and the tokenizer of checked arguments; raises Refusal."""
    sources, notes = find_sources(args.input, args.input_dir, args.data_prefix, pairs_folder(args))
    _refuse_keys_of_texts(args, sources)
    groups = group(sources, args.join, names_of(args))
    notes += _word_on_joining(args, sources)
    with os_errors_refused(f"--tokenizer {args.tokenizer}"):
        tokenizer = resolve_folder(args.tokenizer, args.trust_remote_code)
        recipe = recipe_of(args, tokenizer)
    return Asked(args, sources, groups, tokenizer, recipe, notes)


MANY, SMALL = 100, 1 << 20  # files, and bytes of each, that had better be one pair


def _word_on_joining(args: argparse.Namespace, sources: list[Source]) -> list[str]:
    """Of many small files each becomes a pair, which training reads as a source of its own, or refuses as too small."""
    each = sum(source.size for source in sources) // max(1, len(sources))
    if args.join or len(sources) < MANY or each > SMALL:
        return []
    return [
        f"{len(sources):,} files of {human_bytes(each)} each on average become as many pairs, and training refuses those that are"
        " too small for its parts; --join makes one pair of all (--join folder: one per top folder)"
    ]


def _refuse_keys_of_texts(args: argparse.Namespace, sources: list[Source]) -> None:
    """A file that is one document has no keys: raise Refusal where several are asked for."""
    texts = [source.path for source in sources if source.is_text]
    keys = args.join_fields or args.json_keys
    if texts and (args.join_fields or len(keys) > 1):
        flag = "--join-fields" if args.join_fields else "--json-keys"
        more = f" and {len(texts) - 1:,} more" if len(texts) > 1 else ""
        raise Refusal(
            f"{flag} {','.join(keys)}: {texts[0]}{more}: one document a file, without keys; leave such files out, or preprocess "
            "them with a command of their own"
        )
