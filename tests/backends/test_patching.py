"""The rules of patching, on modules made up here (the real libraries take 13 s to import: test_parity.py has those)."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types
from typing import Any

import pytest

from nemo_workflow.backends import cpu, patching
from nemo_workflow.backends.patching import ABSENT, BUILTIN, VALUE, LibraryChanged, Patch, PatchList


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A library "made-up" 1.2 with a function, a class, a value and a builtin, and no GPU packages beside it."""

    class Engine:
        def start(self, speed: int, *cylinders: int, **options: int) -> str:
            return f"started at {speed}"

    module = types.ModuleType("made_up")
    module.__dict__.update(Engine=Engine, halve=lambda number: number / 2, setting=False, length=len)
    monkeypatch.setitem(sys.modules, "made_up", module)
    monkeypatch.setattr(patching, "VERSIONS", {"made-up": "1.2"})
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"made-up": "1.2+cpu"}[name])
    monkeypatch.setattr(patching, "GPU_ONLY", {})
    return module


def patch(target: str, signature: str, make: Any = lambda original: original) -> Patch:
    return Patch("made-up", (target,), signature, make)


def test_a_replacement_takes_the_originals_place(library: Any) -> None:
    patches = PatchList("made-up")

    @patches("made_up:Engine.start", signature="self, speed, *cylinders, **options")
    def louder(original: Any) -> Any:
        return lambda self, speed, *cylinders, **options: original(self, speed).upper()

    @patches("made_up:setting", signature=VALUE)
    def switch_on(original: Any) -> Any:
        return not original

    @patches("made_up:forgotten", signature=ABSENT)
    def define(original: Any) -> Any:
        return "defined"

    patching.check(patches)
    patching.apply(patches)
    assert library.Engine().start(3) == "STARTED AT 3"
    assert library.setting is True
    assert library.forgotten == "defined"
    assert [p.name for p in patches] == ["louder", "switch_on", "define"]


def test_what_fits_passes(library: Any) -> None:
    patching.check([patch("made_up:halve", "number"), patch("made_up:length", "obj")])


@pytest.mark.parametrize(
    ("target", "signature", "words"),
    [
        ("made_up:third", "number", "made-up 1.2: made_up.third has gone"),
        ("made_up:Motor.start", "self", "made-up 1.2: made_up.Motor.start has gone"),
        ("made_up.parts:start", "self", "made-up 1.2: made_up.parts.start has gone"),
        ("made_up:halve", "number, by", "made_up.halve has changed: expected (number, by), found (number)"),
        ("made_up:Engine.start", "self, speed", "expected (self, speed), found (self, speed, *cylinders, **options)"),
        ("made_up:setting", "self", "made_up.setting has changed: expected (self), found (<value>)"),
        ("made_up:halve", BUILTIN, "made_up.halve has changed: expected (<builtin>), found (number)"),
        ("made_up:halve", ABSENT, "made_up.halve has changed: expected (<absent>), found (number)"),
    ],
)
def test_a_changed_attribute_is_named(library: Any, target: str, signature: str, words: str) -> None:
    with pytest.raises(LibraryChanged) as refused:
        patching.check([patch(target, signature)])
    assert words in str(refused.value)


def test_every_problem_is_in_one_message(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.3")
    monkeypatch.setattr(patching, "GPU_ONLY", {"json": "A GPU library"})
    with pytest.raises(LibraryChanged) as refused:
        patching.check([patch("made_up:third", ""), patch("made_up:halve", "")])
    for words in (
        "made-up: expected version 1.2, found 1.3",
        "json: expected none, found one (A GPU library",
        "made_up.third has gone",
        "made_up.halve has changed",
        "requirements.txt",
    ):
        assert words in str(refused.value)


def test_a_missing_library_is_named(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(LibraryChanged, match=r"made-up: expected version 1\.2, found not installed"):
        patching.check([patch("made_up:halve", "number")])


def test_install_applies_once_and_nothing_where_one_does_not_fit(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(cpu, "_installed", False)

    def halve_again(original: Any) -> Any:
        return lambda number: original(number) / 2

    good, bad = patch("made_up:halve", "number", halve_again), patch("made_up:third", "number")
    monkeypatch.setattr(cpu, "all_patches", lambda: [good, bad])
    with pytest.raises(LibraryChanged):
        cpu.install()
    assert library.halve(8) == 4

    monkeypatch.setattr(cpu, "all_patches", lambda: [good])
    cpu.install()
    cpu.install()
    assert library.halve(8) == 2


def test_pins_are_those_of_the_requirements(request: pytest.FixtureRequest) -> None:
    root = request.config.rootpath
    pinned = "".join((root / name).read_text() for name in ("requirements.txt", "requirements/common.txt"))
    for library, version in patching.VERSIONS.items():
        assert f"\n{library}=={version} " in pinned


def test_importing_the_package_is_light() -> None:
    """A command may import it to name an error; only `install` may import torch."""
    code = "import sys, nemo_workflow.backends.cpu; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
