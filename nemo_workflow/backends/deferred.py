"""Packages that libraries import and a pretraining never uses: loaded when somebody first asks for what they hold.

Importing such a package gives the module without running its body, and the first look at a name that it lacks runs it, as with
importlib.util.LazyLoader. Unlike there, the import system's own looks (at `__path__`) run nothing. So modules of the package
that don't need its body (`Package.alone`) can be imported, and what lies in them can be taken from the package
(`Package.names`). Any other module of it runs the body first, as it would have been. What is imported is the same; only when
is not.
"""

from __future__ import annotations

import importlib
import importlib.abc
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

from nemo_workflow.backends.patching import fits
from nemo_workflow.backends.registry import find
from nemo_workflow.utils.libraries import version

_STATE = "_nemo_workflow_deferred"  # in a deferred module's __dict__, until its body has run


@dataclass(frozen=True)
class Package:
    """One package to be deferred.

    Attributes:
        name: its full name.
        alone: its modules that need nothing of its body.
        first: the one of `alone` that must be imported before the others.
        names: names that need nothing of its body, and what gives each.
    """

    name: str
    alone: frozenset[str] = frozenset()
    first: str = ""
    names: Mapping[str, Callable[[], Any]] = field(default_factory=dict)


def install() -> None:
    """Defer them in this process, as far as the installed versions are those of the registry. Imports none of them."""
    rows = (find("backends.deferred:torchmetrics"), find("backends.deferred:wandb"))
    defer(row.maker()() for row in rows if version(row.library) is not None and fits(row))


def torchmetrics() -> Package:
    """Lightning takes four names of it, which need neither SciPy nor matplotlib's figures nor transformers."""
    taken = {"Metric": "metric", "MetricCollection": "collections", "__version__": "__about__"}
    names: dict[str, Callable[[], Any]] = {
        name: lambda name=name, module=module: getattr(importlib.import_module(f"torchmetrics.{module}"), name)  # type: ignore[misc]
        for name, module in taken.items()
    }
    return Package(
        "torchmetrics",
        alone=frozenset(
            f"torchmetrics.{name}" for name in ("__about__", "aggregation", "collections", "metric", "utilities")
        ),
        first="torchmetrics.utilities",  # which imports metric, which imports its parts
        names=names | {"_logger": lambda: logging.getLogger("torchmetrics")},
    )


def wandb() -> Package:
    """Megatron and Lightning only look whether it is there."""
    return Package("wandb")


# -- how ----------------------------------------------------------------------------------------------------------


class _State:
    def __init__(self, package: Package, loader: importlib.abc.Loader):
        self.package = package
        self.loader = loader
        self.lock = threading.RLock()
        self.running = False


class _Deferred(ModuleType):
    """A module whose body has not run."""

    def __getattr__(self, name: str) -> Any:
        state: _State | None = self.__dict__.get(_STATE)
        if state is not None and not state.running:
            if (part := f"{self.__name__}.{name}") in state.package.alone:  # `from package import part`
                return importlib.import_module(part)
            if name in state.package.names:
                value = state.package.names[name]()
                self.__dict__.setdefault(name, value)
                return self.__dict__[name]
        if not run(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}: it is being imported")
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not _by_import_system(self, name, value):
            run(self)  # or its body would overwrite the value later
        ModuleType.__setattr__(self, name, value)  # not by super(): it is a plain module by now

    def __delattr__(self, name: str) -> None:
        run(self)
        ModuleType.__delattr__(self, name)

    def __dir__(self) -> Iterable[str]:
        run(self)
        return ModuleType.__dir__(self)


def _by_import_system(module: ModuleType, name: str, value: Any) -> bool:
    return name in ("__spec__", "__loader__", "__class__") or (
        isinstance(value, ModuleType) and value.__name__ == f"{module.__name__}.{name}"
    )


def run(module: ModuleType) -> bool:
    """Run a deferred module's body, once; returns False where this thread is just running it. Raises what the body raises."""
    state: _State | None = module.__dict__.get(_STATE)
    if state is None:
        return True
    with state.lock:  # another thread waits here until the whole body has run
        if state.running:
            return False
        if _STATE in module.__dict__:
            state.running = True
            try:
                state.loader.exec_module(module)
            finally:
                state.running = False
            object.__setattr__(module, "__class__", ModuleType)
            del module.__dict__[_STATE]
    return True


class _Loader(importlib.abc.Loader):
    """Makes the module as its own loader does, and runs nothing."""

    def __init__(self, package: Package, loader: importlib.abc.Loader):
        self.package = package
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        cast(ModuleSpec, module.__spec__).loader = self.loader
        module.__loader__ = self.loader
        module.__dict__[_STATE] = _State(self.package, self.loader)
        object.__setattr__(module, "__class__", _Deferred)


class _AlreadyThere(importlib.abc.Loader):
    """For a module that the body of its package has imported meanwhile."""

    def __init__(self, module: ModuleType):
        self.module = module
        self.spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class _Finder(importlib.abc.MetaPathFinder):
    """Defers the packages that it knows, and runs a package's body before any module of it that may need that."""

    def __init__(self) -> None:
        self.packages: dict[str, Package] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parent = sys.modules.get(fullname.rpartition(".")[0])
        if isinstance(parent, _Deferred) and (there := _before(parent, fullname)):
            return ModuleSpec(fullname, _AlreadyThere(there))
        package = self.packages.get(fullname)
        if package is None:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(package, spec.loader)
                return spec
        return None


def _before(parent: _Deferred, fullname: str) -> ModuleType | None:
    """Import what must come before a module of a deferred package; returns the module if it came along."""
    package = cast(_State, parent.__dict__[_STATE]).package
    if fullname not in package.alone:
        run(parent)
    elif package.first and fullname != package.first and package.first not in sys.modules:
        importlib.import_module(package.first)
    return sys.modules.get(fullname)


_finder = _Finder()


def defer(packages: Iterable[Package]) -> None:
    """Defer packages that are not imported yet, in this process."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    for package in packages:
        if package.name not in sys.modules:
            _finder.packages[package.name] = package
