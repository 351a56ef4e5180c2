"""From inputs to whole pairs in the run's folder: tasks to the workers, results into the outputs, the journal."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from nemo_workflow.preprocess.documents import Reject
from nemo_workflow.preprocess.earlier import KeptInput, stretches
from nemo_workflow.preprocess.groups import Group
from nemo_workflow.preprocess.inputs import Reader, Todo
from nemo_workflow.preprocess.journal import Journal, Mark
from nemo_workflow.preprocess.messages import Kept, Place, Result, Task
from nemo_workflow.preprocess.output_dir import sync_files
from nemo_workflow.preprocess.outputs import Context, Output
from nemo_workflow.preprocess.pool import Pool
from nemo_workflow.preprocess.sources import NOT_TEXT, Source
from nemo_workflow.preprocess.work import Work
from nemo_workflow.utils import console
from nemo_workflow.utils.errors import Refusal

READ_AHEAD = 1 << 20  # bytes of a compressed file that may be read but not yet in a task
ENOUGH_LINES = 10_000  # before so many are read, nothing is expected of the rest
MARGIN = 4  # the rest of the input may have this many times the lines that the part read so far lets expect
SETTLE_SECONDS = 5.0  # for the workers to write what they have, when the run ends early
WORTH_KEEPING = 256 << 20  # bytes of input that a stopped run has encoded


class BadShare:
    """Refuses an input of which more than `most` per cent of the lines are bad; `size` in bytes, of all files together."""

    def __init__(self, most: float, sources: list[Source]):
        self.most, self.sources = most, sources
        self.size = sum(source.to_read for source in sources)
        self.lines = 0
        self.bad: Counter[str] = Counter()
        self.by_source: Counter[str] = Counter()

    def add(self, source: Source, lines: int, bad: Counter[str]) -> None:
        self.lines += lines
        self.bad += bad
        if bad:
            self.by_source[str(source.path)] += bad.total()

    def check(self) -> None:
        """At the end."""
        if self.lines and 100 * self.bad.total() > self.most * self.lines:
            raise self._too_many(f"{self.lines:,}")

    def check_hope(self, read: int) -> None:
        """Early, after `read` bytes, if more will be bad however good the rest is."""
        if self.lines < ENOUGH_LINES or not self.bad:
            return
        expected = MARGIN * self.lines * self.size / max(1, read - READ_AHEAD)
        if 100 * self.bad.total() > self.most * expected:
            raise self._too_many(f"the first {self.lines:,}")

    def _too_many(self, lines: str) -> Refusal:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.bad.most_common(3))
        if len(self.sources) == 1:
            where = f"{self.sources[0].path}:"
        else:
            worst, count = self.by_source.most_common(1)[0]
            where = f"the {len(self.sources)} input files ({count:,} bad lines in {worst}):"
        return Refusal(
            f"{where} {self.bad.total():,} of {lines} lines are bad ({reasons}), "
            f"more than --max-bad {self.most:g} %; nothing was written. Fix the input, or allow more"
        )


class Encoding:
    """All inputs, one after another. `outputs` has the finished ones."""

    def __init__(self, work: Work, context: Context, max_bad: float, skip: bool, meter: console.Meter):
        self.work, self.context, self.skip = work, context, skip
        self.sources = work.sources
        self.group_of = [group for group in work.groups for _ in group.sources]
        self.line_of: dict[int, dict[str, Any]] = {}
        for first, group in zip(_firsts(work.groups), work.groups, strict=True):
            for place, line in enumerate(work.lines.get(group.prefix, ())):
                self.line_of[first + place] = line
        self.share = BadShare(max_bad, self.sources)
        self.progress = Progress(meter, sum(source.to_read for source in self.sources))
        self.outputs: list[Output] = []
        self._unsynced: list[Output] = []
        believed = [line for lines in work.lines.values() for line in lines]
        self.journal = Journal(context.folder.run_dir, self._sync, believed)
        self.at = -1  # number of the input whose results are being taken
        self.finished_inputs = 0

    def todo(self) -> dict[int, Todo]:
        """What the reader is to read of each input."""
        out = {number: Todo(start=line["position"], done=line["done"]) for number, line in self.line_of.items()}
        for first, group in zip(_firsts(self.work.groups), self.work.groups, strict=True):
            numbers = range(first, first + len(group.sources))
            for is_kept, row in itertools.groupby(numbers, lambda number: bool(self._kept(number))):
                if is_kept:
                    members = list(row)
                    out |= dict.fromkeys(members, Todo(done=True))
                    copied = stretches((number, self._kept(number)) for number in members)
                    out[members[0]] = Todo(done=True, kept=tuple(copied))
        return out

    def _kept(self, number: int) -> tuple[KeptInput, ...]:
        """The parts of an input that is copied."""
        source = self.sources[number]
        return () if number in self.line_of or source.part else self.work.kept.get(source.path, ())

    def run(self, pool: Pool, reader: Reader) -> None:
        try:
            for task, result, worker in pool.run(reader.tasks(), self.progress.show):
                self._advance_to(task.source)
                if isinstance(task, Kept):
                    self._take_kept(task, result, pool, worker)
                else:
                    self._take(task, result, pool, worker)
        except BaseException:
            pool.settle(SETTLE_SECONDS)  # so that the next run need not do it again
            raise
        self._advance_to(len(self.sources))
        self.share.check()
        self.journal.advance()
        self.progress.show(last=True)

    def _advance_to(self, number: int) -> None:
        """End the inputs before this one, and begin it."""
        while self.at < number:
            self._end()
            self.at += 1
            if self.at < len(self.sources):
                self._begin()

    def _begin(self) -> None:
        source, group = self.sources[self.at], self.group_of[self.at]
        line = self.line_of.get(self.at)
        if not self.outputs or self.outputs[-1].group is not group:
            self.outputs.append(Output(group, self.context, self.work.lines.get(group.prefix, ())))
            self._unsynced.append(self.outputs[-1])
        self.outputs[-1].begin(source, line, self._kept(self.at))
        self.position = 0
        if line is not None:
            self.position = line["position"]
            self.share.add(source, line["lines"], Counter(line["bad_lines"]))
            self.progress.resume(line["documents"], line["keys"], self.context.spec.dtype)

    def _end(self) -> None:
        if self.at < 0:
            return
        output, source = self.outputs[-1], self.sources[self.at]
        output.current.check_unchanged()
        if not (self.line_of.get(self.at) or {}).get("done") and not self._kept(self.at):
            line = output.current.line(output.group.prefix, self.position, done=True)
            self.journal.mark([line], output.flush, written=True)
            self.journal.advance()
        self.finished_inputs += 1
        if source is output.group.sources[-1]:
            output.close()

    def _take(self, task: Task, result: Result, pool: Pool, worker: int) -> None:
        output, source = self.outputs[-1], self.sources[self.at]
        if result.rejects and not self.skip:
            raise self._bad(source, output, result.rejects[0])
        self.share.add(source, result.lines, Counter(reject.reason for reject in result.rejects))
        place = output.add(result)
        self.share.check_hope(task.done)
        self.position = task.position
        self._order(place, [output.current.line(output.group.prefix, task.position, done=False)], pool, worker)
        self.progress.add(task.done, result)

    def _take_kept(self, task: Kept, result: Result, pool: Pool, worker: int) -> None:
        """Copied documents of one input or several; what is known of each input is counted where it ends."""
        output = self.outputs[-1]
        place = output.add_tokens(result)
        lines = []
        for number in task.ended:
            self._advance_to(number)
            output.add_kept(self._kept(number))
            self.share.add(self.sources[number], output.current.lines, output.current.bad)
            lines.append(output.current.line(output.group.prefix, 0, done=True))
        self.share.check_hope(task.done)
        self._order(place, lines, pool, worker)
        self.progress.add(task.done, result)

    def _order(self, place: Place, lines: list[dict[str, Any]], pool: Pool, worker: int) -> None:
        """Have the worker write its tokens; the journal's lines hold then."""
        output = self.outputs[-1]
        mark = self.journal.mark(lines, output.flush)
        output.unwritten += 1

        def written(output: Output = output, mark: Mark = mark) -> None:
            self.journal.done(mark)
            output.written()

        pool.order(worker, place, written)

    def _bad(self, source: Source, output: Output, bad: Reject) -> Refusal:
        kind = "row" if source.is_table else "file" if source.is_text else "line"
        number = source.lines_before() + output.current.lines + bad.line
        remedy = "Fix it"
        if bad.reason == "key missing":
            remedy = "Name the key of the text with --json-keys"
        elif not source.is_table:
            remedy = NOT_TEXT.get(bad.reason, remedy)
        return Refusal(
            f"{source.path}:{number}: {bad.reason} in this {kind}: {bad.detail}; nothing was "
            f"written. {remedy}, or leave such {kind}s out with --on-error skip"
        )

    def worth_keeping(self) -> bool:
        """Whether a run that ends here should be gone on with: files are done, or much of one."""
        return (self.finished_inputs > 0 and len(self.sources) > 1) or self.progress.done > WORTH_KEEPING

    def _sync(self) -> None:
        finished = [output for output in self._unsynced if output.closed and not output.unwritten]
        names = [writer.bin_path for output in finished for writer in output.writers]
        names += [writer.lengths_path for output in finished for writer in output.writers]
        sync_files([path for path in names if path.exists()])
        self._unsynced = [output for output in self._unsynced if output not in finished]
        for output in self._unsynced:
            output.sync()


