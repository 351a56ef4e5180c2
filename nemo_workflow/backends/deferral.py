"""How a module is imported without its body, which runs when somebody first asks for what it holds.

The first look at a name that such a module lacks runs its body, as with importlib.util.LazyLoader. Unlike there, the import
system's own looks (at `__path__`) run nothing. So modules of a package that don't need its body (`Package.alone`) can be
imported, and what lies in them can be taken from the package (`Package.names`). Any other module of it runs the body first, as it
would have been. What is imported is the same; only when is not.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.util
import itertools
import sys
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

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
    alone: Container[str] = frozenset()
    first: str = ""
    names: Mapping[str, Callable[[], Any]] = field(default_factory=dict)


def collected(name: str) -> Package:
    """A package whose body only collects names from other modules: each is taken from its module when somebody asks for it."""
    return Package(name, alone=_Below(name), names=_Collected(name))


def with_stand_ins(module: str, *names: str, **elsewhere: str) -> Package:
    """A module of which others take these names at their import, and use them later or in annotations only.

    Names under `elsewhere` have a module of their own, which needs nothing of this one's body.
    """
    places = dict.fromkeys(names, module) | elsewhere
    return Package(
        module,
        alone=_Below(module) if elsewhere else frozenset(),
        names={n: partial(Later, m, n) for n, m in places.items()},
    )


class Later:
    """Stands for a function or class: whoever calls it, makes a subclass of it or looks into it, gets the real one's answer."""

    def __init__(self, module: str, name: str):
        self.__dict__ |= {"_module": module, "__name__": name, "__qualname__": name, "__module__": module}

    def _real(self) -> Any:
        module = importlib.import_module(self._module)
        run(module)
        return getattr(module, self.__name__)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._real()(*arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what typing and inspect look for on whatever they are given
            raise AttributeError(name)
        return getattr(self._real(), name)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._real(),)

    def __instancecheck__(self, thing: Any) -> bool:
        return has_run(self._module) and isinstance(thing, self._real())


def has_run(module: str) -> bool:
    """Whether a module has been imported, and its body has run."""
    return module in sys.modules and not isinstance(sys.modules[module], _Deferred)


# -- how ----------------------------------------------------------------------------------------------------------


class _Below(Container[str]):
    """All modules of a package."""

    def __init__(self, package: str):
        self.start = f"{package}."

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.startswith(self.start)


class _Collected(Mapping[str, Callable[[], Any]]):
    """What a package's body imports by name at its top level or in a `try`, read from its source when it is first asked for."""

    def __init__(self, package: str):
        self.package = package

    @cached_property
    def found(self) -> dict[str, tuple[str, str]]:
        """name -> (module, name there)"""
        spec = sys.modules[self.package].__spec__
        tree = ast.parse(Path(cast(str, cast(ModuleSpec, spec).origin)).read_bytes())
        blocks = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.Try))]
        return {
            name.asname or name.name: (
                importlib.util.resolve_name("." * node.level + (node.module or ""), self.package),
                name.name,
            )
            for node in itertools.chain(*blocks)
            if isinstance(node, ast.ImportFrom)
            for name in node.names
        }

    def __getitem__(self, name: str) -> Callable[[], Any]:
        module, there = self.found[name]
        if module == self.package:
            return partial(importlib.import_module, f"{module}.{there}")
        return lambda: getattr(importlib.import_module(module), there)

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


class _State:
    def __init__(self, package: Package, loader: importlib.abc.Loader):
        self.package = package
        self.loader = loader
        self.lock = threading.RLock()
        self.running = False
        self.given: dict[str, Any] = {}


class _Deferred(ModuleType):
    """A module whose body has not run."""

    def __getattr__(self, name: str) -> Any:
        state: _State | None = self.__dict__.get(_STATE)
        if name == "__path__":  # of a module that is no package
            raise AttributeError(name)
        if state is not None and not state.running and not _above_running(self.__name__):
            if name in state.package.names:
                if name not in state.given:  # not in __dict__, where a body that is just running would find it
                    state.given.setdefault(name, state.package.names[name]())
                return state.given[name]
            part = f"{self.__name__}.{name}"  # `from package import part`
            if part in state.package.alone and importlib.util.find_spec(part) is not None:
                return importlib.import_module(part)
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
    parent = sys.modules.get(module.__name__.rpartition(".")[0])
    if isinstance(parent, _Deferred) and not _independent(parent):  # its body would have run before this one
        run(parent)
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


def _above_running(name: str) -> bool:
    """Whether a package above a module is just running its body, which must find the real things."""
    while name := name.rpartition(".")[0]:
        state: _State | None = getattr(sys.modules.get(name), "__dict__", {}).get(_STATE)
        if state is not None and state.running and not isinstance(state.package.alone, _Below):
            return True
    return False


def _independent(parent: _Deferred) -> bool:
    """Whether no module of a package needs its body."""
    state: _State | None = parent.__dict__.get(_STATE)
    return state is not None and isinstance(state.package.alone, _Below)


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
    """For a module that the body of its package has imported meanwhile: gives that one, and does not run it again."""

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
            there.__spec__ = ModuleSpec(fullname, _AlreadyThere(there))  # which Python takes, whatever is returned
            return there.__spec__
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
