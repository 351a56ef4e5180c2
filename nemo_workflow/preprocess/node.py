"""One of the machines that make a data set together: take pieces until all are done, then one of them joins them."""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_workflow.preprocess.asked import Asked
from nemo_workflow.preprocess.claims import Claims
from nemo_workflow.preprocess.groups import group
from nemo_workflow.preprocess.output_dir import clean_up_stale
from nemo_workflow.preprocess.pieces import DONE, Finished, Piece, sources_from_json, sources_to_json
from nemo_workflow.preprocess.run import Run
from nemo_workflow.preprocess.startup import Loading
from nemo_workflow.preprocess.work import Work, still_to_do
from nemo_workflow.utils.console import Meter, counted
from nemo_workflow.utils.errors import Refusal

LOOK_SECONDS = 0.5  # between two looks at what the others do
JOIN = "join"
REFUSED = "refused"  # a file with the words of the machine that found what nobody can do


@dataclass(frozen=True)
class Job:
    """What all machines are told, as JSON."""

    asked: Asked
    pieces: list[Piece]
    folder: Path  # of the pieces, for this recipe
    progress: Path  # touched when one is done

    def to_json(self) -> dict[str, Any]:
        return {
            "args": vars(self.asked.args),
            "sources": sources_to_json(self.asked.sources),
            "tokenizer": str(self.asked.tokenizer),
            "recipe": self.asked.recipe,
            "pieces": [piece.to_json() for piece in self.pieces],
            "folder": str(self.folder),
            "progress": str(self.progress),
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> Job:
        args = argparse.Namespace(**values["args"])
        args.workers = args.workers or len(os.sched_getaffinity(0))
        sources = list(sources_from_json(values["sources"]))
        names = ("text",) if args.join_fields else tuple(args.json_keys)
        asked = Asked(
            args, sources, group(sources, args.join, names), Path(values["tokenizer"]), values["recipe"], notes=[]
        )
        pieces = [Piece.from_json(each) for each in values["pieces"]]
        return Job(asked, pieces, Path(values["folder"]), Path(values["progress"]))


class Node:
    """Machine `rank` of `count`."""

    def __init__(self, job: Job, claims: Claims, rank: int, count: int):
        self.job, self.asked, self.claims = job, job.asked, claims
        self.name = f"node {rank + 1} of {count}"
        first = rank * len(job.pieces) // count  # so that they don't all reach for the same one
        self.order = [*job.pieces[first:], *job.pieces[:first]]
        self.meter = Meter()
        self.warnings = _Warnings()
        self._loading: Loading | None = None

    def work(self, finished: Path) -> None:
        """Do what there is until `finished` is there. Raises Refusal and Failure; a Refusal ends the other machines too."""
        try:
            self._until(lambda: finished.exists() or self._all_done(), self.order, self._encode)
            self._until(finished.exists, [JOIN], lambda _: self._join(finished))
        except Refusal as refusal:
            (self.claims.folder / REFUSED).write_text("\n".join(refusal.problems), encoding="utf-8")
            raise
        finally:
            self.claims.close()

    def _until(self, over: Callable[[], bool], what: Sequence[Any], do: Callable[[Any], None]) -> None:
        while not over():
            if (self.claims.folder / REFUSED).exists():
                raise Refusal((self.claims.folder / REFUSED).read_text(encoding="utf-8").splitlines())
            free = next((one for one in what if self._wants(one) and self.claims.take(self._claim(one))), None)
            if free is None:
                time.sleep(LOOK_SECONDS)
                continue
            # another may have ended it just before the claim, or joined all pieces and removed them
            if self._wants(free) and not over():
                do(free)
            self.claims.release(self._claim(free))

    def _wants(self, one: Piece | str) -> bool:
        return isinstance(one, str) or not (self.job.folder / one.name / DONE).exists()

    @staticmethod
    def _claim(one: Piece | str) -> str:
        return one if isinstance(one, str) else one.name

    def _all_done(self) -> bool:
        return not any(map(self._wants, self.order))

    def _encode(self, piece: Piece) -> None:
        args = copy.copy(self.asked.args)
        args.overwrite, args.max_bad = True, 100.0  # the bad lines of all pieces together are judged at the end
        place = self.job.folder / piece.name
        place.mkdir(parents=True, exist_ok=True)
        try:
            run = _PieceRun(
                args, Work([piece.group]), self.asked.recipe, self.asked.keys, place, self._loaded(), self.warnings
            )
            for _ in run.execute(time.monotonic()):
                pass
        except _Empty:
            pass
        (place / DONE).touch()
        self.job.progress.touch()
        done = sum(not self._wants(each) for each in self.order)
        print(f"{self.name}: {done} of {counted(len(self.order), 'piece')} done", flush=True)

    def _loaded(self) -> Loading:
        """The tokenizer, read once."""
        if self._loading is None:
            asked = self.asked
            self._loading = Loading(asked.args, asked.tokenizer, asked.sources, asked.keys)
            self._loading.load(beside="nemo_workflow.preprocess.run")
        return self._loading

    def _join(self, finished: Path) -> None:
        """Copy the pieces into the pairs that were asked for."""
        asked, began = self.asked, time.monotonic()
        for line in clean_up_stale(asked.folder, asked.recipe):
            self.meter.note(line)
        todo = still_to_do(asked)
        if todo.groups:
            pieces = Finished(self.job.folder, asked.names, asked.recipe, asked.args.on_error == "skip")
            made = {each.path: pieces.of(each) for each in todo.sources if each.path not in todo.kept}
            kept = todo.kept | {path: parts for path, parts in made.items() if parts}
            work = Work(todo.groups, {}, kept)
            run = Run(asked.args, work, asked.recipe, asked.keys, asked.folder, self._loaded(), self.meter)
            for line in run.execute(began):
                print(line)
        else:
            print(asked.nothing_to_do())
        sys.stdout.flush()
        finished.touch()
        shutil.rmtree(self.job.folder.parent, ignore_errors=True)


class _Warnings(Meter):
    """Of the run of a piece only what is wrong with its inputs is said."""

    def note(self, text: str) -> None:
        if text.startswith("WARNING"):
            super().note(text)

    def show(self, text: str, always: bool = False) -> None:
        """Progress is told by piece."""


class _Empty(Exception):
    """A piece without a token: the join reads its inputs again, which costs little."""


class _PieceRun(Run):
    """The run that makes the pair of a piece."""

    def nothing_made(self, why: list[str]) -> Exception:
        return _Empty()
