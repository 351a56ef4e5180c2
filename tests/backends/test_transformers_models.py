"""transformers' models are read once, and each caller's answer is its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.backends.transformers_models import remembered

REPOSITORY = Path(__file__).parents[2]


def test_a_folder_is_read_once_and_each_caller_may_change_its_answer(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").touch()
    read: list[str] = []

    def original(module_path: str) -> dict[str, set[str]]:
        read.append(str(module_path))
        return {"llama": {"LlamaConfig"}}

    structure = remembered(original)
    first = structure(str(tmp_path / "__init__.py"))
    first["llama"].add("other")
    assert structure(tmp_path) == {"llama": {"LlamaConfig"}} and len(read) == 1
    assert structure(tmp_path.parent) and len(read) == 2


# all that transformers offers, with the number of its models' files that were opened
OFFERED = """
import builtins, io, sys
from nemo_workflow.backends import deferred
opened, real = [], builtins.open
def counting(file, *arguments, **keywords):
    opened.append(str(file))
    return real(file, *arguments, **keywords)
if sys.argv[1] == "once":
    deferred.install("rank")
builtins.open = counting
import transformers, transformers.models, transformers.models.llama
builtins.open = real
print(sum("/models/" in name for name in opened))
for module in (transformers, transformers.models, transformers.models.llama):
    print(sorted(dir(module)), sorted(module._class_to_module.items()))
"""


@pytest.mark.slow
@pytest.mark.thorough
def test_transformers_offers_the_same() -> None:
    pytest.importorskip("transformers")
    ends = []
    for way in ("once", "plain"):
        words = [sys.executable, "-c", OFFERED, way]
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        ends.append(done.stdout.splitlines())
    assert ends[0][1:] == ends[1][1:] and 0 < int(ends[0][0]) < 0.6 * int(ends[1][0])
