"""The order of the samples: the same for every number of steps and batch, every sample once an epoch; and its cache."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import xxhash

from nemo_workflow.data.indexed_dataset import read_pair
from nemo_workflow.data.open_files import OTHERS, needed
from nemo_workflow.data.splits import parts_of
from tests.e2e.run.harness import flip_a_byte, samples
from tests.waiting import LIMIT, until

pytestmark = pytest.mark.e2e  # importing Megatron takes 7 s


def write_pair(prefix: Path, lengths: list[int], first: int = 0) -> Path:
    """A .bin/.idx pair whose tokens count up from `first`, so that a token tells its place."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=numpy.int32)
    for length in lengths:
        builder.add_document(numpy.arange(first, first + length), [length])
        first += length
    builder.finalize(f"{prefix}.idx")
    return prefix


LENGTHS = [int(n) for n in numpy.random.RandomState(3).randint(1, 120, 400)]


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    return write_pair(tmp_path / "a.b", LENGTHS)


def parts(
    prefixes: list[Path], sizes: tuple[int, int] = (10, 5), weights: list[float] | None = None,
    cache: Path | None = None, seed: int = 1, length: int = 32,
) -> Any:  # fmt: skip
    """Training and validation part as a run builds them."""
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDatasetConfig

    from nemo_workflow.training import sample_order

    sample_order.install()
    tokenizer = SimpleNamespace(eod=0, unique_identifiers={"name": "none"})
    config = GPTDatasetConfig(
        random_seed=seed, sequence_length=length, tokenizer=tokenizer, blend=[list(map(str, prefixes)), weights],
        split="800,200,0", reset_position_ids=False, reset_attention_mask=False, eod_mask_loss=False,
        create_attention_mask=False, path_to_cache=str(cache) if cache else None,
    )  # fmt: skip
    built = BlendedMegatronDatasetBuilder(sample_order.OrderedDataset, [*sizes, 0], lambda: True, config).build()
    return built[0], built[1]


def tokens(dataset: Any, index: int) -> list[int]:
    item = dataset[index]
    return [*item["tokens"].tolist(), int(item["labels"][-1])]


