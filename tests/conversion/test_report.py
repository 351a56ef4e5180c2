"""What a conversion's report says of logits that differ."""

from __future__ import annotations

import pytest

from nemo_workflow.conversion.report import Report


@pytest.mark.parametrize(("spread", "told"), [(3753390.25, True), (1001.0, True), (2.5, False)])
def test_logits_of_a_training_that_has_diverged(spread: float, told: bool) -> None:
    """The bound is a share of their spread, and is passed all the same: Megatron's mask is a number, which such scores are below."""
    logits = {"verdict": "different", "largest_difference": spread / 30, "allowed_difference": spread / 1000}
    report = Report(
        "nemo2 to hf", "a", "b", {"logits": logits | {"standard_deviation": spread, "argmax_agreement": 1.0}}
    )
    [said] = report.failures()
    assert said.startswith(
        f"logits differ by up to {spread / 30:.3g} where {spread / 1000:.3g} is the most that rounding explains"
    )
    assert ("a training that has diverged" in said) == told
