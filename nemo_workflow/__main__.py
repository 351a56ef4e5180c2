"""`python -m nemo_workflow` alone: its commands, a line each."""

from __future__ import annotations

import sys

from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import Refusal, run_command

MODULES = {
    "preprocess": "text to a dataset; preprocess_data.sh calls it",
    "tokenizer": "learn a tokenizer from your own text, or extend a model's",
    "dataset": "look into a dataset",
    "runs": "list, follow, stop and compare runs",
    "report": "write a run's report.html again",
    "sample": "continue a text with a trained model",
    "evaluate": "an exported model's loss on the samples of the run's last validation, beside NeMo's",
    "export": "a run's checkpoint to a Hugging Face folder, and to the Hub",
    "patches": "what is replaced inside torch, NeMo and the other libraries, and why",
}


def main() -> None:
    """Say what there is. Raises Refusal for words, and says how a command is called that is one of them."""
    if meant := [word for word in sys.argv[1:] if word in MODULES]:
        raise Refusal(f"{meant[0]}: each command is a module: python -m nemo_workflow.{meant[0]}")
    parser = Parser(
        prog="python -m nemo_workflow",
        usage="python -m nemo_workflow.COMMAND [--help]",
        description="Training itself: python pretrain_llm.py. Beside it, as COMMAND:",
    )
    parser.parse_args()
    print(parser.format_help().split("\n\noptions")[0].rstrip(), end="\n\n")
    for name, does in MODULES.items():
        print(f"  {name:12}{does}")


if __name__ == "__main__":
    run_command(main)
