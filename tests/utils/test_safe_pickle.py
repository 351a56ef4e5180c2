"""Hostile checkpoints, configurations and tokenizers are refused, and nothing in them runs."""

from __future__ import annotations

import copyreg
import importlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.utils import safe_pickle
from nemo_workflow.utils.errors import Refusal
from tests import forked
from tests.later import later
from tests.utils.hostile import Call

torch, nemo_folder = later("torch"), later("nemo_workflow.conversion.nemo_folder")
dcp, planner = later("torch.distributed.checkpoint.metadata"), later("torch.distributed.checkpoint.planner")


def archive(value: Any) -> bytes:
    """As torch.save writes: a zip with a pickle in it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("archive/data.pkl", pickle.dumps(value))
        made.writestr("archive/version", "3\n")
    return stream.getvalue()


def nemo_model(folder: Path, metadata: Any = None, common: bytes | None = None) -> Path:
    (folder / "weights").mkdir(parents=True)
    (folder / "context").mkdir()
    (folder / "context" / "model.yaml").write_text("_target_: nemo.collections.llm.gpt.model.llama.LlamaModel\n")
    (folder / "weights" / ".metadata").write_bytes(pickle.dumps(metadata))
    (folder / "weights" / "common.pt").write_bytes(common or archive({}))
    return folder


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    return tmp_path / "it ran"


def hostile(trap: Path) -> list[Any]:
    return [
        Call(os.system, f"touch '{trap}'"),
        {"a": [Call(open, str(trap), "w")]},
        Call(eval, f"open({str(trap)!r}, 'w')"),
        Call(getattr, trap, "touch"),
    ]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("place", [".metadata", "common.pt"])
def test_a_hostile_pickle_is_refused_with_file_and_symbol(tmp_path: Path, trap: Path, place: str, number: int) -> None:
    bad = hostile(trap)[number]
    model = (
        nemo_model(tmp_path / "model", bad)
        if place == ".metadata"
        else nemo_model(tmp_path / "model", None, archive(bad))
    )
    with pytest.raises(Refusal, match="has no place in a checkpoint") as refused:
        safe_pickle.check_weights(model / "weights")
    assert place in str(refused.value)
    assert not trap.exists()


def test_a_bare_pickle_in_place_of_an_archive(tmp_path: Path, trap: Path) -> None:
    model = nemo_model(tmp_path / "model", None, pickle.dumps(hostile(trap)[0]))
    with pytest.raises(Refusal, match="system"):
        safe_pickle.check_weights(model / "weights")
    assert not trap.exists()


def test_what_is_no_pickle_is_refused(tmp_path: Path) -> None:
    model = nemo_model(tmp_path / "model")
    (model / "weights" / ".metadata").write_bytes(b"\x80\x04garbage")
    with pytest.raises(Refusal, match=r"\.metadata"):
        safe_pickle.check_weights(model / "weights")


@pytest.mark.parametrize("name", ["common.pt", ".metadata"])
def test_a_pipe_among_the_weights(tmp_path: Path, name: str) -> None:
    model = nemo_model(tmp_path / "model")
    (model / "weights" / name).unlink()
    os.mkfifo(model / "weights" / name)  # reading it would wait for ever
    with pytest.raises(Refusal, match=f"{name}.*(is missing|not a regular file)"):
        safe_pickle.check_weights(model / "weights")


def test_a_pickle_that_unpacks_to_more_than_any_checkpoint_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_pickle, "LARGEST", 1000)
    model = nemo_model(tmp_path / "model", None, archive("a" * 2000))
    with pytest.raises(Refusal, match=r"its pickle has 2\.0 KiB when unpacked"):
        safe_pickle.check_weights(model / "weights")


def test_the_command_refuses_with_exit_code_2(tmp_path: Path, trap: Path) -> None:
    model = nemo_model(tmp_path / "a model", Call(os.system, f"touch '{trap}'"))
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    words = ["--hf-model-id", tokenizer, "--nemo-model", model, "--dataset-dir", tmp_path]
    done = forked.run(["pretrain_llm.py", *words])
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "system" in done.stderr and ".metadata" in done.stderr
    assert not trap.exists()


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch TRAP']",
        "max-steps: !!python/object/apply:os.system ['touch TRAP']",
        "a: &a [*a]\n",
        "experiment: ['x', {'y': 1}]",
    ],
)
def test_a_hostile_config_runs_nothing(tmp_path: Path, trap: Path, text: str) -> None:
    config = tmp_path / "it's a config.yaml"
    config.write_text(text.replace("TRAP", f'"{trap}"'))
    done = forked.run(["pretrain_llm.py", "--config", config])
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not trap.exists()


def test_a_hostile_model_yaml_runs_nothing(tmp_path: Path, trap: Path) -> None:
    from nemo_workflow.models.pretrained import _load_yaml

    file = tmp_path / "model.yaml"
    file.write_text(f"config: !!python/object/apply:os.system ['touch \"{trap}\"']\n")
    _load_yaml(file)
    assert not trap.exists()


def pickled_as_python_3_11_2_does(value: Any) -> bytes:
    """Members of an enum as getattr(class, name), as every Python before 3.11.4 has them."""
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream)
    pickler.dispatch_table = copyreg.dispatch_table | {
        planner.WriteItemType: lambda member: (getattr, (planner.WriteItemType, member.name)),
        dcp._MEM_FORMAT_ENCODING: lambda member: (getattr, (dcp._MEM_FORMAT_ENCODING, member.name)),
    }
    pickler.dump(value)
    return stream.getvalue()


def an_index() -> Any:
    """A checkpoint's index as torch makes it, with members of both enums in it."""
    tensor = dcp.TensorStorageMetadata(dcp.TensorProperties(), torch.Size([2]), [])
    item = planner.WriteItem(index=dcp.MetadataIndex("w"), type=planner.WriteItemType.SHARD)
    return dcp.Metadata({"w": tensor}, planner_data=[item], storage_data={})


