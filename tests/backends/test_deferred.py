"""A deferred package is the same as one imported at once; only its body runs later."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.backends import deferred
from nemo_workflow.backends.deferred import Package, defer

REPOSITORY = Path(__file__).parents[2]
BODY = """
import log_of_bodies
log_of_bodies.ran.append(__name__)
from {name}.needy import answer
from {name} import light
from {name}.light import Light
size = 7
def double(number): return 2 * number
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package `lazy_one` that is deferred, with the list of bodies that have run."""
    for name in ("lazy_one", "plain_one"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text(BODY.format(name=name))
        (folder / "light.py").write_text("import log_of_bodies\nlog_of_bodies.ran.append(__name__)\nclass Light: ...\n")
        (folder / "needy.py").write_text(f"import {name}\nanswer = 42\n")
        (folder / "data.txt").write_text("data")
    (tmp_path / "log_of_bodies.py").write_text("ran = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    made = Package(
        "lazy_one",
        alone=frozenset({"lazy_one.light"}),
        names={"Light": lambda: importlib.import_module("lazy_one.light").Light},
    )
    defer([made])
    yield importlib.import_module("log_of_bodies").ran
    deferred._finder.packages.pop("lazy_one")
    for name in [name for name in sys.modules if name.split(".")[0] in ("lazy_one", "plain_one", "log_of_bodies")]:
        del sys.modules[name]


def test_the_body_runs_once_at_the_first_look(package: list[str]) -> None:
    import lazy_one

    assert package == [] and importlib.util.find_spec("lazy_one") is lazy_one.__spec__
    assert lazy_one.size == 7 and lazy_one.double(4) == 8 and lazy_one.answer == 42
    assert package.count("lazy_one") == 1 and type(lazy_one) is type(sys)


def test_it_ends_as_a_plain_package_does(package: list[str]) -> None:
    import lazy_one
    import plain_one

    names = dir(plain_one)
    assert dir(lazy_one) == names
    kinds = [[type(getattr(module, name)) for name in names] for module in (lazy_one, plain_one)]
    assert kinds[0] == kinds[1]
    assert type(lazy_one.__loader__) is type(plain_one.__loader__) and lazy_one.__spec__.loader is lazy_one.__loader__


def test_what_needs_no_body_runs_none(package: list[str]) -> None:
    from lazy_one import Light, light

    import_again = importlib.import_module("lazy_one.light")
    assert package == ["lazy_one.light"] and light is import_again and Light is light.Light
    import lazy_one

    assert lazy_one.size == 7 and lazy_one.Light is Light and lazy_one.light is light
    assert package == ["lazy_one.light", "lazy_one"]


def test_another_module_of_it_runs_the_body_first_and_is_imported_once(package: list[str]) -> None:
    import lazy_one.needy

    assert package[0] == "lazy_one" and lazy_one.needy.answer == 42
    assert lazy_one.needy is sys.modules["lazy_one.needy"] and lazy_one.needy.__spec__.loader.name == "lazy_one.needy"


def test_a_value_set_before_the_body_stays(package: list[str]) -> None:
    import lazy_one

    lazy_one.size = 8
    assert lazy_one.size == 8 and "lazy_one" in package


def test_a_name_that_is_nowhere_is_an_attribute_error(package: list[str]) -> None:
    import lazy_one

    assert not hasattr(lazy_one, "nothing")
    with pytest.raises(ImportError, match="nothing"):
        exec("from lazy_one import nothing")


def test_a_body_that_fails_says_so_to_whoever_asks_and_is_tried_again(package: list[str], tmp_path: Path) -> None:
    source = tmp_path / "lazy_one" / "__init__.py"
    source.write_text("raise RuntimeError('broken')")
    import lazy_one

    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            _ = lazy_one.size


def test_threads_wait_for_the_whole_body(package: list[str], tmp_path: Path) -> None:
    source = tmp_path / "lazy_one" / "__init__.py"
    source.write_text("import time\nearly = 1\ntime.sleep(0.2)\nsize = 7\n")
    import lazy_one

    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(lazy_one.size)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [7] * 4


def test_what_is_imported_already_stays(package: list[str]) -> None:
    import plain_one

    defer([Package("plain_one")])
    deferred._finder.packages.pop("plain_one", None)
    assert importlib.import_module("plain_one") is plain_one and plain_one.size == 7


# the names of a package that was deferred, then used, and of one that was not; and what a submodule's name leads to
REAL = """
import importlib, sys, types
from nemo_workflow.backends import deferred
if sys.argv[2] == "deferred":
    deferred.install()
package = importlib.import_module(sys.argv[1])
if sys.argv[2] == "deferred":
    assert isinstance(package, deferred._Deferred)
    if sys.argv[1] == "torchmetrics":
        from torchmetrics import Metric, MetricCollection, __version__
        assert isinstance(package, deferred._Deferred) and "scipy.signal" not in sys.modules
for name in sorted(dir(package)):
    value = getattr(package, name)
    named = isinstance(value, type | types.FunctionType | types.ModuleType)  # W&B's other objects may not be asked before its init
    print(name, type(value).__name__, value.__name__ if named else "")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchmetrics", "wandb"])
def test_the_real_package_ends_as_without_us(name: str) -> None:
    pytest.importorskip(name)
    ends = []
    for way in ("deferred", "plain"):
        words = [sys.executable, "-c", REAL, name, way]
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        ends.append(done.stdout.splitlines())
    assert len(ends[0]) > 50 and ends[0] == ends[1]


@pytest.mark.slow
def test_lightning_asks_for_neither() -> None:
    program = (
        "import sys; from nemo_workflow.backends import deferred; deferred.install(); import lightning.pytorch.loggers\n"
        "print(*{'scipy.signal', 'torchmetrics.functional', 'wandb.sdk'} & {*sys.modules})"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
