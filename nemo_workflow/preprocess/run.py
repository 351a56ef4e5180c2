"""One preprocessing run: tokenizer, workers, files, figures."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from nemo_workflow.preprocess.documents import Reject
from nemo_workflow.preprocess.engine_parity import first_difference
from nemo_workflow.preprocess.engines import Engine, FastokensEngine, PythonEngine, TokenizersEngine
from nemo_workflow.preprocess.inputs import Reader
from nemo_workflow.preprocess.messages import Place, Result
from nemo_workflow.preprocess.output_dir import OutputFolder, disk_errors
from nemo_workflow.preprocess.pair_writer import PairWriter
from nemo_workflow.preprocess.pool import Pool
from nemo_workflow.preprocess.sources import Source
from nemo_workflow.preprocess.startup import Loading
from nemo_workflow.preprocess.stats import Tally, lines_for_people, tokenizer_json
from nemo_workflow.preprocess.tokenizer import TokenizerSpec
from nemo_workflow.preprocess.worker import Encoder, Job
from nemo_workflow.utils import console
from nemo_workflow.utils.errors import Refusal

CHUNK = 4 << 20  # bytes of input a task
READ_AHEAD = 1 << 20  # bytes of a compressed file that may be read but not yet in a task
ENOUGH_LINES = 10_000  # before so many are read, nothing is expected of the rest
MARGIN = 4  # the rest of a file may have this many times the lines that the part read so far lets expect


class Output:
    """What one input file becomes: a pair a key, and the list of its bad lines."""

    def __init__(self, source: Source, keys: tuple[str, ...], spec: TokenizerSpec, folder: OutputFolder):
        self.source, self.keys, self.folder = source, keys, folder
        self.stems = source.stems(keys)
        self.writers = [PairWriter(folder.run_dir, stem, spec.dtype) for stem in self.stems]
        self.tallies = [Tally(spec) for _ in keys]
        self.rejected: Counter[str] = Counter()
        self.lines = 0
        self.unwritten = 0  # orders to workers that are not done yet
        self.closed = False
        self._rejects: IO[str] | None = None

    @property
    def rejects_name(self) -> str:
        return f"{self.source.prefix}.rejects.jsonl"

    def add(self, result: Result) -> Place:
        """Take a result's figures; returns where its tokens belong."""
        for tally, tokens in zip(self.tallies, result.tokens, strict=True):
            tally.add(tokens)
        for reject in result.rejects:
            self._note(reject)
        self.lines += result.lines
        return Place([writer.add(tokens) for writer, tokens in zip(self.writers, result.tokens, strict=True)])

    def _note(self, reject: Reject) -> None:
        if self._rejects is None:
            self._rejects = (self.folder.run_dir / self.rejects_name).open("w", encoding="utf-8")
        self.rejected[reject.reason] += 1
        entry = {
            "file": str(self.source.path),
            "line": self.lines + reject.line,
            "reason": reject.reason,
            "detail": reject.detail,
        }
        self._rejects.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def check_share(self, most: float) -> None:
        """Refuse a file of which more than `most` per cent is bad."""
        if self.lines and 100 * sum(self.rejected.values()) > most * self.lines:
            raise self._too_many(f"{self.lines:,}", most)

    def check_hope(self, most: float, read: int) -> None:
        """Refuse a file early, after `read` bytes, if more than `most` per cent will be bad however good the rest is."""
        if self.lines < ENOUGH_LINES:
            return
        expected = MARGIN * self.lines * self.source.size / max(1, read - READ_AHEAD)
        if 100 * sum(self.rejected.values()) > most * expected:
            raise self._too_many(f"the first {self.lines:,}", most)

    def _too_many(self, lines: str, most: float) -> Refusal:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.rejected.most_common(3))
        return Refusal(
            f"{self.source.path}: {sum(self.rejected.values()):,} of {lines} lines are bad ({reasons}), "
            f"more than --max-bad {most:g} %; nothing was written. Mend the file, or allow more"
        )

    def close(self) -> None:
        """No more results come."""
        if self.tallies[0].documents == 0:
            raise Refusal(f"{self.source.path}: no documents in it; there is nothing to train on")
        for tally, key in zip(self.tallies, self.keys, strict=True):
            if tally.tokens == 0:
                raise Refusal(f"{self.source.path}: every {key!r} is empty; there is nothing to train on")
        self.closed = True
        self._finish_if_written()

    def written(self) -> None:
        """A worker has done one of its orders."""
        self.unwritten -= 1
        self._finish_if_written()

    def _finish_if_written(self) -> None:
        """Put everything of this input on disk, still under the run's folder."""
        if not self.closed or self.unwritten:
            return
        for writer in self.writers:
            writer.finish()
        if self._rejects is not None:
            self._rejects.close()
            self.folder.move(self.rejects_name)

    def write_figures(self, common: dict[str, Any]) -> list[str]:
        """Write each pair's JSON; returns the lines to print."""
        out = []
        for writer, tally, stem, key in zip(self.writers, self.tallies, self.stems, self.keys, strict=True):
            figures = {
                "input": str(self.source.path.absolute()),
                "input_bytes": self.source.size,
                "json_key": key,
                **common,
                **tally.as_json(),
                "bin_bytes": writer.bin_path.stat().st_size,
                "bad_lines": dict(self.rejected),
            }
            text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
            (self.folder.run_dir / f"{stem}.json").write_text(text, encoding="utf-8")
            # the .idx last: without it no reader takes the pair
            for ending in ("json", "bin", "idx"):
                self.folder.move(f"{stem}.{ending}")
            out += lines_for_people(stem, figures, self.rejected)
        return out


