"""A deferred package is the same as one imported at once; only its body runs later."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from nemo_workflow.backends import deferral
from nemo_workflow.backends.deferral import Later, Package, collected, defer, with_stand_ins

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
        (folder / "needy.py").write_text(
            f"import {name}, log_of_bodies\nlog_of_bodies.ran.append(__name__)\nanswer = 42\n"
        )
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
    deferral._finder.packages.pop("lazy_one")
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
    assert package == ["lazy_one.light", "lazy_one", "lazy_one.needy"]


def test_another_module_of_it_runs_the_body_first_and_is_imported_once(package: list[str]) -> None:
    import lazy_one.needy

    assert package == ["lazy_one", "lazy_one.needy", "lazy_one.light"] and lazy_one.needy.answer == 42
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
    deferral._finder.packages.pop("plain_one", None)
    assert importlib.import_module("plain_one") is plain_one and plain_one.size == 7


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `gathers`, whose body takes names from its modules `first` and `second`; each says on import that it ran."""
    folder = tmp_path / "gathers"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "import log_of_bodies\nlog_of_bodies.ran.append(__name__)\nfrom gathers.first import One, number\nfrom . import second\n"
        "try:\n    from .second import Two as Other\nexcept ImportError:\n    pass\nadded = number + 1\n"
    )
    said = "import log_of_bodies\nlog_of_bodies.ran.append(__name__)\n"
    (folder / "first.py").write_text(said + "number = 1\nclass One:\n    kind = 'one'\n")
    (folder / "second.py").write_text(
        said + "from gathers import One\nclass Two(One): ...\ndef twice(n): return 2 * n\n"
    )
    (tmp_path / "log_of_bodies.py").write_text("ran = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(deferral._finder, "packages", {})
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] in ("gathers", "log_of_bodies")]:
        del sys.modules[name]


def bodies() -> list[str]:
    return list(importlib.import_module("log_of_bodies").ran)


def test_a_collected_name_brings_its_module_only(family: Path) -> None:
    defer([collected("gathers")])
    import gathers

    assert gathers.One.kind == "one" and bodies() == ["gathers.first"]
    assert gathers.Other.__name__ == "Two" and gathers.second is sys.modules["gathers.second"]
    assert bodies() == ["gathers.first", "gathers.second"]
    assert gathers.added == 2 and bodies()[2:] == ["gathers"]  # no module's name: the body's own
    with pytest.raises(AttributeError):
        _ = gathers.nothing


def test_a_stand_in_runs_the_body_when_it_is_used(family: Path) -> None:
    defer([collected("gathers"), with_stand_ins("gathers.first", "One"), with_stand_ins("gathers.second", "twice")])
    from gathers.first import One
    from gathers.second import twice

    hint: Any = Optional[One]  # noqa: UP045 - as libraries write it
    assert hint and not isinstance(3, One) and bodies() == []
    assert twice(4) == 8 and bodies() == ["gathers.second", "gathers.first"]  # One is the base of a class there
    made = type(sys.modules["gathers.second"].Two)
    assert made is type and One.kind == "one" and isinstance(sys.modules["gathers.second"].Two(), One)
    assert issubclass(sys.modules["gathers.second"].Two, sys.modules["gathers.first"].One)


def test_a_stand_in_in_the_place_of_another_modules_name(family: Path) -> None:
    defer([with_stand_ins("gathers", One="gathers.first")])
    import gathers

    assert isinstance(gathers.One, Later) and gathers.second.Two().kind == "one"
    assert "gathers" not in bodies()
    assert gathers.added == 2 and not isinstance(gathers.One, Later)


# the names of a package that was deferred, then used, and of one that was not; and what a submodule's name leads to
REAL = """
import importlib, sys, types
from nemo_workflow.backends import deferral, deferred
if sys.argv[2] == "deferred":
    deferred.install("rank")
package = importlib.import_module(sys.argv[1])
if sys.argv[2] == "deferred":
    assert isinstance(package, deferral._Deferred)
    if sys.argv[1] == "torchmetrics":
        from torchmetrics import Metric, MetricCollection, __version__
        assert isinstance(package, deferral._Deferred) and "scipy.signal" not in sys.modules
for name in sorted(dir(package)):
    value = getattr(package, name)
    named = isinstance(value, type | types.FunctionType | types.ModuleType)  # W&B's other objects may not be asked before its init
    print(name, type(value).__name__, value.__name__ if named else "")
"""


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("name", ["torchmetrics", "wandb", "sklearn", "sklearn.metrics", "pandas"])
def test_the_real_package_ends_as_without_us(name: str) -> None:
    pytest.importorskip(name)
    ends = []
    for way in ("deferred", "plain"):
        words = [sys.executable, "-c", REAL, name, way]
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        ends.append(done.stdout.splitlines())
    assert len(ends[0]) > 40 and ends[0] == ends[1]


