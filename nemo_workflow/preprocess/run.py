"""One preprocessing run: tokenizer, workers, files, figures."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_workflow.data.indexed_dataset import COMMIT_NAME
from nemo_workflow.preprocess.encoding import Encoding, Work
from nemo_workflow.preprocess.engine_parity import first_difference
from nemo_workflow.preprocess.engines import Engine, FastokensEngine, PythonEngine, TokenizersEngine
from nemo_workflow.preprocess.inputs import Reader
from nemo_workflow.preprocess.journal import read_journal
from nemo_workflow.preprocess.output_dir import OutputFolder, disk_errors
from nemo_workflow.preprocess.outputs import Context, Output
from nemo_workflow.preprocess.pool import Pool
from nemo_workflow.preprocess.startup import Loading
from nemo_workflow.preprocess.stats import tokenizer_json
from nemo_workflow.preprocess.tokenizer import TokenizerSpec
from nemo_workflow.preprocess.worker import Encoder, Job
from nemo_workflow.utils import console
from nemo_workflow.utils.console import counted
from nemo_workflow.utils.errors import Refusal

PAIR = (".bin", ".idx")
CHUNK = 4 << 20  # bytes of input a task
SHOWN = 10  # pairs whose figures are printed


def check_end(args: argparse.Namespace, spec: TokenizerSpec) -> None:
    """Raise Refusal where documents are to end with a token that the tokenizer does not name."""
    if args.append_eod and spec.eod is None:
        raise Refusal(
            f"--tokenizer {args.tokenizer}: it names no eos_token to end documents with; "
            "give --eod-token TOKEN, or --no-append-eod"
        )


class Run:
    """The whole run for checked arguments, with a tokenizer that is loaded or about to be."""

    def __init__(
        self,
        args: argparse.Namespace,
        work: Work,
        recipe: str,
        keys: tuple[str, ...],
        folder: Path,
        loading: Loading,
        meter: console.Meter,
    ):
        self.args, self.work, self.recipe, self.keys, self.folder = args, work, recipe, keys, folder
        self.loading, self.meter = loading, meter
        self.sources = work.sources
        self.separator = args.separator if args.join_fields else None
        self.output: OutputFolder | None = None
        self.encoding: Encoding | None = None

    def execute(self, began: float) -> Iterator[str]:
        """Do it all; yields the lines of the closing summary."""
        self.began = began
        self.spec, self.sample, self.expected = self.loading.reference()
        check_end(self.args, self.spec)
        with disk_errors(self.folder), OutputFolder(self.folder, self.args.overwrite, self.recipe) as output:
            self.output = output
            outputs = self._encode_all(output)
            lines = self._finish(output, outputs)
        yield from lines

    def left(self, output: OutputFolder) -> str:
        """Where the run has ended early: what is kept of it, and what the same command does then."""
        if output.committed:
            return "all is written"
        if (output.run_dir / COMMIT_NAME).exists():
            return "the same command finishes the renames that it had begun"
        if not output.keep() or not self._kept:
            return "nothing of this run is kept; the same command begins again"
        share = 100 * self._kept / sum(source.to_read for source in self.sources)
        said = f"{share:.0f} %" if share >= 1 else "less than 1 %"
        return f"{said} is kept; the same command{' without --overwrite' * self.args.overwrite} goes on from there"

    @property
    def _kept(self) -> int:
        """Bytes of input that the next run need not do, if this one ends now."""
        return self.work.read if self.encoding is None else self.encoding.kept

    def _is_kept(self) -> bool:
        """What --overwrite is to replace neither this command would go on with, nor one without it."""
        replaces = self.args.overwrite and self.output is not None and self.output.replaced
        return self._kept > 0 and not replaces

    def nothing_made(self, why: list[str]) -> Exception:
        """What to raise where no pair would hold a token."""
        return Refusal([f"{each}; there is nothing to preprocess" for each in why])

    def _engine(self) -> Engine:
        """The engine that the flags and the tokenizer allow, loaded here so that the workers share its memory."""
        if not self.spec.fast:
            self.why = "the tokenizer exists in Python only"
            if self.args.engine != "auto":
                raise Refusal(f"--engine {self.args.engine}: {self.why}; leave --engine out")
            return PythonEngine(self.spec)
        if self.args.engine == "tokenizers":
            self.why = "as --engine says"
            return TokenizersEngine(self.spec)
        if self.spec.backend is not None:  # transformers changes the file as it loads it
            self.loading.load_fast(self.spec.backend)
        if self.loading.fast is not None:
            self.why = "supports this tokenizer"
            return FastokensEngine(self.loading.fast, self.spec.split_special)
        self.why = f"fastokens does not support this tokenizer ({self.loading.not_fast})"
        if self.args.engine == "fastokens":
            raise Refusal(f"--engine fastokens: {self.why}; leave --engine out")
        return TokenizersEngine(self.spec)

    def _start(self, output: OutputFolder) -> Pool:
        """Workers whose engine gave the Hugging Face ids on the sample, or the reference engine's."""
        args = self.args
        engine = self._engine()
        job = Job(self.spec, self.keys, args.append_eod, args.special_tokens, output.run_dir, self.separator)
        size = sum(source.to_read for source in self.sources)
        count = max(1, min(args.workers, 1 + size // (CHUNK // 16)))

        def handler() -> tuple[str | None, Encoder]:
            return first_difference(engine, self.sample, self.expected, args.special_tokens), Encoder(job, engine)

        pool = Pool(count, handler)
        difference = next((hello for hello in pool.hellos if hello), None)
        if difference is not None:
            pool.close()
            if isinstance(engine, TokenizersEngine):
                raise Refusal(f"--tokenizer {args.tokenizer}: its ids depend on how it is loaded ({difference})")
            self.meter.note(f"WARNING: {engine.name} gives different ids from the Hugging Face tokenizer: {difference}")
            engine = TokenizersEngine(self.spec)
            self.why = f"fastokens gave different ids: {difference}"
            pool = Pool(count, handler)
            if any(pool.hellos):
                pool.close()
                raise Refusal(f"--tokenizer {args.tokenizer}: its ids depend on how it is loaded ({difference})")
        self.engine_name = engine.name
        self.meter.note(
            f"{self.spec.vocab_size:,} entries, {self.spec.dtype}; engine {engine.name}: {self.why}; "
            f"{count} worker{'s' if count > 1 else ''}; {self._around()}"
        )
        return pool

    def _around(self) -> str:
        spec, parts = self.spec, []
        if self.args.special_tokens and (spec.prefix or spec.suffix):
            parts.append(
                f"ids {list(spec.prefix)} before and {list(spec.suffix)} after each text (--no-special-tokens)"
            )
        eod = f"{spec.eod_token} ({spec.eod}) ends a document"
        parts.append(eod if self.args.append_eod else "nothing ends a document")
        if self.args.append_eod and spec.base_end and not self.args.eod_token:
            parts.append(
                f"WARNING: {spec.eod_token} ends a chat turn; the base model's documents end with {spec.base_end}: "
                f"--eod-token '{spec.base_end}'"
            )
        if self.args.append_eod and self.args.special_tokens and spec.eod in spec.suffix:
            parts.append(
                "WARNING: the tokenizer adds that one itself, so it comes twice; --no-append-eod leaves ours out"
            )
        return ", ".join(parts)

    def _encode_all(self, output: OutputFolder) -> list[Output]:
        skip = self.args.on_error == "skip"
        if output.resumed:
            self.work = replace(self.work, lines=read_journal(output.run_dir)).believed(
                skip, output.run_dir, self._names
            )
            self._say_resumed(output)
        output.expect(
            [f"{stem}{end}" for group in self.work.groups for stem in group.stems(self._names) for end in PAIR]
        )
        output.keep = self._is_kept
        total = sum(source.to_read for source in self.sources)
        chunk = min(CHUNK, max(CHUNK // 16, total // (4 * self.args.workers)))
        pool = self._start(output)
        context = Context(self._names, self.spec, output, self._common, len(self.work.groups) == 1, self.nothing_made)
        encoding = self.encoding = Encoding(self.work, context, self.args.max_bad, skip, self.meter)
        reader = Reader(self.sources, self.keys, output.run_dir, chunk, self.meter.note, encoding.todo())
        try:
            encoding.run(pool, reader)
        finally:
            pool.close()
            self.meter.close()
            encoding.journal.close()
        return encoding.outputs

    def _say_resumed(self, output: OutputFolder) -> None:
        lines = [line for lines in self.work.lines.values() for line in lines]
        whole = sum(line["done"] for line in lines)
        part = " and a part of another" if len(lines) > whole else ""
        self.meter.note(f"continuing a run that was stopped ({output.run_dir}): {counted(whole, 'input')} done{part}")

    def _common(self) -> dict[str, Any]:
        """Figures that every pair's .json has."""
        args = self.args
        return {
            **tokenizer_json(self.spec, self.engine_name, self.why, args.append_eod, args.special_tokens),
            "recipe": self.recipe,
            "seconds": round(time.monotonic() - self.began, 2),
        }

    @property
    def _names(self) -> tuple[str, ...]:
        """Of the texts of a document, as the pairs are named."""
        return ("text",) if self.args.join_fields else self.keys

    def _finish(self, output: OutputFolder, outputs: list[Output]) -> list[str]:
        made = [each for each in outputs if not each.empty]
        empty = [each.why for each in outputs if each.empty]
        if not made:
            raise self.nothing_made(empty)
        if empty:
            more = f" and {len(empty) - SHOWN} more" if len(empty) > SHOWN else ""
            self.meter.note(f"WARNING: no pair was written for {'; '.join(empty[:SHOWN])}{more}")
        idle = [
            str(each.source.path) for made_of in made for each in made_of.inputs if not each.documents and not each.bad
        ]
        if idle:
            more = f" and {len(idle) - SHOWN} more" if len(idle) > SHOWN else ""
            self.meter.note(f"skipped {counted(len(idle), 'file')} without documents: {', '.join(idle[:SHOWN])}{more}")
        output.commit(remove=[each.group.rejects_name for each in made if not each.rejected])
        forged = sum(each.eod_inside for each in made)
        if forged and self.spec.eod is not None:
            self.meter.note(
                f"WARNING: {counted(forged, 'time')} a text holds {self.spec.eod_token} itself, which became the end-of-document id "
                f"{self.spec.eod}, so training sees a document end there"
            )
        for text in [text for each in made for text in each.warnings][:SHOWN]:
            self.meter.note(text)
        lines = [line for each in made[:SHOWN] for line in each.printed]
        if len(made) > SHOWN:
            documents = sum(each.documents for each in made[SHOWN:])
            lines.append(
                f"and {len(made) - SHOWN:,} more with {counted(documents, 'document')} (a .json beside each has its figures)"
            )
        tokens = sum(each.tokens for each in made)
        seconds = time.monotonic() - self.began  # of all of it; the progress line had the speed of the encoding
        lines.append(
            f"{counted(len(self.sources), 'file')}, {tokens:,} tokens -> {self.folder}; {console.human_time(seconds)},"
            " loading and writing included"
        )
        return lines