def _firsts(groups: list[Group]) -> Iterator[int]:
    """The number of each group's first input."""
    first = 0
    for group in groups:
        yield first
        first += len(group.sources)


class Progress:
    """Documents, MB/s, tokens/s and time left."""

    def __init__(self, meter: console.Meter, total: int):
        self.meter, self.total = meter, total
        self.began = time.monotonic()
        self.done = self.documents = self.tokens = 0

    def resume(self, documents: int, sums: list[list[int]], dtype: str) -> None:
        self.documents += documents
        self.tokens += sum(of_key[0] for of_key in sums) // np.dtype(dtype).itemsize

    def add(self, done: int, result: Result) -> None:
        self.done = done
        lengths = [np.frombuffer(tokens.lengths, np.int32) for tokens in result.tokens]
        self.documents += len(lengths[0])
        self.tokens += sum(int(of_key.sum(dtype=np.int64)) for of_key in lengths)
        self.show()

    def show(self, last: bool = False) -> None:
        seconds = max(1e-9, time.monotonic() - self.began)
        done = self.total if last else self.done
        left = f"{console.human_time(seconds * (self.total - done) / done)} left" if done else "no block done yet"
        self.meter.show(
            f"{100 * done / max(1, self.total):3.0f} %  {console.human_count(self.documents)} document{'' if self.documents == 1 else 's'}  "
            f"{done / 1e6 / seconds:.1f} MB/s  {console.human_count(self.tokens / seconds)} tokens/s  "
            f"{left}",
            always=last,
        )