class Run:
    """The whole run for checked arguments, with a tokenizer that is loaded or about to be."""

    def __init__(
        self,
        args: argparse.Namespace,
        sources: list[Source],
        keys: tuple[str, ...],
        folder: Path,
        loading: Loading,
        meter: console.Meter,
    ):
        self.args, self.sources, self.keys, self.folder = args, sources, keys, folder
        self.loading, self.meter = loading, meter

    def execute(self, began: float) -> Iterator[str]:
        """Do it all; yields the lines of the closing summary."""
        self.spec, self.sample, self.expected = self.loading.reference()
        if self.args.append_eod and self.spec.eod is None:
            raise Refusal(
                f"--tokenizer {self.args.tokenizer}: it names no eos_token to end documents with; "
                "give --eod-token TOKEN, or --no-append-eod"
            )
        with disk_errors(self.folder), OutputFolder(self.folder, self.args.overwrite) as output:
            outputs = self._encode_all(output)
            lines = self._finish(output, outputs, began)
        yield from lines

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
            self.why = "takes this tokenizer"
            return FastokensEngine(self.loading.fast, self.spec.split_special)
        self.why = f"fastokens does not take this tokenizer ({self.loading.not_fast})"
        if self.args.engine == "fastokens":
            raise Refusal(f"--engine fastokens: {self.why}; leave --engine out")
        return TokenizersEngine(self.spec)

    def _start(self, output: OutputFolder) -> Pool:
        """Workers whose engine gave the Hugging Face ids on the sample, or the reference engine's."""
        args = self.args
        engine = self._engine()
        job = Job(self.spec, self.keys, args.append_eod, args.special_tokens, output.run_dir)
        size = sum(source.size for source in self.sources)
        count = max(1, min(args.workers, 1 + size // (CHUNK // 16)))

        def handler() -> tuple[str | None, Encoder]:
            return first_difference(engine, self.sample, self.expected, args.special_tokens), Encoder(job, engine)

        pool = Pool(count, handler)
        difference = next((hello for hello in pool.hellos if hello), None)
        if difference is not None:
            pool.close()
            if isinstance(engine, TokenizersEngine):
                raise Refusal(f"--tokenizer {args.tokenizer}: its ids depend on how it is loaded ({difference})")
            self.meter.note(f"WARNING: {engine.name} gives other ids than the Hugging Face tokenizer: {difference}")
            engine = TokenizersEngine(self.spec)
            self.why = f"fastokens gave other ids: {difference}"
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
        if self.args.append_eod and self.args.special_tokens and spec.eod in spec.suffix:
            parts.append(
                "WARNING: the tokenizer adds that one itself, so it comes twice; --no-append-eod leaves ours out"
            )
        return ", ".join(parts)

    def _encode_all(self, output: OutputFolder) -> list[Output]:
        total = sum(source.size for source in self.sources)
        chunk = min(CHUNK, max(CHUNK // 16, total // (4 * self.args.workers)))
        pool = self._start(output)
        reader = Reader(self.sources, self.keys, output.run_dir, chunk, self.meter.note)
        progress = Progress(self.meter, total)
        outputs: list[Output] = []
        before = list(itertools.accumulate((source.size for source in self.sources), initial=0))
        try:
            for task, result, worker in pool.run(reader.tasks(), progress.show):
                self._open_up_to(task.source, outputs, output)
                place = self._take(outputs[-1], result, task.done - before[task.source])
                outputs[-1].unwritten += 1
                pool.order(worker, place, outputs[-1].written)
                progress.add(task.done, result)
            self._open_up_to(len(self.sources) - 1, outputs, output)
            self._close_last(outputs)
            progress.show(last=True)
        finally:
            pool.close()
            self.meter.close()
        return outputs

    def _open_up_to(self, source: int, outputs: list[Output], folder: OutputFolder) -> None:
        """Begin the outputs of all inputs up to number `source`; the ones before it are complete."""
        while len(outputs) <= source:
            self._close_last(outputs)
            outputs.append(Output(self.sources[len(outputs)], self.keys, self.spec, folder))

    def _close_last(self, outputs: list[Output]) -> None:
        if outputs:
            outputs[-1].check_share(self.args.max_bad)
            outputs[-1].close()

    def _take(self, output: Output, result: Result, read: int) -> Place:
        if result.rejects and self.args.on_error == "stop":
            bad = result.rejects[0]
            kind = "row" if output.source.is_parquet else "line"
            raise Refusal(
                f"{output.source.path}:{output.lines + bad.line}: {bad.reason} in this {kind}: {bad.detail}; nothing was "
                "written. Mend it, or leave such lines out with --on-error skip"
            )
        place = output.add(result)
        output.check_hope(self.args.max_bad, read)
        return place

    def _finish(self, output: OutputFolder, outputs: list[Output], began: float) -> list[str]:
        args = self.args
        common = {
            **tokenizer_json(self.spec, self.engine_name, self.why, args.append_eod, args.special_tokens),
            "seconds": round(time.monotonic() - began, 2),
        }
        lines: list[str] = []
        for each in outputs:
            lines += each.write_figures(common)
        old_rejects = [each.rejects_name for each in outputs if not each.rejected]
        output.commit(remove=old_rejects)
        forged = sum(tally.eod_inside for each in outputs for tally in each.tallies)
        if forged and self.spec.eod is not None:
            self.meter.note(
                f"WARNING: {forged:,} times a text holds {self.spec.eod_token} itself, which became the end-of-document id "
                f"{self.spec.eod}, so training sees a document end there"
            )
        tokens = sum(tally.tokens for each in outputs for tally in each.tallies)
        size, seconds = sum(source.size for source in self.sources), max(1e-9, time.monotonic() - began)
        lines.append(
            f"{len(outputs)} file{'s' if len(outputs) > 1 else ''}, {tokens:,} tokens in {console.human_time(seconds)} "
            f"({size / 1e6 / seconds:.1f} MB/s, {console.human_count(tokens / seconds)} tokens/s) -> {self.folder}"
        )
        return lines


class Progress:
    """Documents, MB/s, tokens/s and time left."""

    def __init__(self, meter: console.Meter, total: int):
        self.meter, self.total = meter, total
        self.began = time.monotonic()
        self.done = self.documents = self.tokens = 0

    def add(self, done: int, result: Result) -> None:
        self.done = done
        lengths = [np.frombuffer(tokens.lengths, np.int32) for tokens in result.tokens]
        self.documents += len(lengths[0])
        self.tokens += sum(int(of_key.sum(dtype=np.int64)) for of_key in lengths)
        self.show()

    def show(self, last: bool = False) -> None:
        seconds = max(1e-9, time.monotonic() - self.began)
        done = self.total if last else self.done
        left = seconds * (self.total - done) / done if done else 0
        self.meter.show(
            f"{100 * done / self.total:3.0f} %  {console.human_count(self.documents)} documents  "
            f"{done / 1e6 / seconds:.1f} MB/s  {console.human_count(self.tokens / seconds)} tokens/s  "
            f"{console.human_time(left)} left",
            always=last,
        )
