"""How a patch is described, checked against the installed library and put in place. Every patch is a row of registry.py.

Imports no library: what is patched is imported only when a patch is checked or applied.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nemo_workflow.utils.errors import Failure
from nemo_workflow.utils.libraries import version

# Set to 1, it lets other versions through; every patch must still fit the function that it replaces.
ANY_VERSION = "NEMO_WORKFLOW_ANY_VERSION"

# With one of these NeMo builds layers that run on a GPU only.
GPU_ONLY = {"transformer_engine": "Transformer Engine", "apex": "Apex"}

BUILTIN = "<builtin>"  # written in C: it has no signature to compare
VALUE = "<value>"  # a setting, not a function
ABSENT = "<absent>"  # a name that the library uses and forgot to define
OWN = "<own>"  # the patch itself looks at what it changes, piece by piece
MORE = "..."  # at a signature's end: more parameters may follow, which are handed on; alone: any function

# Where a patch applies.
CPU, GPU, RANK, LAUNCHER, CONVERSION = "cpu", "gpu", "rank", "launcher", "conversion"


class LibraryChanged(Failure):
    """A library is not what the patches were written for. The message names the library, what was expected and what is there."""


@dataclass(frozen=True)
class Patch:
    """One replacement in one library.

    Attributes:
        make: our function, as "module:function" below nemo_workflow. Given the original, it returns the replacement; with OWN it
            does the whole work.
        library: the distribution's name.
        versions: the versions that it was written for and tried with, as pip writes a range.
        targets: the places that hold the function, each as "module:attribute" or "module:Class.attribute".
        signature: the names of the parameters that every target takes, comma separated, with the stars of *args and **kwargs and
            MORE at the end where more may follow; or BUILTIN, VALUE, ABSENT or OWN.
        reason: what the library does, and why that won't do.
        where: CPU, GPU, RANK (every rank), LAUNCHER or CONVERSION.
        optional: a changed library is left as it is, and the work goes on without the patch; else it is refused.
        needs: whether a run with these settings takes it.
    """

    make: str
    library: str
    versions: str
    targets: tuple[str, ...]
    signature: str
    reason: str
    where: str
    optional: bool = False
    needs: Callable[[Any], bool] = lambda settings: True

    @property
    def name(self) -> str:
        return self.make.rpartition(":")[2]

    def maker(self) -> Callable[..., Any]:
        """Our function. Imports its module."""
        module, name = self.make.split(":")
        found: Callable[..., Any] = getattr(importlib.import_module(f"nemo_workflow.{module}"), name)
        return found


def check(patches: Iterable[Patch]) -> None:
    """Raise LibraryChanged, with every difference in one message, unless all patches fit what is installed and no GPU library is."""
    patches = list(patches)
    problems = installed_problems(patches) + [problem for patch in patches for problem in changes(patch)]
    if problems:
        raise LibraryChanged(
            "the CPU backend does not fit what is installed:\n  "
            + "\n  ".join(problems)
            + "\ninstall the versions in requirements.txt, or train with --accelerator gpu"
        )


def installed_problems(patches: Iterable[Patch]) -> list[str]:
    """The libraries that are not of the patches' versions, and those that must not be there. Imports none of them."""
    versions = {(patch.library, patch.versions): patch for patch in patches}
    problems = (text for patch in versions.values() for text in version_problems(patch))
    return list(dict.fromkeys([*problems, *_gpu_only_problems()]))


def fitting(patches: Iterable[Patch]) -> list[Patch]:
    """The patches of which every target is there and takes the arguments that it is expected to take."""
    return [patch for patch in patches if not changes(patch)]


def apply(patches: Iterable[Patch]) -> None:
    """Put every replacement in place of its original. They were checked before."""
    for patch in patches:
        _put(patch, patch.maker())


def replace(patch: Patch, make: Callable[[Any], Any] | None = None) -> bool:
    """Check one patch and put it in place, all its targets or none; `make` instead of the row's where it needs more than the original.

    Returns whether it was: an optional one is left out where the library has changed (its caller tells the user).

    Raises:
        LibraryChanged: the library has changed, and the patch is not optional.
    """
    if not fits(patch):
        return False
    _put(patch, make or patch.maker())
    return True


