"""What an unknown flag was meant for."""

from __future__ import annotations

import pytest

from nemo_workflow.utils.meant import called, close_to, meant

OURS = (
    "-TP",
    "--lr",
    "--max-steps",
    "--output",
    "--output-dir",
    "--model-name",
    "--dry-run",
    "--context-parallel-size",
    "--adam-beta2",
)
OTHERS = called(
    {"--lr": "learning-rate optimizer.rate", "--max-steps": "train-iters"}, {"dp data-parallel-size": "it follows"}
)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--learning-rate", "did you mean --lr?"),
        ("--Learning-Rate", "did you mean --lr?"),
        ("--lerning-rate", "did you mean --lr?"),
        ("--dp", "it follows"),
        ("--data-paralel-size", "it follows"),  # nearer to that than to --context-parallel-size
        ("-tp", "did you mean -TP?"),
        ("--max-step", "did you mean --max-steps?"),
        ("--out", "did you mean --output?"),
        ("--dry", "did you mean --dry-run?"),
        ("--schedule.learning-rate", "did you mean --lr?"),
        ("--training.max-steps", "did you mean --max-steps?"),
        ("--model", "did you mean --model-name?"),
        ("--", ""),
        ("--nonsense", ""),
        ("--xp", ""),
        ("--dpo", ""),
        ("--context-parallel2-size", ""),
        ("--adam-beta3", ""),
        ("--adam-betas2", "did you mean --adam-beta2?"),
    ],
)
def test_what_is_said_to_a_flag(flag: str, said: str) -> None:
    assert meant(flag, OURS, OTHERS) == said


def test_guesses_much_further_off_than_the_nearest_are_left_out() -> None:
    assert close_to("abcdf", ["abcde", "abcdeghi", "zz"]) == ["abcde"]
    assert close_to("abcd", ["abcx", "abcy"]) == ["abcy", "abcx"] and close_to("q", ["abc"]) == []


@pytest.mark.parametrize(
    "flag",
    ["--hf-token", "--hftoken", "--hf-tok", "--hub-token", "--hf-hub-token", "--hf-auth", "--token", "--HF-TOKENS"],
)
def test_a_secret_is_led_to_no_flag(flag: str) -> None:
    """It would be typed as a tokenizer, or a source, and printed."""
    said = meant(flag, ["--hf-tokenizer", "--tokenizer", "--source", "--tokens-per-line"], {})
    assert said == "a token of the Hub is read from the environment's HF_TOKEN"
    assert meant("--token", ["--tokens", "--tokenizer"], {}) == "did you mean --tokens?"
