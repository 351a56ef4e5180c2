"""Which sample comes when: the same for every --max-steps and --global-batch-size. Imported in the workers only.

Megatron shuffles all the epochs that a run asks for together, so a longer run has another order from its first sample
on. Here every epoch is shuffled on its own, from the seed and its number. The n-th sample of a part therefore depends
on the data, the split, the seed and the sequence length only, and a run may be continued with more steps or another
batch without seeing a sample twice. Validation goes round one epoch in one order: a fixed set.

The index of an epoch is three arrays, cached in a folder named after a hash of all that they depend on (the lengths
of the sequences included). A folder appears whole by a rename, so a kill leaves none half made, and a lock lets one
of several processes, ranks or jobs, build it; where locks don't reach other nodes, several may, and the first counts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import xxhash
from megatron.core.datasets import blended_megatron_dataset_builder as builder_module
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.utils import Split

from nemo_workflow.backends.patching import replace
from nemo_workflow.backends.registry import find
from nemo_workflow.config.plan import Plan
from nemo_workflow.data.blend import ValidationSet
from nemo_workflow.data.open_files import SMALL
from nemo_workflow.run_dir.checkpoints import Checkpoint
from nemo_workflow.utils.console import counted
from nemo_workflow.utils.files import flock, fsync_dir, write_json

LOG = logging.getLogger(__name__)
HASHES = "hashes.json"
NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
NOT_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE)  # another user's; too many files are open
LEFTOVER_SECONDS = 6 * 3600.0  # a younger one may be another node's, at work where locks don't reach
VERSION = "1"  # of the order: a change of it makes other indices, never wrong ones
ALL_FOR_VALIDATION = "0,1,0"  # a --split
Arrays = dict[str, numpy.ndarray]


class OrderedDataset(GPTDataset):
    """Samples of `sequence_length` + 1 tokens out of one part of one .bin/.idx pair, epoch after epoch.

    `first_sample` is the sample that training begins with, so that the epoch needed first is built at once.
    """

    first_sample = 0

    def _build_document_sample_shuffle_indices(self) -> tuple[None, None, None]:
        # Megatron's constructor asks for the arrays of all epochs here; ours come an epoch at a time
        lengths = numpy.ascontiguousarray(self.dataset.sequence_lengths[self.indices])
        self.epoch_tokens = int(lengths.sum(dtype=numpy.int64))
        self.epoch_samples = max(0, (self.epoch_tokens - 1) // self.config.sequence_length)
        if self.epoch_samples < 1:
            if self.num_samples:
                raise ValueError(
                    f"{self.dataset_path}: the {self.index_split.name} part holds {counted(self.epoch_tokens, 'token')}, fewer"
                    f" than one sample of {self.config.sequence_length} + 1"
                )
            return None, None, None
        self.key = _key(
            "samples", self.config.random_seed, self.index_split.name, self.config.sequence_length,
            int(self.indices[0]), _digest(lengths),
        )  # fmt: skip
        self._in_use: dict[int, Arrays] = {}
        if self.index_split != Split.train or not self.first_sample:
            self._epoch(0)
        elif len(self.config.blend[0]) == 1:  # a source of a blend builds its epoch when the first sample is drawn
            self._epoch(self.first_sample // self.epoch_samples)
        return None, None, None

    def __len__(self) -> int:
        return max(self.num_samples or 0, self.epoch_samples)

    def place_of(self, index: int) -> tuple[int, int]:
        """Epoch of the n-th sample, and its number before shuffling."""
        epoch, at = self._epoch_and_position(index)
        return epoch, int(self._epoch(epoch)["shuffle"][at])

    def _epoch_and_position(self, index: int) -> tuple[int, int]:
        epoch, at = divmod(int(index), self.epoch_samples)
        return (epoch if self.index_split == Split.train else 0), at

    def _query_document_sample_shuffle_indices(self, idx: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        epoch, at = self._epoch_and_position(idx)
        arrays = self._epoch(epoch)
        self.document_index, self.sample_index = arrays["documents"], arrays["samples"]
        self.shuffle_index = arrays["shuffle"]
        return super()._query_document_sample_shuffle_indices(at)

    def _epoch(self, epoch: int) -> Arrays:
        if epoch not in self._in_use:
            if len(self._in_use) > 1:  # blends draw from two epochs at most at a time
                del self._in_use[min(self._in_use)]
            place = _folder(self.config, f"{self.key}-{epoch:05d}")
            self._in_use[epoch] = cached(place, functools.partial(self._shuffled, epoch))
        return self._in_use[epoch]

    def _shuffled(self, epoch: int) -> Arrays:
        """Documents in random order, cut into samples, and the samples in random order."""
        # RandomState: numpy promises its streams for ever, Generator's not
        random = numpy.random.RandomState([self.config.random_seed, epoch])
        documents = numpy.array(self.indices, dtype=numpy.int32)
        random.shuffle(documents)
        ends = numpy.cumsum(self.dataset.sequence_lengths[documents], dtype=numpy.int64)
        starts = numpy.arange(self.epoch_samples + 1, dtype=numpy.int64) * self.config.sequence_length
        at = numpy.searchsorted(ends, starts, side="right")  # the document that holds a sample's first token
        offsets = starts - numpy.where(at > 0, ends[at - 1], 0)
        samples = numpy.stack([at, offsets], axis=1)
        if samples.max() <= numpy.iinfo(numpy.int32).max:
            samples = samples.astype(numpy.int32)
        shuffle = numpy.arange(self.epoch_samples, dtype=numpy.uint32 if self.epoch_samples < 2**32 else numpy.int64)
        random.shuffle(shuffle)
        return {"documents": documents, "samples": samples, "shuffle": shuffle}


class OrderedBlend(BlendedDataset):
    """A weighted mix of parts. Megatron's rule, which picks the source that lags most, needs no knowledge of the end."""

    def _build_indices(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        if self.size == 0:  # no test batches are asked for
            return numpy.zeros(0, dtype=numpy.int16), numpy.zeros(0, dtype=numpy.int64)
        names = [dataset.key if dataset.epoch_samples else "" for dataset in self.datasets]
        key = _key("blend", self.split.name, self.size, *[repr(float(weight)) for weight in self.weights], *names)
        arrays = cached(_folder(self.config, key), self._mix)
        return arrays["source"], arrays["sample"]

    def _mix(self) -> Arrays:
        from megatron.core.datasets import helpers

        size = self.size if self.size is not None else sum(self.weights)
        source, sample = numpy.zeros(size, dtype=numpy.int16), numpy.zeros(size, dtype=numpy.int64)
        if self.size is None:
            helpers.build_exhaustive_blending_indices(source, sample, self.weights, len(self.datasets))
        else:
            helpers.build_blending_indices(source, sample, self.weights, len(self.datasets), size, False)
        return {"source": source, "sample": sample}

    @property
    def epoch_samples(self) -> int:
        return sum(dataset.epoch_samples for dataset in self.datasets)


def install() -> None:
    """Let Megatron's builder mix sources with OrderedBlend."""
    replace(find("training.sample_order:ordered_blend"))


def ordered_blend(original: Any) -> Any:
    """The class in place of Megatron's BlendedDataset."""
    return OrderedBlend


def describe(dataset: Any, index: int) -> dict[str, Any]:
    """Where the n-th sample of a part comes from: source file, epoch, number of the sample in it."""
    if isinstance(dataset, BlendedDataset):
        return describe(dataset.datasets[dataset.dataset_index[index]], int(dataset.dataset_sample_index[index])) | {
            "sample": index
        }
    epoch, number = dataset.place_of(index)
    return {"sample": index, "source": str(dataset.dataset_path), "epoch": epoch, "number_in_epoch": number}


# -- cache --------------------------------------------------------------------------------------------------------


def _key(*parts: Any) -> str:
    return xxhash.xxh3_128_hexdigest("\0".join(map(str, (VERSION, *parts))).encode())


def _digest(array: numpy.ndarray) -> str:
    return xxhash.xxh3_128_hexdigest(numpy.ascontiguousarray(array).data)


def _folder(config: Any, name: str) -> Path | None:
    return Path(config.path_to_cache) / name if config.path_to_cache else None


def cached(place: Path | None, build: Callable[[], Arrays]) -> Arrays:
    """The arrays in folder `place`, mapped where they are large; built and stored there first where they are missing or damaged.

    Where the cache is another user's and can't be written, in a cache of this user's own beside it; else in memory.
    """
    if place is None:
        return build()
    for folder in (place, own_cache(place.parent) / place.name):
        try:
            return _cached(folder, build)
        except OSError as error:
            if error.errno not in NOT_OURS:
                raise
            LOG.info("%s can't be written (%s)", folder.parent, error.strerror)
    LOG.warning("no index cache can be written beside %s: this start keeps its indices in memory", place.parent)
    return build()


def own_cache(shared: Path) -> Path:
    """This user's own cache, beside one that may be another's."""
    return shared.with_name(f"{shared.name}-{os.geteuid()}")


def writable_cache(shared: Path) -> Path:
    """A folder for Megatron's own indices, which know no other place: the shared one, or this user's where that is another's."""
    return shared if not shared.exists() or os.access(shared, os.W_OK | os.X_OK) else own_cache(shared)


def _cached(place: Path, build: Callable[[], Arrays]) -> Arrays:
    found = _load(place)
    if found is not None:
        return found
    place.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(place.parent / ".lock"):
        found = _load(place)  # another process may have built it meanwhile
        if found is None:
            _store(place, build())
            found = _load(place)
    if found is None:
        raise OSError(f"{place}: an index just written can't be read back; is the disk healthy?")
    return found


def _load(place: Path) -> Arrays | None:
    try:
        hashes = json.loads((place / HASHES).read_text(encoding="utf-8"))  # cut short, it is no JSON
        return {name: _mapped(place / f"{name}.npy", digest) for name, digest in hashes.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, OSError) and error.errno in NOT_DAMAGE:
            raise
        LOG.warning("%s is damaged (%s) and built again", place, error)
        return None


def _mapped(path: Path, digest: str) -> numpy.ndarray:
    mapped = path.stat().st_size > SMALL
    array = numpy.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    if _digest(array) != digest:
        raise ValueError(f"{path.name} has changed")
    return array


def _store(place: Path, arrays: Arrays) -> None:
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        aside.chmod(0o755)
        for name, array in arrays.items():
            with (aside / f"{name}.npy").open("wb") as stream:
                numpy.save(stream, numpy.ascontiguousarray(array), allow_pickle=False)
                stream.flush()
                os.fsync(stream.fileno())
        write_json(aside / HASHES, {name: _digest(array) for name, array in arrays.items()})
        if place.exists() and _load(place) is None:  # damaged: out of the way, then away
            old = Path(tempfile.mkdtemp(prefix=f".{place.name}.old.", dir=place.parent))
            with contextlib.suppress(FileNotFoundError):  # another builder was faster
                place.rename(old / "index")
            shutil.rmtree(old, ignore_errors=True)
        _into_place(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _into_place(aside: Path, place: Path) -> None:
    """Rename; an index that has just appeared there is another builder's, and the same."""
    try:
        aside.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    fsync_dir(place.parent)


@contextlib.contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Hold an exclusive lock that goes with the process. Old leftovers of killed builders are removed while it is held."""
    with lock.open("w") as stream:
        flock(stream, fcntl.LOCK_EX)
        for leftover in lock.parent.glob(".[0-9a-f]*"):
            if leftover.is_dir() and _age(leftover) > LEFTOVER_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
        yield


def _age(path: Path) -> float:
    """Seconds since a folder was changed; 0 where it has just gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def arrange(data: Any, plan: Plan, start: Checkpoint | None) -> None:
    """Give a data module of the GPT family our order, and room for the samples that the run still needs.

    A run whose global batch has changed has consumed other samples than steps x batch. T5 and BERT keep Megatron's
    order. Set on the module that is built, not in its configuration: NeMo writes that into every checkpoint.
    """
    step, consumed = 0, 0
    if start is not None:
        step, consumed = start.step, int(start.manifest().get("consumed_samples") or 0)
    batch, last = plan.settings.global_batch_size, plan.schedule.max_steps
    # Megatron's loader wants a batch where no step is left too, and only a validation is made
    samples = max(last * batch, consumed + max(1, last - step) * batch)
    if getattr(data, "dataset_cls", None) is not GPTDataset:
        if step >= last:
            data.num_train_samples = samples
        return
    data.dataset_cls = OrderedDataset
    OrderedDataset.first_sample = consumed
    install()
    data.num_train_samples = samples


def validation_set(
    plan: Plan, tokenizer: Any, named: ValidationSet | None = None, cache: str | None = None, mask: bool = False
) -> Any:
    """The validation part as a run of this plan sees it: sample n is dataset[n]. Needs no process group.

    `named` is a --validation-dir, all of whose text is validated on; `mask` asks for attention masks.
    """
    install()
    config = GPTDatasetConfig(
        random_seed=plan.settings.seed,
        sequence_length=plan.seq_length,
        tokenizer=tokenizer,
        blend=blend_of(named.sources if named else plan.sources),
        split=ALL_FOR_VALIDATION if named else plan.settings.split,
        path_to_cache=cache,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=mask,
    )
    batches = plan.batches_of(named) if named else plan.schedule.limit_val_batches
    samples = batches * plan.settings.global_batch_size
    parts = builder_module.BlendedMegatronDatasetBuilder(OrderedDataset, [0, samples, 0], lambda: True, config).build()
    return parts[Split.valid.value]


def blend_of(sources: Sequence[Any]) -> list[Any]:
    """Megatron's blend of a plan's sources: prefixes and weights, no weights for a single source."""
    prefixes = [source.pair.prefix for source in sources]
    return [prefixes, [source.weight for source in sources] if len(sources) > 1 else None]
