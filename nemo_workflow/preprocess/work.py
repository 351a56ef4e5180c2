"""What there is to do: the groups whose pairs are not there yet, and what earlier runs have done of them. Imports no numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_workflow.preprocess.asked import Asked
from nemo_workflow.preprocess.earlier import Earlier, KeptInput, Rejected, identity_of, kept_input, same_input
from nemo_workflow.preprocess.groups import Group
from nemo_workflow.preprocess.journal import read_bytes
from nemo_workflow.preprocess.made_otherwise import how
from nemo_workflow.preprocess.sources import Source
from nemo_workflow.utils.errors import Refusal


@dataclass(frozen=True)
class Work:
    """The groups to encode, and what is done of them: `lines` of the journal by prefix, inputs `kept` from pairs by path,
    each in one part or several."""

    groups: list[Group]
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    kept: dict[Path, tuple[KeptInput, ...]] = field(default_factory=dict)

    @property
    def sources(self) -> list[Source]:
        return [source for group in self.groups for source in group.sources]

    @property
    def read(self) -> int:
        """Bytes of the inputs that the lines speak of."""
        return sum(map(read_bytes, self.lines.values()))

    def believed(self, skip: bool, run_dir: Path, keys: Sequence[str]) -> Work:
        """With only those lines that hold for the inputs as they are now; with bad lines in them only where these are skipped."""
        lines = {}
        for group in self.groups:
            good: list[dict[str, Any]] = []
            for source, line in zip(group.sources, self.lines.get(group.prefix, ()), strict=False):
                same = line["input"]["path"] == str(source.full) and same_input(line["input"], identity_of(source))
                if not same or (line["bad_lines"] and not skip):
                    break
                good.append(line)
                if not line["done"]:
                    break
            lines[group.prefix] = good if _in_files(good, group, run_dir, keys) else []
        return Work(self.groups, lines, self.kept)


def _in_files(lines: list[dict[str, Any]], group: Group, run_dir: Path, keys: Sequence[str]) -> bool:
    """Whether the files hold what the lines speak of."""
    documents = sum(line["documents"] for line in lines)
    for number, stem in enumerate(group.stems(keys) if lines else ()):
        tokens = sum(line["keys"][number][0] for line in lines)
        for path, size in ((run_dir / f"{stem}.bin", tokens), (run_dir / f"{stem}.lengths", 4 * documents)):
            if not path.is_file() or path.stat().st_size < size:
                return False
    return True


def still_to_do(asked: Asked) -> Work:
    """The groups without their pairs, or with pairs of inputs that have changed; raises Refusal for pairs of another make."""
    args, folder, names = asked.args, asked.folder, asked.names
    todo: list[Group] = []
    kept: dict[Path, tuple[KeptInput, ...]] = {}
    foreign: list[tuple[Path, Group]] = []
    for group in asked.groups:
        there = [
            path
            for stem in group.stems(names)
            for end in (".bin", ".idx")
            if (path := folder / f"{stem}{end}").exists()
        ]
        if args.overwrite or not there:
            todo.append(group)
            continue
        found = _kept(group, folder, names, asked.recipe, args.on_error == "skip")
        if found is None:
            foreign += [(path, group) for path in there]
        elif not found.whole:
            todo.append(group)
            kept.update({path: (part,) for path, part in found.inputs.items()})
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        first, of_group = foreign[0]
        paths = [str(source.full) for source in of_group.sources]
        raise Refusal(
            f"{first}{more}: already exists, {how(first.with_suffix(''), paths, asked)}; --overwrite replaces it"
        )
    return Work(todo, {}, kept)


@dataclass(frozen=True)
class _Kept:
    """What the pairs of a group hold of its inputs; `whole`: all of it and nothing else."""

    inputs: dict[Path, KeptInput]
    whole: bool


def _kept(group: Group, folder: Path, names: Sequence[str], recipe: str, skip: bool) -> _Kept | None:
    """None where the pairs are none of this recipe and these inputs."""
    pairs = [Earlier.read(folder / stem, recipe) for stem in group.stems(names)]
    sound = [pair for pair in pairs if pair is not None]
    paths = [str(source.full) for source in group.sources]
    if len(sound) < len(pairs) or not set(paths) & set(sound[0].order):
        return None
    inputs, rejected = {}, Rejected(folder / group.rejects_name)
    for source in group.sources:
        found = kept_input(sound, source, rejected, skip)
        if found is not None:
            inputs[source.path] = found
    whole = len(inputs) == len(paths) and all(list(pair.order) == paths for pair in sound)
    return _Kept(inputs, whole)
