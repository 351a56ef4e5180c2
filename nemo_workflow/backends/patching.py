"""How a patch is declared, checked against the installed library and applied."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from nemo_workflow.utils.libraries import version

# The versions that every patch was written for and tested with: those that requirements.txt pins.
VERSIONS = {"torch": "2.13.0", "megatron-core": "0.15.3", "nemo_toolkit": "2.7.3"}

# Set to 1, it lets other versions through; every patch must still fit the function that it replaces.
ANY_VERSION = "CPU_BACKEND_ANY_VERSION"

# With one of these NeMo builds layers that run on a GPU only.
GPU_ONLY = {"transformer_engine": "Transformer Engine", "apex": "Apex"}

BUILTIN = "<builtin>"  # written in C: it has no signature to compare
VALUE = "<value>"  # a setting, not a function
ABSENT = "<absent>"  # a name that the library uses and forgot to define


class LibraryChanged(RuntimeError):
    """A library is not what the patches were written for. The message names the library, what was expected and what is there."""


@dataclass(frozen=True)
class Patch:
    """One replacement in one library.

    Attributes:
        library: the distribution's name, a key of VERSIONS.
        targets: the places that hold the function, each as "module:attribute" or "module:Class.attribute".
        signature: the names of the parameters that every target takes, comma separated, with the stars of *args and **kwargs;
            or BUILTIN, VALUE or ABSENT.
        make: given the original, returns the replacement.
    """

    library: str
    targets: tuple[str, ...]
    signature: str
    make: Callable[[Any], Any]

    @property
    def name(self) -> str:
        return self.make.__name__


class PatchList(list[Patch]):
    """The patches of one file, in order. Called, it is the decorator that adds one."""

    def __init__(self, library: str):
        super().__init__()
        self.library = library

    def __call__(self, *targets: str, signature: str) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
        def register(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
            self.append(Patch(self.library, targets, signature, make))
            return make

        return register


def check(patches: Iterable[Patch]) -> None:
    """Raise LibraryChanged, with every difference in one message, unless all patches fit what is installed."""
    patches = list(patches)
    problems = installed_problems({patch.library for patch in patches})
    for patch in patches:
        for target in patch.targets:
            problems += _target_problems(patch, target)
    if problems:
        raise LibraryChanged(
            "the CPU backend does not fit what is installed:\n  "
            + "\n  ".join(problems)
            + "\ninstall the versions in requirements.txt, or train with --accelerator gpu"
        )


def installed_problems(libraries: Iterable[str] | None = None) -> list[str]:
    """The libraries that are not of the patches' versions, and those that must not be there. Imports none of them."""
    return [*_version_problems(set(libraries or VERSIONS)), *_gpu_only_problems()]


def fitting(patches: Iterable[Patch]) -> list[Patch]:
    """The patches of which every target is there and takes the arguments that it is expected to take."""
    return [patch for patch in patches if not any(_target_problems(patch, target) for target in patch.targets)]


def apply(patches: Iterable[Patch]) -> None:
    """Put every replacement in place of its original."""
    for patch in patches:
        for target in patch.targets:
            owner, attribute = owner_of(target)
            original = None if patch.signature == ABSENT else getattr(owner, attribute)
            setattr(owner, attribute, patch.make(original))


def owner_of(target: str) -> tuple[Any, str]:
    """The module or class that holds the target, and the attribute's name."""
    module_name, path = target.split(":")
    owner: Any = importlib.import_module(module_name)
    *classes, attribute = path.split(".")
    for name in classes:
        owner = getattr(owner, name)
    return owner, attribute


def parameters(function: Any) -> str:
    """The parameter names as Patch.signature writes them, BUILTIN for a function written in C, VALUE for what is none."""
    if not callable(function):
        return VALUE
    try:
        found = inspect.signature(function).parameters.values()
    except ValueError:
        return BUILTIN
    return ", ".join(str(parameter.replace(annotation=parameter.empty, default=parameter.empty)) for parameter in found)


def _version_problems(libraries: set[str]) -> list[str]:
    problems: list[str] = []
    if os.environ.get(ANY_VERSION):
        return problems
    for library in sorted(libraries):
        # "2.13.0+cpu" is 2.13.0
        found = (version(library) or "not installed").partition("+")[0]
        if found != VERSIONS[library]:
            problems.append(f"{library}: expected version {VERSIONS[library]}, found {found}")
    return problems


def _gpu_only_problems() -> list[str]:
    return [
        f"{module}: expected none, found one ({name} runs on a GPU only, and NeMo uses it wherever it is installed)"
        for module, name in GPU_ONLY.items()
        if importlib.util.find_spec(module) is not None
    ]


def _target_problems(patch: Patch, target: str) -> list[str]:
    changed = f"{patch.library} {VERSIONS[patch.library]}: {target.replace(':', '.')} "
    try:
        owner, attribute = owner_of(target)
    except (ImportError, AttributeError) as error:
        return [f"{changed}has gone ({error})"]
    if not hasattr(owner, attribute):
        return [] if patch.signature == ABSENT else [f"{changed}has gone"]
    found = parameters(getattr(owner, attribute))
    if found != patch.signature:
        return [f"{changed}has changed: expected ({patch.signature}), found ({found})"]
    return []
