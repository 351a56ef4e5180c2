"""--extend-vocabulary: an import whose embedding gets rows for the further tokens of a larger tokenizer.

A new token's row is the mean of the rows of the pieces that the model's own tokenizer cuts it into. No torch here: the rows
are made in `grown_rows`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_workflow.conversion import inputs
from nemo_workflow.conversion.extension import Extension
from nemo_workflow.conversion.hf_folder import HFReader, TensorInfo, read_json
from nemo_workflow.conversion.import_job import Import
from nemo_workflow.conversion.output_dir import check_apart
from nemo_workflow.models.families.wrappers import text_part
from nemo_workflow.models.tokenizer_files import KEPT, check_ids, copy_for_nemo, files_of
from nemo_workflow.models.tokenizer_loading import load
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import write_json
from nemo_workflow.utils.folder_kinds import TOKENIZERS, meant

FLAG = "--extend-vocabulary"
MULTIPLE = 128  # of rows: what NeMo's configurations pad to, so that any tensor parallel size up to it divides them
TIED_COPY = "lm_head.weight"  # some folders of tied models hold it too


def extended(job: Import, args: argparse.Namespace, token: str | None, scratch: Path) -> Import:
    """`job` with the tokenizer of --extend-vocabulary in place of the model's own.

    `scratch` becomes the folder of its tokenizer and configuration. Raises Refusal where the old tokens don't keep their ids.
    """
    folder = inputs.fetch(args.extend_vocabulary, None, token, FLAG, weights=False)
    if args.output_path is not None:
        check_apart(args.output_path, folder, FLAG)
    old, new = _tokenizer(job.folder, "--source"), _tokenizer(folder, FLAG)
    before = job.hf["vocab_size"]
    pieces = _new_tokens(old, new, before, folder)
    entries = max(pieces) + 1
    rows = before if entries <= before else math.ceil(entries / MULTIPLE) * MULTIPLE
    extension = Extension(folder, pieces, before, rows)
    _write_folder(job, folder, scratch, rows)
    tables = vocabulary_tensors(job)
    tensors = {name: _grown(info, rows) if name in tables else info for name, info in job.tensors.items()}
    return dataclasses.replace(
        job,
        folder=scratch,
        hf={**job.hf, "vocab_size": rows},
        nemo={**job.nemo, "vocab_size": rows},
        tensors=tensors,
        extension=extension,
        reader=lambda: ExtendedReader(job.tensors, tensors, tables, extension),
    )


def vocabulary_tensors(job: Import) -> frozenset[str]:
    """Names of the tensors that have a row for each token."""
    names = {name for rule in job.family.rules(job.hf) if rule.kind.startswith("vocab") for name in rule.hf}
    return frozenset(names | {TIED_COPY})


class ExtendedReader(HFReader):
    """A Hugging Face folder's tensors, those with a row for each token extended as they are read."""

    def __init__(
        self,
        source: dict[str, TensorInfo],
        tensors: dict[str, TensorInfo],
        tables: frozenset[str],
        extension: Extension,
    ):
        super().__init__(tensors)
        self._source, self._tables, self._extension = HFReader(source), tables, extension

    def read(self, name: str) -> Any:
        """The tensor `name`, in the file's dtype; not to be written to."""
        table = self._source.read(name)
        if name not in self._tables:
            return table
        from nemo_workflow.conversion.grown_rows import grown

        return grown(table, self._extension.pieces, self._extension.rows)


