"""What the inputs of one group become: a pair a key, its figures, and the list of its bad lines."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any

from nemo_workflow.preprocess.documents import Reject
from nemo_workflow.preprocess.earlier import KeptInput, identity_of
from nemo_workflow.preprocess.groups import Group
from nemo_workflow.preprocess.messages import Place, Result
from nemo_workflow.preprocess.output_dir import OutputFolder
from nemo_workflow.preprocess.pair_writer import PairWriter
from nemo_workflow.preprocess.sources import Source
from nemo_workflow.preprocess.stats import Tally, lines_for_people, unknown_said
from nemo_workflow.preprocess.tokenizer import TokenizerSpec
from nemo_workflow.utils.errors import Failure


class Input:
    """Counts of one input; `sums` has for each key the bytes of tokens, bytes of text and end-of-document ids inside."""

    def __init__(
        self,
        source: Source,
        keys: Sequence[str],
        line: dict[str, Any] | None = None,
        identity: dict[str, Any] | None = None,
    ):
        """`line`: of the journal, for an input that was begun; `identity`, where it is known."""
        self.source = source
        self.identity = line["input"] if line else identity or identity_of(source)
        self.lines: int = line["lines"] if line else 0
        self.documents: int = line["documents"] if line else 0
        self.sums: list[list[int]] = [list(sums) for sums in line["keys"]] if line else [[0, 0, 0] for _ in keys]
        self.bad: Counter[str] = Counter(line["bad_lines"] if line else {})

    def add(self, result: Result) -> None:
        self.lines += result.lines
        self.documents += len(result.tokens[0].lengths) // 4
        for sums, tokens in zip(self.sums, result.tokens, strict=True):
            for place, more in enumerate((tokens.size, tokens.utf8_bytes, tokens.eod_inside)):
                sums[place] += more

    def add_kept(self, kept: KeptInput) -> None:
        """What an earlier run counted, but for its bad lines."""
        for number, (sums, (_, entry)) in enumerate(zip(self.sums, kept.pairs, strict=True)):
            if not number:
                self.lines += entry.said["lines"]
                self.documents += entry.said["documents"]
            for place, name in enumerate(("bin_bytes", "bytes", "eod_ids_inside_texts")):
                sums[place] += entry.said[name]

    def line(self, group: str, position: int, read: int, done: bool) -> dict[str, Any]:
        """What the journal says of it; `read`: bytes of the file up to `position`."""
        return {
            "group": group,
            "input": self.identity,
            "position": position,
            "read": read,
            "done": done,
            "lines": self.lines,
            "documents": self.documents,
            "keys": [list(sums) for sums in self.sums],
            "bad_lines": dict(self.bad),
        }

    def figures(self, key: int) -> dict[str, Any]:
        """What the pair's .json says of it."""
        tokens, text, inside = self.sums[key]
        return {
            **self.identity,
            "lines": self.lines,
            "documents": self.documents,
            "bin_bytes": tokens,
            "bytes": text,
            "eod_ids_inside_texts": inside,
            "bad_lines": dict(self.bad),
        }

    @property
    def changed(self) -> bool:
        """Whether the file is no longer the one that was found."""
        try:
            now = self.source.path.stat()
        except OSError:
            return True
        return (now.st_size, now.st_mtime_ns) != (self.source.size, self.source.stat.st_mtime_ns)

    def check_unchanged(self) -> None:
        if self.changed:
            raise Failure(f"{self.source.path}: changed while it was read")


@dataclass(frozen=True)
class Context:
    """What all outputs of a run share. `common` are figures that each pair's .json begins with."""

    keys: tuple[str, ...]
    spec: TokenizerSpec
    folder: OutputFolder
    common: Callable[[], dict[str, Any]]
    alone: bool  # there is one group only
    nothing_made: Callable[[list[str]], Exception]  # what is raised where no pair would hold a token


