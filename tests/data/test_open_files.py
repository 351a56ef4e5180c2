"""How many files a rank may have open, and the refusal where a machine doesn't allow so many."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from nemo_workflow import REPOSITORY
from nemo_workflow.data import open_files
from nemo_workflow.data.splits import Part
from nemo_workflow.utils.errors import Refusal
from tests.places import Place, write_pair
from tests.waiting import LIMIT

RAISES = """
import resource
from nemo_workflow.data import open_files
open_files.allow(700)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
open_files.allow(100)
open_files.allow(9999)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_large_part_has_three_arrays_more_for_each_epoch_in_use() -> None:
    small, large, long = Part(0.5, 100, 5_000), Part(0.5, 100, 500_000), Part(0.5, 5_000, 5_000)
    for of_pair, files in (
        ((small, small, small), 3),
        ((large, small, small), 9),
        ((small, large, small), 6),
        ((small, small, long), 6),  # its documents
        ((large, large, large), 15),
    ):
        assert open_files.needed([of_pair] * 2, 128) == 2 * files + open_files.OTHERS
    assert open_files.most_of(2) == 30 + open_files.SPARE


def test_a_rank_raises_its_own_limit_as_far_as_it_may() -> None:
    """Never above the machine's, nor lower than it was."""
    done = subprocess.run(
        ["bash", "-c", f'ulimit -Sn 256 && ulimit -Hn 1500 && exec "{sys.executable}" -c "$0"', RAISES],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.stdout == "700 1500\n1500 1500\n", done


def test_more_pairs_than_the_machine_opens_files_are_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        write_pair(place.root / "many" / f"s{number}", [300] * 100)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, open_files.OTHERS + 26))
    with pytest.raises(Refusal) as caught:
        place.plan(dataset_dir=str(place.root / "many"))
    assert caught.value.problems == [
        "--dataset-dir: training on 9 pairs takes up to 539 open files, and this machine allows a process 538 (ulimit -Hn): raise that,"
        " or make fewer pairs of them: python -m nemo_workflow.dataset join OUT FOLDER"
    ]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, open_files.OTHERS + 27))
    assert place.plan(dataset_dir=str(place.root / "many")).pairs == 9


def test_one_pair_needs_no_more_than_the_usual_limit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ulimit -n 1024` sets what the machine allows, too; a rank has some 120 files open beside its data."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    assert place.plan().pairs == 1
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    with pytest.raises(Refusal) as caught:
        place.plan()
    assert caught.value.problems == [
        "--dataset-dir: training on 1 pair takes up to 515 open files, and this machine allows a process 64 (ulimit -Hn): raise that,"
        " or make fewer pairs of them: python -m nemo_workflow.dataset join OUT FOLDER"
    ]
