"""--max-restarts: the ranks come back by themselves from the newest checkpoint, and not for ever."""

from __future__ import annotations

from typing import Any

import pytest

from nemo_workflow.run_dir.run import RunFolder


@pytest.mark.e2e
def test_a_killed_rank_comes_back_and_the_run_is_as_if_it_had_not_been(kills_on_two_ranks: Any, two_ranks: Any) -> None:
    output = kills_on_two_ranks.last.output
    assert "rank 1 was ended by SIGKILL, after step 5; restart 1 of 2 from step 4" in output
    assert "was ended by SIGKILL, as the kernel does when memory runs out" in output
    assert "restart 2 of 2 from step 8" in output
    assert kills_on_two_ranks.history == two_ranks.history
    ends = [start["end"] for start in RunFolder(kills_on_two_ranks.run.folder).starts()]
    assert "restart 1 of 2" in ends[-3] and "restart 2 of 2" in ends[-2] and ends[-1] == "finished"


@pytest.mark.e2e
def test_a_rank_that_dies_at_the_same_step_again_ends_the_run(unlike_cpus: Any) -> None:
    output = unlike_cpus.output
    assert output.count("restart 1 of 2") == 1 and "restart 2 of 2" not in output
    assert "no further restart (--max-restarts 2): no checkpoint was saved since the last restart" in output
    assert "rank 1 was ended by SIGKILL" in output.splitlines()[-1]
