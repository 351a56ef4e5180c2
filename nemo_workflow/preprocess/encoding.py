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
from nemo_workflow.preprocess.journal import Journal, Mark, read_bytes
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
        self.ends = list(itertools.accumulate(source.to_read for source in self.sources))
        self.outputs: list[Output] = []
        self._unsynced: list[Output] = []
        believed = [line for lines in work.lines.values() for line in lines]
        self.progress = Progress(meter, self.ends[-1], work.read, sum(line["documents"] for line in believed))
        self.journal = Journal(context.folder.run_dir, self._sync, believed)
        self.at = -1  # number of the input whose results are being taken
        self.read_to = 0  # bytes of all inputs in a row up to what was taken last
        self.before = 0  # bytes that were done when the input was begun
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
        self.read_to = self._start
        self.before = self.progress.done
        if line is not None:
            self.position = line["position"]
            self.read_to += read_bytes([line])
            self.before -= read_bytes([line])
            self.share.add(source, line["lines"], Counter(line["bad_lines"]))

    @property
    def _start(self) -> int:
        """Bytes of all inputs before the present one."""
        return self.ends[self.at] - self.sources[self.at].to_read

    def _read(self, place: int) -> int:
        """Count the bytes of all inputs up to `place` as read by this run; returns how many of them are the present input's."""
        self.progress.read += place - self.read_to
        self.read_to = place
        return place - self._start

    def _end(self) -> None:
        if self.at < 0:
            return
        output, source = self.outputs[-1], self.sources[self.at]
        output.current.check_unchanged()
        read = self._read(self.ends[self.at])
        if not (self.line_of.get(self.at) or {}).get("done") and not self._kept(self.at):
            line = output.current.line(output.group.prefix, self.position, read, done=True)
            self.journal.mark([line], output.flush, self.progress.done, written=True)
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
        line = output.current.line(output.group.prefix, task.position, self._read(task.done), done=False)
        self._order(place, [line], pool, worker)
        self.progress.add(result)

    def _take_kept(self, task: Kept, result: Result, pool: Pool, worker: int) -> None:
        """Copied documents of one input or several; what is known of each input is counted where it ends."""
        output = self.outputs[-1]
        place = output.add_tokens(result)
        lines = []
        for number in task.ended:
            self._advance_to(number)
            output.add_kept(self._kept(number))
            self.share.add(self.sources[number], output.current.lines, output.current.bad)
            lines.append(output.current.line(output.group.prefix, 0, self._read(self.ends[number]), done=True))
        self.share.check_hope(task.done)
        self._order(place, lines, pool, worker)
        self.progress.add(result)

    def _order(self, place: Place, lines: list[dict[str, Any]], pool: Pool, worker: int) -> None:
        """Have the worker write its tokens; the journal's lines hold then."""
        output = self.outputs[-1]
        mark = self.journal.mark(lines, output.flush, self.progress.done)
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

    @property
    def kept(self) -> int:
        """Bytes of input that the next run need not do, where this one ends here: 0 unless files are done, or much of one, or it
        went on from an earlier run."""
        kept = self.journal.read
        if self.outputs and self.outputs[-1].inputs and self.outputs[-1].current.changed:
            kept = min(kept, self.before)
        several = self.finished_inputs > 0 and len(self.sources) > 1
        return kept if several or self.progress.earlier or kept > WORTH_KEEPING else 0

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
    """Documents, MB/s, tokens/s and time left; the speeds are of what this run reads, not of what an earlier one did."""

    def __init__(self, meter: console.Meter, total: int, earlier: int = 0, documents: int = 0):
        """Of `total` bytes an earlier run did `earlier`, and so many documents."""
        self.meter, self.total, self.earlier = meter, total, earlier
        self.began = time.monotonic()
        self.documents = documents
        self.read = self.tokens = 0  # by this run

    @property
    def done(self) -> int:
        """Bytes of the inputs, an earlier run's included."""
        return self.earlier + self.read

    def add(self, result: Result) -> None:
        lengths = [np.frombuffer(tokens.lengths, np.int32) for tokens in result.tokens]
        self.documents += len(lengths[0])
        self.tokens += sum(int(of_key.sum(dtype=np.int64)) for of_key in lengths)
        self.show()

    def show(self, last: bool = False) -> None:
        seconds = max(1e-9, time.monotonic() - self.began)
        read, ahead = self.read, self.total - self.done
        left = f"{console.human_time(seconds * ahead / read)} left" if read > 0 else "no block done yet"
        self.meter.show(
            f"{100 * self.done / max(1, self.total):3.0f} %  {console.human_count(self.documents)} document{'' if self.documents == 1 else 's'}  "
            f"{max(0, read) / 1e6 / seconds:.1f} MB/s  {console.human_count(self.tokens / seconds)} tokens/s  "
            f"{left}",
            always=last,
        )
