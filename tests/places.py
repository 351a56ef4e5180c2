"""Small real inputs: Megatron pairs written byte by byte, tokenizer folders, NeMo checkpoint folders."""

from __future__ import annotations

import json
import shutil
import struct
from array import array
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.config.plan import Plan
from nemo_workflow.config.resolve import make_plan
from nemo_workflow.run_dir.checkpoints import write_manifest
from nemo_workflow.run_dir.fingerprint import identity_of

CODES = {"uint16": (8, "H"), "int32": (4, "i")}


def write_pair(prefix: Path, lengths: list[int], dtype: str = "uint16", largest: int = 99) -> Path:
    """A pair of documents of these lengths; every token is `largest`."""
    code, letter = CODES[dtype]
    prefix.parent.mkdir(parents=True, exist_ok=True)
    width = array(letter).itemsize
    pointers, total = [], 0
    for length in lengths:
        pointers.append(total * width)
        total += length
    Path(f"{prefix}.bin").write_bytes(array(letter, [largest] * total).tobytes())
    with Path(f"{prefix}.idx").open("wb") as stream:
        stream.write(struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, code, len(lengths), len(lengths) + 1))
        stream.write(array("i", lengths).tobytes() + array("q", pointers).tobytes())
        stream.write(array("q", range(len(lengths) + 1)).tobytes())
    return prefix


def write_maker(prefix: Path, tokens: int, tokenizer: Path) -> None:
    """Beside a pair, which tokenizer made it: of what preprocessing writes there only this."""
    Path(f"{prefix}.json").write_text(json.dumps({"tokens": tokens, "tokenizer": str(tokenizer)}))


def write_tokenizer(folder: Path, vocabulary: int = 4096, eos: str | None = "</s>", **config: Any) -> Path:
    """A folder with the JSON files of a word-level tokenizer of `vocabulary` entries."""
    folder.mkdir(parents=True, exist_ok=True)
    words = {f"w{number}": number for number in range(vocabulary - 1)} | {eos or "last": vocabulary - 1}
    unused = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    model = {"type": "WordLevel", "vocab": words, "unk_token": "w0"}
    whole = {"version": "1.0", **unused, "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    about = {"tokenizer_class": "PreTrainedTokenizerFast"} | ({"eos_token": eos} if eos else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


# a pickled torch.distributed.checkpoint Metadata without tensors, written by hand: importing torch takes seconds
EMPTY_METADATA = b"ctorch.distributed.checkpoint.metadata\nMetadata\n)\x81}(Vstate_dict_metadata\n}Vstorage_data\n}ub."


def write_nemo_model(
    folder: Path, model: str = "llama.LlamaModel", config: str = "llama.LlamaConfig", **sizes: Any
) -> Path:
    """A folder that looks like a NeMo 2 checkpoint from outside."""
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / ".metadata").write_bytes(EMPTY_METADATA)
    (folder / "context").mkdir()
    package = "nemo.collections.llm.gpt.model"
    lines = [f"_target_: {package}.{model}", "config:", f"  _target_: {package}.{config}"]
    lines += [f"  {name}: {json.dumps(value)}" for name, value in sizes.items()]
    (folder / "context" / "model.yaml").write_text("\n".join(lines) + "\n")
    return folder


def leave_checkpoint(plan: Plan, step: int) -> Path:
    """The folder of a checkpoint as a run of this plan leaves it, but for the weights."""
    folder = plan.folder / "checkpoints" / f"step_{step:08d}"
    (folder / "context").mkdir(parents=True)
    (folder / "context" / "io.json").write_text("{}")
    identity = json.loads(json.dumps(identity_of(plan)))
    write_manifest(folder, step=step, consumed_samples=step * plan.settings.global_batch_size, identity=identity)
    return folder


class Place:
    """A folder with 1000 documents of 300 tokens, a tokenizer, and the flags that use both on a CPU."""

    def __init__(self, root: Path):
        self.root = root
        self.hf = write_tokenizer(root / "hf")
        self.data = root / "data" / "d_text_document"
        self.write_data(1000)

    def write_data(self, documents: int) -> None:
        """The pair, and beside it which tokenizer made it."""
        write_maker(write_pair(self.data, [300] * documents), 300 * documents, self.hf)

    def flags(self, *more: str, **change: str | None) -> list[str]:
        """The flags of a right run, with some changed (underscores) or left out (None)."""
        values: dict[str, str | None] = {
            "model_name": "llama_tiny",
            "hf_model_id": str(self.hf),
            "dataset_dir": str(self.data.parent),
            "global_batch_size": "16",
            "output_dir": str(self.root / "out"),
            "accelerator": "cpu",
        }
        given = [
            f"--{name.replace('_', '-')}={value}" for name, value in (values | change).items() if value is not None
        ]
        return [*given, *more]

    def plan(self, *more: str, **change: str | None) -> Plan:
        return make_plan(command_line.parse(self.flags(*more, **change)))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """For tests that only read."""
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Ten times the data, for large batches; only to read."""
    place = Place(tmp_path_factory.mktemp("large"))
    place.write_data(10_000)
    return place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """For tests that change files."""
    return Place(tmp_path)


@pytest.fixture
def no_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No GPU, hub cache, key or number of cores of the machine the tests run on."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr("nemo_workflow.utils.machine.DEVICES", tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("nemo_workflow.utils.visible_gpus.visible", lambda: ())
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CUDA_VISIBLE_DEVICES", "WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def hub_snapshot(source: Path, repository: Path) -> Path:
    """`source` as the Hub's cache holds it: a snapshot of links to blobs."""
    snapshot, blobs = repository / "snapshots" / "0123", repository / "blobs"
    blobs.mkdir(parents=True)
    shutil.copytree(source, snapshot)
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(f"../../blobs/{number}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    return snapshot