class Output:
    """The pairs of a group. Inputs come one after another: begin, results, end."""

    def __init__(self, group: Group, context: Context, lines: Sequence[dict[str, Any]] = ()):
        self.group, self.context = group, context
        self.stems = group.stems(context.keys)
        run_dir = context.folder.run_dir
        (run_dir / group.prefix).parent.mkdir(parents=True, exist_ok=True)
        kept = [sum(line["keys"][key][0] for line in lines) for key in range(len(context.keys))]
        documents = sum(line["documents"] for line in lines)
        self.writers = [
            PairWriter(run_dir, stem, context.spec.dtype, size, documents)
            for stem, size in zip(self.stems, kept, strict=True)
        ]
        self.tallies = [Tally(context.spec) for _ in context.keys]
        for key, (tally, writer) in enumerate(zip(self.tallies, self.writers, strict=True)):
            tally.add_sums(*(sum(line["keys"][key][place] for line in lines) for place in (1, 2)))
            for tokens in writer.kept():
                tally.add(tokens)
        self.inputs: list[Input] = []
        self.unwritten = 0  # orders to workers that are not done yet
        self.closed = self.empty = False
        self.printed: list[str] = []
        self.warnings: list[str] = []
        self._rejects: IO[str] | None = None
        self.example = ""  # the first bad line
        self._keep_rejects(sum(sum(line["bad_lines"].values()) for line in lines))

    @property
    def current(self) -> Input:
        return self.inputs[-1]

    @property
    def rejected(self) -> Counter[str]:
        return sum((each.bad for each in self.inputs), Counter())

    def begin(self, source: Source, line: dict[str, Any] | None, kept: Sequence[KeptInput] = ()) -> None:
        """The next results are of this input, of which the journal's `line` tells what is done, or whose parts are `kept`."""
        self.inputs.append(Input(source, self.context.keys, line, kept[0].identity if kept else None))

    def add(self, result: Result) -> Place:
        """Take a result's figures; returns where its tokens belong."""
        for reject in result.rejects:
            self._note(reject)
        self.current.add(result)
        return self.add_tokens(result)

    def add_kept(self, parts: Sequence[KeptInput]) -> None:
        """Take the figures of an input that is kept; its tokens come with those of others."""
        for part in parts:
            for reject in part.rejects:
                self._note(reject)
            self.current.add_kept(part)
        for tally, sums in zip(self.tallies, self.current.sums, strict=True):
            tally.add_sums(*sums[1:])

    def add_tokens(self, result: Result) -> Place:
        """Take its tokens alone."""
        for tally, tokens in zip(self.tallies, result.tokens, strict=True):
            tally.add(tokens)
        return Place([writer.add(tokens) for writer, tokens in zip(self.writers, result.tokens, strict=True)])

    def _keep_rejects(self, count: int) -> None:
        path = self.context.folder.run_dir / self.group.rejects_name
        if count:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:count]
            self._rejects = path.open("w", encoding="utf-8")
            self._rejects.writelines(lines)
        else:
            path.unlink(missing_ok=True)

    def _note(self, reject: Reject) -> None:
        if self._rejects is None:
            self._rejects = (self.context.folder.run_dir / self.group.rejects_name).open("w", encoding="utf-8")
        current = self.current
        current.bad[reject.reason] += 1
        self.example = self.example or f"{current.source.path}:{current.lines + reject.line}: {reject.detail}"
        entry = {
            "file": str(current.source.path),
            "line": current.lines + reject.line,
            "reason": reject.reason,
            "detail": reject.detail,
        }
        self._rejects.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Everything that was added is in files."""
        for writer in self.writers:
            writer.flush()
        if self._rejects is not None and not self._rejects.closed:
            self._rejects.flush()

    def sync(self) -> None:
        """And on disk."""
        for writer in self.writers:
            writer.sync()
        if self._rejects is not None and not self._rejects.closed:
            os.fsync(self._rejects.fileno())

    def close(self) -> None:
        """No more results come."""
        why = ""
        names = self.group.sources[0].path if len(self.group.sources) == 1 else f"{self.group.prefix} (joined)"
        if self.tallies[0].documents == 0:
            why = "no documents in it"
            if self.rejected:
                reasons = ", ".join(f"{reason} {number}" for reason, number in self.rejected.most_common())
                why += f", bad lines only ({reasons}; for example {self.example})"
        for tally, key in zip(self.tallies, self.context.keys, strict=True):
            if not why and tally.tokens == 0:
                why = f"every {key!r} is empty"
        if why and self.context.alone:
            raise self.context.nothing_made([f"{names}: {why}"])
        self.empty = bool(why)
        self.why = f"{names}: {why}"
        self.closed = True
        self._finish_if_written()

    def written(self) -> None:
        """A worker has done one of its orders."""
        self.unwritten -= 1
        self._finish_if_written()

    def _finish_if_written(self) -> None:
        """Make the pair whole, still under the run's folder."""
        if not self.closed or self.unwritten:
            return
        if self._rejects is not None:
            self._rejects.close()
            self.context.folder.move(self.group.rejects_name)
        for writer in self.writers:
            writer.finish()
        if not self.empty:
            self._write_figures()
        self.tokens = sum(tally.tokens for tally in self.tallies)
        self.documents = self.tallies[0].documents
        self.eod_inside = sum(tally.eod_inside for tally in self.tallies)
        self.tallies = []  # 16 kB a pair

    def _write_figures(self) -> None:
        """Write each pair's JSON."""
        for number, (writer, tally, stem, key) in enumerate(
            zip(self.writers, self.tallies, self.stems, self.context.keys, strict=True)
        ):
            figures = {
                "input": str(self.inputs[0].source.full) if len(self.inputs) == 1 else len(self.inputs),
                "input_bytes": self.group.size,
                "json_key": key,
                **self.context.common(),
                **tally.as_json(),
                "unknown_share": round(tally.share_unknown(writer.bin_path), 6),
                "bin_bytes": writer.bin_path.stat().st_size,
                "bad_lines": dict(self.rejected),
                "inputs": [each.figures(number) for each in self.inputs],
            }
            text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
            (self.context.folder.run_dir / f"{stem}.json").write_text(text, encoding="utf-8")
            # the .idx last: without it no reader takes the pair
            for ending in ("json", "bin", "idx"):
                self.context.folder.move(f"{stem}.{ending}")
            listed = self.context.folder.folder / self.group.rejects_name
            self.printed += lines_for_people(stem, figures, self.rejected, str(listed))
            if figures["unknown_share"]:
                self.warnings.append(unknown_said(stem, figures["unknown_share"]))
