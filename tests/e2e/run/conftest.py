"""A small corpus made here, and scenarios: chains of starts that run two at a time while the tests wait for them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.run import scenarios
from tests.e2e.run.harness import REPOSITORY
from tests.waiting import WHOLE
from tools import demo

AT_A_TIME = 2  # a start uses a core for 20 s before its first step


def make_corpus(folder: Path, size: int = 500_000) -> Path:
    """tokenizer/ and dataset/ out of the standard library's sources."""
    # of fewer files, as Python 3.12 would have, none is left for the validation part of --split 900,50,50
    demo.write_corpus(folder / "data" / "text.jsonl", limit=size, least=16)
    demo.train_tokenizer(folder / "data" / "text.jsonl", folder / "tokenizer", vocabulary=512)
    subprocess.run(
        ["bash", "preprocess_data.sh", "--hf-tokenizer", folder / "tokenizer", "--data-prefix", "text",
         "--input-dir", folder / "data", "--output-dir", folder / "dataset"],
        cwd=REPOSITORY, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": ""},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def other_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("other"), size=1_500_000)


@pytest.fixture(scope="session")
def _futures(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, corpus: Path
) -> Iterator[dict[str, Future[Any]]]:
    """Every scenario that a collected test asks for, begun in the order in which they are written."""
    asked = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        futures: dict[str, Future[Any]] = {}

        def result_of(name: str) -> Any:
            return futures[name].result()

        for name, scenario in scenarios.ALL.items():
            if name in asked or any(name in scenarios.NEEDS.get(other, ()) for other in asked):
                folder = tmp_path_factory.mktemp(name)
                futures[name] = pool.submit(scenario, scenarios.Place(corpus, folder, result_of))
        yield futures
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def all_done(_futures: dict[str, Future[Any]]) -> None:
    """No scenario runs any more, whatever became of it."""
    wait(_futures.values())


# more than a minute: a fixture waits for its scenario and those begun before it, of up to nine real starts
def _fixture_for(name: str) -> Callable[..., Any]:
    @pytest.fixture(scope="session", name=name)
    def fixture(_futures: dict[str, Future[Any]]) -> Any:
        return _futures[name].result()

    return fixture


for _name in scenarios.ALL:
    globals()[f"_fixture_{_name}"] = _fixture_for(_name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test may wait for the scenarios before its own: every start among them has a limit of its own."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(WHOLE, func_only=True))
