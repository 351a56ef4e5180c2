"""How the tests are dealt out to pytest-xdist's processes (`make test`); without xdist they run in their own order."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nemo_workflow.backends import memory_pool
from tests.places import large, no_outside, place, shared
from tests.preprocess.fixtures import preprocess, reference, tokenizers_dir
from tests.waiting import WHOLE

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

__all__ = ["large", "no_outside", "place", "preprocess", "reference", "shared", "tokenizers_dir"]  # fixtures

# a thread of OpenMP's that waits for another gives its core to the tests beside it, instead of spinning
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# the tests start hundreds of commands, and each would compile our sources again: a third of a dry run
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# with a CUDA build of torch and nvcc, but no GPU, megatron-core's own build at import ends in an IndexError: here, and in the
# processes of the tests' own, where it fails at once with these as megatron-core expects
memory_pool.leave_out()
if not Path("/dev/nvidiactl").exists():
    os.environ |= {"TORCH_CUDA_ARCH_LIST": "9.0", "CUDA_HOME": "/nonexistent"}

# Some containers set PYTHONDONTWRITEBYTECODE: each of the hundreds of starts would compile our modules again, each pytest the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# the servers that the tests start on this machine are behind no proxy
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1", "localhost")))

# a shell's background job ignores Ctrl-C, and one under nohup SIGHUP, and so would all that the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="module", autouse=True)
def own_attention() -> Iterator[None]:
    """Megatron sets Transformer Engine's variables for each model, and fails where another module's tests have left others."""
    yield
    for name in [name for name in os.environ if name.startswith("NVTE_")]:
        del os.environ[name]


# folders whose session fixtures are made once: the end-to-end tests of preprocess share its tokenizers and its reference server
TOGETHER = ("e2e/run", "e2e/slurm", "e2e/preprocess", "preprocess", "wikipedia", "config")
# What takes longest goes first, so that no process is left with it at the end; the preprocessing before what imports torch and
# NeMo into pytest's own processes, which it forks.
FIRST = (
    "e2e/run", "e2e/slurm", "e2e/demo/test_demo", "preprocess", "e2e/conversion/test_trained_families", "e2e/versions/test_matrix",
    "e2e/parity/test_parity", "e2e/versions/test_oldest_python", "e2e/runs/test_sample", "e2e/logs/test_loggers",
    "e2e/install/test_wheel", "e2e/plan/test_recipe", "e2e/conversion/test_families", "e2e/demo/test_readme",
    "e2e/conversion/test_layouts", "importing", "config", "wikipedia",
)  # fmt: skip


# Files whose tests import torch, transformers or nemo_run into pytest's own process, for seconds and a gigabyte: one process's, so that
# the others stay small. One that is missing here costs time and nothing else.
IMPORTING = (
    "backends/cpu/test_products", "backends/gpu/test_aside", "backends/gpu/test_attention", "backends/gpu/test_optimizer_update",
    "backends/test_patching", "backends/test_vector_math", "conversion/test_buffers", "conversion/test_checks", "conversion/test_hf_config",
    "conversion/test_folder_checks", "conversion/test_vocabulary", "docs/test_readme", "launch/slurm/test_apptainer", "launch/slurm/test_script", "launch/slurm/test_script_setup_file",
    "models/test_tokenizer_files", "run_dir/test_metric_table", "utils/test_safe_pickle",
)  # fmt: skip


@pytest.fixture(autouse=True)
def torch_left_to_transformers() -> Iterator[None]:
    """A test in which preprocessing loads a tokenizer by transformers, which it does without torch, has to do so in a process of its own.

    In this one every later test would have a transformers without models.
    """
    yield
    assert os.environ.pop("USE_TORCH", None) is None, (
        "transformers was imported without torch: call the command by tests.forked"
    )


def group_of(nodeid: str) -> str:
    """What one process takes as a whole: a folder, or a file."""
    name = nodeid.partition("::")[0].removeprefix("tests/").removesuffix(".py")
    if name in IMPORTING:
        return "importing"
    folder = next((folder for folder in TOGETHER if name.startswith(f"{folder}/")), name)
    return "preprocess" if folder == "e2e/preprocess" else folder


class FailuresAtOnce:
    """Names what failed when it fails: the log of a run that is cut short has no summary."""

    def __init__(self, terminal: Any):
        self._terminal = terminal

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = str(crash.message if crash else report.longrepr).partition("\n")[0]
            self._terminal.write_line(f"\n{report.nodeid}, {report.when}, {report.duration:.0f} s: {why[:300]}")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailuresAtOnce(terminal))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(WHOLE))
    if hasattr(config, "workerinput"):  # a process of xdist's
        places = {name: place for place, name in enumerate(FIRST)}
        items.sort(key=lambda item: places.get(group_of(item.nodeid), len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """xdist's own marks for groups (xdist_group) have no effect with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return Groups(config, log)