# what a rank imports before it builds its model, on a CPU
RANK = """
import sys
from nemo_workflow.backends import cpu, deferral, deferred
deferred.install("rank", "cpu")
cpu.install()
from nemo_workflow.training import callbacks, recipe
from nemo_workflow.training.checkpointing import Checkpoints
recipe.stock_recipe("llama_tiny")
import nemo.collections.llm.modelopt.model_utils, nemo.collections.llm.modelopt.distill.utils
import torch, torch.distributed
import modelopt.torch.opt as mto
from nemo.collections import llm
assert not mto.ModeloptStateManager.is_converted(torch.nn.Linear(2, 2))
torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]).step()  # which asks the compiler to leave it alone
print(*sorted({"modelopt.torch.opt.conversion", "scipy", "sklearn.base", "pandas.core", "datasets", "matplotlib.axes", "peft",
               "torch._dynamo.config", "torch._inductor", "nemo.collections.llm.gpt.model.qwen2", "torchmetrics.functional",
               "wandb.sdk"} & {*sys.modules}))
from modelopt.torch.opt.conversion import ModeloptStateManager
assert mto.ModeloptStateManager is ModeloptStateManager and not ModeloptStateManager.is_converted(torch.nn.Linear(2, 2))
assert llm.Qwen2Config.__module__ == "nemo.collections.llm.gpt.model.qwen2" and llm.llama3_8b.NAME == "llama3_8b"
from sklearn.metrics import roc_curve
import torchmetrics, pandas, torch._dynamo
print(len(roc_curve([0, 1], [0.1, 0.9])), pandas.DataFrame({"a": [1]}).shape, torch._dynamo.config.disable)
assert torchmetrics.Accuracy(task="binary")(torch.tensor([1]), torch.tensor([1])) == 1
"""


@pytest.mark.slow
def test_a_rank_runs_none_of_them_and_each_works_when_it_is_asked() -> None:
    done = subprocess.run([sys.executable, "-c", RANK], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["", "3 (1, 1) True"]


@pytest.mark.slow
def test_lightning_asks_for_neither() -> None:
    program = (
        "import sys; from nemo_workflow.backends import deferred; deferred.install('rank'); import lightning.pytorch.loggers\n"
        "print(*{'scipy.signal', 'torchmetrics.functional', 'wandb.sdk'} & {*sys.modules})"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# nemo_run as the launcher imports it, then the executor's classes, some of which hold others
LAUNCHER = """
import sys
from pathlib import Path
from nemo_workflow.launch.nemo_run_import import import_nemo_run
run = import_nemo_run(Path(sys.argv[1]))
print(*sorted({"fastapi", "httpx", "leptonai.photon", "networkx.classes"} & {*sys.modules}))
from nemo_run.core.execution import lepton
value = lepton.EnvVar(name="a", value_from=lepton.EnvValue(secret_name_ref="b"))
print(type(value).__module__, value.value_from.secret_name_ref, lepton.LeptonJobState.Running.value)
import networkx
print(networkx.DiGraph([(1, 2)]).number_of_edges())
"""


@pytest.mark.slow
def test_the_launcher_runs_none_of_what_nemo_run_brings_and_each_works_when_it_is_asked(tmp_path: Path) -> None:
    words = [sys.executable, "-c", LAUNCHER, str(tmp_path)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["", "leptonai.api.v1.types.deployment b Running", "1"]


@pytest.mark.slow
def test_a_model_of_transformers_takes_neither_the_compiler_nor_scipys_optimizers_along() -> None:
    """What `sample` and `evaluate` import; both work when they are asked for."""
    code = (
        "import sys; from nemo_workflow.backends import deferral, deferred; deferred.install('rank', 'cpu')\n"
        "from transformers.models.llama.modeling_llama import LlamaForCausalLM\n"
        "import torch, scipy.optimize\n"
        "print(deferral.has_run('torch._dynamo'), deferral.has_run('scipy.optimize'), 'torch._inductor' in sys.modules)\n"
        "from transformers.loss.loss_for_object_detection import linear_sum_assignment\n"
        "print(linear_sum_assignment([[1, 2], [2, 1]])[1].tolist(), torch._dynamo.allow_in_graph(len) is len, torch._dynamo.config.verbose)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n")[:2] == ["False False False", "[0, 1] True False"], done.stdout + done.stderr
