"""Which inputs become one pair: each its own, all of them, or those of a top folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nemo_workflow.preprocess.sources import Source
from nemo_workflow.utils.errors import Refusal


@dataclass(frozen=True)
class Group:
    """The inputs of one pair (one a key), in the order of its documents; `prefix` names it."""

    prefix: str
    sources: tuple[Source, ...]

    def stems(self, keys: Sequence[str]) -> list[str]:
        """The names of its pairs, without ending."""
        return [f"{self.prefix}_{key}_document" for key in keys]

    @property
    def rejects_name(self) -> str:
        return f"{self.prefix}.rejects.jsonl"

    @property
    def size(self) -> int:
        return sum(source.size for source in self.sources)


def group(sources: list[Source], join: str | None, keys: Sequence[str]) -> list[Group]:
    """`join` is None, "all" or "folder"; raises Refusal where two pairs would have one name."""
    if join is None:
        groups = [Group(source.prefix, (source,)) for source in sources]
    else:
        chosen: dict[str, list[Source]] = {}
        for source in sorted(sources, key=lambda source: source.full):
            chosen.setdefault(source.top if join == "folder" else "", []).append(source)
        whole = {source.full.parents[source.prefix.count("/")].name for source in sources}
        name = (whole.pop() if len(whole) == 1 else "") or "joined"
        groups = [Group(top or name, tuple(members)) for top, members in chosen.items()]
    problems = [*_same_names(groups, keys)]
    if problems:
        raise Refusal(problems)
    return groups


def _same_names(groups: list[Group], keys: Sequence[str]) -> Iterator[str]:
    """Be it that a prefix goes on as a key begins: a_b and key c, a and b_c."""
    by_stem: dict[str, Group] = {}
    for each in groups:
        others = [(by_stem[stem], stem) for stem in each.stems(keys) if stem in by_stem]
        by_stem.update((stem, each) for stem in each.stems(keys))
        if others:
            other, stem = others[0]
            yield (
                f"{each.sources[0].path}: its output would have the same name as that of {other.sources[0].path} ({stem}); "
                "rename one of them, give each an --output-dir of its own, or make one pair of all with --join"
            )