def test_an_index_written_by_an_older_python_3_11(tmp_path: Path) -> None:
    written = pickled_as_python_3_11_2_does(an_index())
    assert b"getattr" in written
    model = nemo_model(tmp_path / "model")
    (model / "weights" / ".metadata").write_bytes(written)
    safe_pickle.check_weights(model / "weights")
    assert nemo_folder._read_metadata(model / "weights" / ".metadata") == an_index()


def test_the_members_are_those_of_torchs_enums() -> None:
    for (module, name), members in safe_pickle.ENUMS.items():
        assert set(getattr(importlib.import_module(module), name).__members__) == members


MORE_THAN_A_MEMBER = {
    "a method": lambda: (planner.WriteItemType, "mro"),
    "a member's own": lambda: (planner.WriteItemType.SHARD, "__class__"),
    "a default": lambda: (planner.WriteItemType, "SHARD", None),
    "no enum": lambda: (dcp.Metadata, "__init__"),
    "another class's member": lambda: (planner.WriteItemType, "TORCH_CHANNELS_LAST"),
    "nothing": lambda: (),
    "a module's": lambda: ("torch", "SHARD"),
}


@pytest.mark.parametrize("arguments", MORE_THAN_A_MEMBER.values(), ids=MORE_THAN_A_MEMBER)
def test_getattr_gives_nothing_but_the_member_of_an_enum(
    tmp_path: Path, arguments: Callable[[], tuple[Any, ...]]
) -> None:
    model = nemo_model(tmp_path / "model", Call(getattr, *arguments()))
    with pytest.raises(Refusal, match=r"\.metadata calls builtins\.getattr .* has no place in a checkpoint"):
        safe_pickle.check_weights(model / "weights")
    with pytest.raises(Refusal, match=r"\.metadata: can't be read"):
        nemo_folder._read_metadata(model / "weights" / ".metadata")