def fits(patch: Patch) -> bool:
    """Whether one patch fits what is installed; for one that isn't optional, True or LibraryChanged."""
    problems = problems_of(patch)
    if problems and not patch.optional:
        raise LibraryChanged(
            f"{patch.name} (python -m nemo_workflow.patches) does not fit what is installed:\n  "
            + "\n  ".join(problems)
            + f"\ninstall a version of {patch.library} that fits"
        )
    return not problems


def problems_of(patch: Patch) -> list[str]:
    """What speaks against one patch: another version, or a library that has changed. Imports the library."""
    return version_problems(patch) + changes(patch)


@contextlib.contextmanager
def replaced(patch: Patch, make: Callable[[Any], Any] | None = None) -> Iterator[bool]:
    """The same for the length of a block; gives whether it was put in place."""
    if not fits(patch):
        yield False
        return
    places = [owner_of(target) for target in patch.targets]
    originals = [inspect.getattr_static(owner, attribute) for owner, attribute in places]
    _put(patch, make or patch.maker())
    try:
        yield True
    finally:
        for (owner, attribute), original in zip(places, originals, strict=True):
            setattr(owner, attribute, original)


def replace_on(patch: Patch, thing: Any, make: Callable[[Any], Any]) -> bool:
    """Check one patch by its class, and put it on one object only."""
    if not fits(patch):
        return False
    attribute = patch.targets[0].rpartition(".")[2]
    setattr(thing, attribute, make(getattr(thing, attribute)))
    return True


def _put(patch: Patch, make: Callable[[Any], Any]) -> None:
    made = []
    for target in patch.targets:
        owner, attribute = owner_of(target)
        original = None if patch.signature == ABSENT else getattr(owner, attribute)
        made.append((owner, attribute, make(original)))
    for owner, attribute, replacement in made:
        setattr(owner, attribute, replacement)


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


def version_problems(patch: Patch) -> list[str]:
    """What is wrong with the installed version. Imports nothing of it."""
    if os.environ.get(ANY_VERSION):
        return []
    found = version(patch.library)
    if found is None:
        return [f"{patch.library}: expected version {wanted(patch)}, found not installed"]
    judged, known = _judged(found, patch.versions)
    return [] if known else [f"{patch.library}: expected version {wanted(patch)}, found {judged}"]


@functools.cache
def _judged(found: str, versions: str) -> tuple[str, bool]:
    """(an installed version as it is compared, whether it is one of `versions`)."""
    # here: a Python without our packages must come as far as the word for it
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        # "2.13.0+cpu" is 2.13.0, and "0.16.0rc0" is judged as 0.16.0 in a range, but is no pinned version
        exact = Version(found)
        judged = exact.public if versions.startswith("==") else exact.base_version
        return judged, SpecifierSet(versions).contains(judged, prereleases=True)
    except InvalidVersion:
        return found, False


def wanted(patch: Patch) -> str:
    """The versions as a person reads them."""
    return patch.versions.removeprefix("==")


def _gpu_only_problems() -> list[str]:
    return [
        f"{module}: expected none, found one ({name} runs on a GPU only, and NeMo uses it wherever it is installed)"
        for module, name in GPU_ONLY.items()
        if importlib.util.find_spec(module) is not None
    ]


def changes(patch: Patch) -> list[str]:
    """How the targets differ from what the patch was written for. Imports the library."""
    return [] if patch.signature == OWN else [text for target in patch.targets for text in _change(patch, target)]


def _change(patch: Patch, target: str) -> list[str]:
    changed = f"{patch.library} {wanted(patch)}: {target.replace(':', '.')} "
    try:
        owner, attribute = owner_of(target)
    except (ImportError, AttributeError) as error:
        return [f"{changed}has gone ({error})"]
    if not hasattr(owner, attribute):
        return [] if patch.signature == ABSENT else [f"{changed}has gone"]
    found = parameters(getattr(owner, attribute))
    start, more, _ = patch.signature.partition(f", {MORE}")
    if (
        found == patch.signature
        or (patch.signature == MORE and found != VALUE)
        or (more and f"{found}, ".startswith(f"{start}, "))
    ):
        return []
    return [f"{changed}has changed: expected ({patch.signature}), found ({found})"]