def test_the_order_does_not_depend_on_the_number_of_samples(pair: Path) -> None:
    train, _ = parts([pair])
    each = train.epoch_samples
    long, _ = parts([pair], sizes=(3 * each + 7, 5))
    assert len(long) == 3 * each + 7
    for size in (1, each - 1, each, each + 1, 2 * each):
        short, _ = parts([pair], sizes=(size, 5))
        assert len(short) >= size
        for index in {0, 1, size // 2, size - 1}:
            assert tokens(short, index) == tokens(long, index)


def test_an_epoch_holds_every_sample_once_and_each_epoch_has_its_order(pair: Path) -> None:
    train, _ = parts([pair], sizes=(2000, 5))
    each = train.epoch_samples
    orders = []
    for epoch in range(3):
        places = [train.place_of(index) for index in range(epoch * each, (epoch + 1) * each)]
        assert {place[0] for place in places} == {epoch}
        assert sorted(place[1] for place in places) == list(range(each))
        seen = sorted(token for index in range(epoch * each, (epoch + 1) * each) for token in tokens(train, index)[:-1])
        assert len(seen) == len(set(seen)) == each * 32  # no token twice, and all but the end that fills no sample
        orders.append([place[1] for place in places])
    assert orders[0] != orders[1] != orders[2]


def test_samples_are_cut_as_megatron_cuts_them(pair: Path) -> None:
    from megatron.core.datasets import helpers

    train, _ = parts([pair])
    arrays = train._epoch(0)
    theirs = helpers.build_sample_idx(
        train.dataset.sequence_lengths.copy(), numpy.array(arrays["documents"]), 32, 1, train.epoch_tokens, True, 1
    )
    assert numpy.array_equal(theirs, arrays["samples"])


def test_the_seed_decides(pair: Path) -> None:
    same = [parts([pair], seed=1)[0].place_of(i) for i in range(20)]
    assert same == [parts([pair], seed=1)[0].place_of(i) for i in range(20)]
    assert same != [parts([pair], seed=2)[0].place_of(i) for i in range(20)]


def test_validation_goes_round_one_fixed_set(pair: Path) -> None:
    _, few = parts([pair], sizes=(10, 5))
    _, many = parts([pair], sizes=(9999, 500))
    each = few.epoch_samples
    assert each < 500
    assert [tokens(few, i) for i in range(5)] == [tokens(many, i) for i in range(5)]
    assert tokens(many, 0) == tokens(many, each) and tokens(many, 3) == tokens(many, 2 * each + 3)


def test_training_and_validation_share_no_token(pair: Path) -> None:
    train, valid = parts([pair])
    ours = {token for i in range(train.epoch_samples) for token in tokens(train, i)}
    assert not ours & {token for i in range(valid.epoch_samples) for token in tokens(valid, i)}


def test_a_blend_is_the_same_for_every_size_and_keeps_its_weights(tmp_path: Path) -> None:
    from nemo_workflow.training import sample_order

    pairs = [write_pair(tmp_path / "a", LENGTHS), write_pair(tmp_path / "b", LENGTHS[:60], first=1_000_000)]
    weights = [0.7, 0.3]
    long, _ = parts(pairs, sizes=(3000, 5), weights=weights, cache=tmp_path / "cache")
    for size in (1, 7, 100, 1501):
        short, _ = parts(pairs, sizes=(size, 5), weights=weights, cache=tmp_path / "cache")
        for index in range(0, size, max(1, size // 20)):
            assert tokens(short, index) == tokens(long, index)
    sources = [sample_order.describe(long, index)["source"] for index in range(1000)]
    assert abs(sources.count(str(pairs[0])) - 700) <= 1
    for number in range(2):  # each source in its own order, none left out: epochs of the small one included
        taken = [int(long.dataset_sample_index[i]) for i in range(3000) if long.dataset_index[i] == number]
        assert taken == list(range(len(taken)))
    assert sample_order.describe(long, 2999)["epoch"] > 0


# -- cache --------------------------------------------------------------------------------------------------------


def entries(cache: Path) -> dict[str, int]:
    """Every array in the cache and when it was written."""
    return {str(file.relative_to(cache)): file.stat().st_mtime_ns for file in cache.rglob("*.npy")}


def test_as_many_files_are_kept_open_as_was_planned(tmp_path: Path) -> None:
    """A large pair's index arrays are mapped, a small one's read: a folder of a thousand small texts has a pair for each."""
    small = [write_pair(tmp_path / f"s{number}", LENGTHS[:40]) for number in range(30)]
    pairs = [*small, write_pair(tmp_path / "large", [10] * 20_000)]
    before = len([*Path("/proc/self/fd").iterdir()])
    train, valid = parts(pairs, sizes=(4000, 50), weights=[1 / 31] * 31, cache=tmp_path / "cache")
    for index in range(400):  # of every source, whose epoch is built with its first sample
        train[index]
    opened = len([*Path("/proc/self/fd").iterdir()]) - before
    wanted = needed([parts_of(read_pair(pair), (0.8, 0.2, 0.0)) for pair in pairs], 32) - OTHERS
    assert 3 * 31 + 2 <= opened <= wanted, (opened, wanted)
    assert len(valid) >= 50


def test_the_cache_is_used_again_for_more_samples(pair: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = [tokens(parts([pair], cache=cache)[0], i) for i in range(10)]
    before = entries(cache)
    assert len(before) == 6  # three arrays of training, three of validation
    assert first == [tokens(parts([pair], sizes=(50, 9), cache=cache)[0], i) for i in range(10)]
    assert entries(cache) == before


def test_data_of_equal_size_with_other_lengths_gets_its_own_index(pair: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    parts([pair], cache=cache)
    index = Path(f"{pair}.idx")
    stamp = index.stat()
    size = Path(f"{pair}.bin").stat().st_size
    write_pair(pair, LENGTHS[::-1])
    os.utime(index, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert (Path(f"{pair}.bin").stat().st_size, index.stat().st_size) == (size, stamp.st_size)
    fresh = parts([pair], cache=tmp_path / "fresh")[0]
    again = parts([pair], cache=cache)[0]
    assert [tokens(again, i) for i in range(again.epoch_samples)] == [
        tokens(fresh, i) for i in range(fresh.epoch_samples)
    ]


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "no hashes"])
def test_a_damaged_index_is_built_again(pair: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    right = [tokens(parts([pair], cache=cache)[0], i) for i in range(10)]
    for file in list(cache.rglob("shuffle.npy")):
        if damage == "flip":
            flip_a_byte(file, 0.9)
        elif damage == "truncate":
            file.write_bytes(file.read_bytes()[:-5])
        elif damage == "missing":
            file.unlink()
        else:
            (file.parent / "hashes.json").write_text("")
    assert right == [tokens(parts([pair], cache=cache)[0], i) for i in range(10)]
    assert {path.name[0] for path in cache.iterdir()} <= set("0123456789abcdef.")
    assert not [path for path in cache.iterdir() if path.name.startswith(".") and path.is_dir()]


# jobs that have imported Megatron, which takes 7 s: forks of this process, each with its own locks
FORK = multiprocessing.get_context("fork")


def build_in_cache(cache: Path, log: Path, seconds: float) -> None:
    """One job's share: the arrays from the cache, or built in `seconds`."""
    from nemo_workflow.training import sample_order

    def build() -> dict[str, Any]:
        with log.open("a") as stream:
            stream.write("built\n")
        time.sleep(seconds)
        return {"a": numpy.arange(100_000), "b": numpy.arange(7)}

    arrays = sample_order.cached(cache / "0123", build)
    assert arrays["a"][-1] == 99_999 and arrays["b"].tolist() == list(range(7))


def job(cache: Path, log: Path, seconds: float) -> Any:
    process = FORK.Process(target=build_in_cache, args=(cache, log, seconds))
    process.start()
    return process


def test_two_jobs_build_once_and_a_kill_half_way_harms_nothing(tmp_path: Path) -> None:
    cache, log = tmp_path / "cache", tmp_path / "log"
    from nemo_workflow.training import sample_order  # noqa: F401 - before the forks

    killed = job(cache, log, 60)
    until(lambda: log.exists() and log.stat().st_size)  # it is there before the line is
    (cache / ".0123.half").mkdir()  # what a builder killed while it wrote leaves
    os.utime(cache / ".0123.half", (time.time() - 86400,) * 2)
    killed.kill()
    killed.join()
    both = [job(cache, log, 0.5) for _ in range(2)]
    for process in both:
        process.join(LIMIT)
    assert [process.exitcode for process in both] == [0, 0]
    assert log.read_text() == "built\nbuilt\n"  # by the one that was killed, and by one of the two
    assert sorted(path.name for path in cache.iterdir()) == [".lock", "0123"]


SECOND_USER = 2_000_000_017


def as_second_user(cache: Path, answer: Any) -> None:
    """Send how many arrays were built of four, the first numbers of each, and the cache that is this user's."""
    from nemo_workflow.training import sample_order

    os.environ["HOME"] = str(cache.parent)
    os.setgid(SECOND_USER)
    os.setuid(SECOND_USER)
    built = []

    def build() -> dict[str, Any]:
        built.append(1)
        return {"a": numpy.arange(3)}

    arrays = [sample_order.cached(cache / name, build) for name in ("theirs", "hidden", "new", "new")]
    answer.send([len(built), *(array["a"].tolist() for array in arrays), str(sample_order.writable_cache(cache))])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for another uid")
@pytest.mark.parametrize("mode", [0o1777, 0o755])
def test_the_cache_of_another_user_is_read_and_added_to_elsewhere(mode: int) -> None:
    """A shared --output-dir: what can be read is, the rest is built in a cache of one's own, or in memory."""
    from nemo_workflow.training import sample_order

    root = Path(tempfile.mkdtemp(dir="/tmp"))  # which every user may reach
    try:
        cache = root / ".index_cache"
        for name in ("theirs", "hidden"):
            sample_order.cached(cache / name, lambda: {"a": numpy.arange(5)})
        (cache / "hidden").chmod(0o700)
        root.chmod(mode)
        answer, theirs = FORK.Pipe(duplex=False)
        process = FORK.Process(target=as_second_user, args=(cache, theirs))
        process.start()
        theirs.close()
        said = answer.recv()
        process.join(LIMIT)
        own = root / f".index_cache-{SECOND_USER}"
        built = 2 if mode == 0o1777 else 3
        assert said == [built, [*range(5)], *[[0, 1, 2]] * 3, str(own)]
        left = sorted(path.name for path in own.iterdir()) if own.exists() else []
        assert left == ([".lock", "hidden", "new"] if mode == 0o1777 else [])
    finally:
        shutil.rmtree(root)


@pytest.mark.parametrize("moment", ["write_json", "_into_place"])
@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("lock", [None, errno.ENOSYS], ids=["of this node only", "none"])
def test_two_nodes_without_a_common_lock_may_build_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, damaged: bool, lock: int | None
) -> None:
    """The other node builds all of it at a moment of our build. A mock for the disk: here every disk has locks."""
    from nemo_workflow.training import sample_order

    place, arrays = tmp_path / "0123", {"a": numpy.arange(1000)}

    def other_node(*arguments: Any) -> Any:
        monkeypatch.setattr(sample_order, moment, ours)
        assert sample_order.cached(place, lambda: arrays)["a"][-1] == 999
        return ours(*arguments)

    def no_lock(*_: Any) -> None:
        if lock:
            raise OSError(lock, os.strerror(lock))

    if damaged:
        sample_order.cached(place, lambda: arrays)
        flip_a_byte(place / "a.npy")
    ours = getattr(sample_order, moment)
    monkeypatch.setattr(sample_order, moment, other_node)
    monkeypatch.setattr("fcntl.flock", no_lock)
    assert sample_order.cached(place, lambda: arrays)["a"][-1] == 999
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "0123"]


def test_evaluation_reads_the_samples_that_validation_read(one_rank: Any) -> None:
    from nemo_workflow.config.plan import Plan
    from nemo_workflow.runs.evaluate import validation_samples
    from nemo_workflow.training.sample_order import describe, validation_set

    plan = Plan.from_json((one_rank.run.folder / "plan.json").read_text(encoding="utf-8"))
    seen = samples(one_rank.record)["valid"]
    tokenizer = SimpleNamespace(eod=0, unique_identifiers={"name": "none"})
    dataset = validation_set(plan, tokenizer)
    told = [describe(dataset, index) for index, *_ in seen]
    assert [(t["sample"], t["epoch"], t["number_in_epoch"], Path(t["source"]).name) for t in told] == [
        row[:4] for row in seen
    ]
    read = validation_samples(plan, len(seen))
    assert [xxhash.xxh3_64_hexdigest(row[:-1].numpy().tobytes()) for row in read] == [row[4] for row in seen]