def _grown(info: TensorInfo, rows: int) -> TensorInfo:
    return dataclasses.replace(info, shape=(rows, *info.shape[1:]), nbytes=info.nbytes // info.shape[0] * rows)


def _write_folder(job: Import, tokenizer: Path, scratch: Path, rows: int) -> None:
    """`scratch` as the folder of the extended model would be, without weights."""
    copy_for_nemo(tokenizer, scratch)
    for name in KEPT:
        (scratch / name).unlink(missing_ok=True)
    source = job.folder
    raw = read_json(source / "config.json")
    names = {
        "vocab_size",
        *(own for own, common in job.family.renamed.items() if common == "vocab_size" and own in raw),
    }
    size = dict.fromkeys(names, rows)
    whole = text_part(raw) is not raw
    raw = {**raw, "text_config": {**raw["text_config"], **size}} if whole else {**raw, **size}
    write_json(scratch / "config.json", raw)
    generation = source / "generation_config.json"
    if generation.exists():
        (scratch / generation.name).write_bytes(generation.read_bytes())


# --- tokens -----------------------------------------------------------------------------------------------------------
def _tokenizer(folder: Path, flag: str) -> Any:
    if not folder.is_dir() or not files_of(folder):
        needed = "the tokenizer that the model has" if flag == "--source" else "a tokenizer"
        raise Refusal(
            f"{flag} {folder}: no tokenizer files in it; {FLAG} needs {needed} (tokenizer.json){meant(folder, TOKENIZERS, flag)}"
        )
    check_ids(folder)
    return load(folder)


def _new_tokens(old: Any, new: Any, rows: int, folder: Path) -> dict[int, tuple[int, ...]]:
    """Each new id, and its old pieces' ids."""
    before, after = old.get_vocab(), new.get_vocab()
    _check_kind(old, new, folder)
    for token, identity in sorted(before.items(), key=lambda entry: entry[1]):
        if after.get(token) != identity:
            now = f"the id {after[token]}" if token in after else "none"
            raise Refusal(
                f"{FLAG} {folder}: the token {token!r} has the id {identity} in the model's tokenizer and {now} in this one."
                " Old tokens must keep their ids, for their rows stay: add tokens to the model's own tokenizer, or train a new model"
            )
    trained = {identity for identity in before.values() if identity < rows}
    names = {identity: token for token, identity in after.items() if identity not in trained}
    if not set(after) - set(before):
        raise Refusal(
            f"{FLAG} {folder}: has no token that the model's own tokenizer, of {len(before):,} entries, lacks; leave"
            f" {FLAG} out"
        )
    added, special = new.get_added_vocab(), set(new.all_special_tokens) | _special(new)
    return {
        identity: tuple(
            piece for piece in _pieces(old, token, token in added, token in special) if piece in trained
        )
        for identity, token in sorted(names.items())
    }  # fmt: skip


def _special(tokenizer: Any) -> set[str]:
    return {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}


def _check_kind(old: Any, new: Any, folder: Path) -> None:
    kinds = [_kind(tokenizer) for tokenizer in (old, new)]
    if kinds[0] != kinds[1]:
        raise Refusal(
            f"{FLAG} {folder}: is a tokenizer of another kind ({kinds[1]}) than the model's ({kinds[0]}): its tokens are"
            " written in another alphabet, so no old pieces can be found for them; add tokens to the model's own tokenizer"
        )


def _kind(tokenizer: Any) -> str:
    """Model and decoder of a fast tokenizer, which decide how its tokens are written; the class of another."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return type(tokenizer).__name__
    return " and ".join([type(backend.model).__name__, *([type(backend.decoder).__name__] if backend.decoder else [])])


def _pieces(old: Any, token: str, added: bool, special: bool) -> Iterator[int]:
    """Ids of the pieces that the old tokenizer cuts a new token into.

    A token of the vocabulary goes through the old tokenizer's model as it is written (bytes as letters, a space as a sign), so
    that a leading space and a part of a letter find their pieces. An added token is plain text. A special token's name is no text.
    """
    if special:
        return
    backend, unknown = getattr(old, "backend_tokenizer", None), old.unk_token_id
    if backend is not None and not added:
        found = [piece.id for piece in backend.model.tokenize(token)]
    else:
        text = token if added else old.convert_tokens_to_string([token])
        found = old.encode(text, add_special_tokens=False)
    yield from (identity for identity in found if identity != unknown)
