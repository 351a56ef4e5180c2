"""Has transformers read the sources of its models once as it is imported, and not once more for each of its folders."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemo_workflow.backends.one_module import when_imported
from nemo_workflow.backends.patching import replace
from nemo_workflow.backends.registry import find
from nemo_workflow.utils.libraries import version

NAME = "transformers.utils.import_utils"


def read_once() -> None:
    """For this process, from the moment that transformers is imported; nothing is done where it has been, or isn't there."""
    if NAME not in sys.modules and version("transformers") is not None:
        when_imported(NAME, _then_remember)


def remembered(original: Any) -> Any:
    """What a folder of models holds, found once; each caller gets a copy of its own."""
    found: dict[Path, Any] = {}

    @functools.wraps(original)
    def structure(module_path: Any) -> Any:
        path = Path(module_path).resolve()
        folder = path.parent if path.is_file() else path
        if folder not in found:
            found[folder] = original(module_path)
        return copy.deepcopy(found[folder])

    return structure


def _then_remember(run: Callable[[], None]) -> None:
    run()
    replace(find("backends.transformers_models:remembered"))
