"""The rules of patching, on modules made up here (the real libraries take 13 s to import: test_parity.py has those)."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types
from typing import Any

import pytest

from nemo_workflow.backends import cpu, patching
from nemo_workflow.backends.patching import ABSENT, BUILTIN, CPU, MORE, VALUE, LibraryChanged, Patch
from nemo_workflow.backends.registry_cpu import CPU_PATCHES


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A library "made-up" 1.2 with a function, a class, a value and a builtin, and no GPU packages beside it."""

    class Engine:
        def start(self, speed: int, *cylinders: int, **options: int) -> str:
            return f"started at {speed}"

    module = types.ModuleType("made_up")
    module.__dict__.update(Engine=Engine, halve=lambda number: number / 2, setting=False, length=len)
    monkeypatch.setitem(sys.modules, "made_up", module)
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2+cpu" if name == "made-up" else real(name))
    monkeypatch.setattr(patching, "GPU_ONLY", {})
    return module


def patch(target: str, signature: str, versions: str = "==1.2", **more: Any) -> Patch:
    return Patch("tests.made_up:replacement", "made-up", versions, (target,), signature, "a reason", CPU, **more)


def doubled(original: Any) -> Any:
    return lambda number: 2 * original(number)


def test_a_replacement_takes_the_originals_place(library: Any) -> None:
    start = patch("made_up:Engine.start", "self, speed, *cylinders, **options")
    assert patching.replace(start, lambda original: lambda self, speed: original(self, speed).upper())
    assert patching.replace(patch("made_up:setting", VALUE), lambda original: not original)
    assert patching.replace(patch("made_up:forgotten", ABSENT), lambda original: "defined")
    assert library.Engine().start(3) == "STARTED AT 3"
    assert library.setting is True
    assert library.forgotten == "defined"


def test_a_changed_library_is_refused_and_nothing_is_replaced(library: Any) -> None:
    two = Patch("a:b", "made-up", "==1.2", ("made_up:halve", "made_up:third"), "number", "", CPU)
    with pytest.raises(LibraryChanged, match="third has gone"):
        patching.replace(two, doubled)
    with pytest.raises(LibraryChanged, match=r"expected version >=2,<3, found 1\.2"):
        patching.replace(patch("made_up:halve", "number", ">=2,<3"), doubled)
    assert library.halve(8) == 4


@pytest.mark.parametrize(("signature", "versions"), [("number, by", "==1.2"), ("number", ">=1.3")])
def test_an_optional_patch_stands_aside_from_a_changed_library(library: Any, signature: str, versions: str) -> None:
    assert not patching.replace(patch("made_up:halve", signature, versions, optional=True), doubled)
    with patching.replaced(patch("made_up:halve", signature, versions, optional=True), doubled) as done:
        assert not done
        assert library.halve(8) == 4


def test_a_patch_for_a_block_goes_with_it(library: Any) -> None:
    with patching.replaced(patch("made_up:halve", "number"), doubled):
        assert library.halve(8) == 8
    assert library.halve(8) == 4


def test_a_patch_on_one_object_leaves_the_class(library: Any) -> None:
    one, other = library.Engine(), library.Engine()
    row = patch("made_up:Engine.start", f"self, speed, {MORE}")
    assert patching.replace_on(row, one, lambda original: lambda speed: original(speed + 1))
    assert (one.start(3), other.start(3)) == ("started at 4", "started at 3")


@pytest.mark.parametrize(
    ("versions", "found", "fits"),
    [
        (">=0.14,<0.17", "0.14.0rc3", True),
        (">=0.14,<0.17", "0.16.1+local", True),
        (">=0.14,<0.17", "0.17.0rc0", False),
        ("==0.15.3", "0.15.3+cpu", True),
        ("==0.15.3", "0.15.3rc1", False),
        ("==0.15.3", "unknown", False),
    ],
)
def test_versions_are_ranges(
    versions: str, found: str, fits: bool, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: found)
    assert patching.version_problems(patch("made_up:halve", "number", versions)) is not fits


def test_what_fits_passes(library: Any) -> None:
    patching.check(
        [
            patch("made_up:halve", "number"),
            patch("made_up:length", "obj"),
            patch("made_up:Engine.start", f"self, {MORE}"),
        ]
    )


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

    good, bad = patch("made_up:halve", "number"), patch("made_up:third", "number")
    monkeypatch.setattr(Patch, "maker", lambda row: lambda original: lambda number: original(number) / 2)
    monkeypatch.setattr(cpu, "CPU_PATCHES", [good, bad])
    with pytest.raises(LibraryChanged):
        cpu.install()
    assert library.halve(8) == 4

    monkeypatch.setattr(cpu, "CPU_PATCHES", [good])
    cpu.install()
    cpu.install()
    assert library.halve(8) == 2


def test_pins_are_those_of_the_requirements(request: pytest.FixtureRequest) -> None:
    root = request.config.rootpath
    pinned = "".join((root / name).read_text() for name in ("requirements.txt", "requirements/common.txt"))
    for row in CPU_PATCHES:
        assert f"\n{row.library}{row.versions} " in pinned


def test_importing_the_package_is_light() -> None:
    """A command may import it to name an error; only `install` may import torch."""
    code = "import sys, nemo_workflow.backends.cpu; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
