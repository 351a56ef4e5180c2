"""--max-restarts: the ranks come back by themselves from the newest checkpoint, and not for ever."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_workflow.run_dir.run import RunFolder


@pytest.mark.e2e
def test_a_killed_rank_comes_back_and_the_run_is_as_if_it_had_not_been(restarts: Any, two_ranks: Any) -> None:
    assert restarts.once.code == 0, restarts.once.output
    assert "rank 1 was ended by SIGKILL, after step 5; restart 1 of 2 from step 4" in restarts.once.output
    assert restarts.history == two_ranks.history
    ends = [start["end"] for start in RunFolder(restarts.run.folder).starts()]
    assert "restart 1 of 2" in ends[0] and ends[1:] == ["finished"]


@pytest.mark.e2e
def test_a_rank_that_dies_at_the_same_step_again_ends_the_run(restarts: Any) -> None:
    code, output = restarts.twice.code, restarts.twice.output
    assert code == 1 and output.count("restart 1 of 2") == 1 and "restart 2 of 2" not in output
    assert "no further restart (--max-restarts 2): no checkpoint was saved since the last restart" in output
    assert "rank 1 was ended by SIGKILL" in output.splitlines()[-1]
