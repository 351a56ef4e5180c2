"""`python -m nemo_workflow` alone: its commands, a line each."""

from __future__ import annotations

import sys

from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import Refusal, run_command
from nemo_workflow.utils.meant import close_to

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
# what other tools call commands of ours
OTHERS = {
    "train pretrain finetune fit sft launch run": "python pretrain_llm.py trains",
    "list ls ps logs cancel stop show status resume": "python -m nemo_workflow.runs COMMAND looks at runs and stops them",
    "convert import from_hf to_hf": "ckpt_conversion/convert_from_hf_to_nemo2.py and convert_from_nemo2_to_hf.py convert",
    "generate inference infer chat": "python -m nemo_workflow.sample continues a text",
    "eval test validate": "python -m nemo_workflow.evaluate compares losses",
    "download": "download_example_data/download_wiki.py downloads a Wikipedia",
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
    if words := [word for word in sys.argv[1:] if not word.startswith("-")]:
        close = [f"did you mean python -m nemo_workflow.{name}?" for name in close_to(words[0], MODULES)]
        said = next((said for names, said in OTHERS.items() if words[0] in names.split()), None)
        raise Refusal(f"{words[0]}: no command; {said or (close or ['python -m nemo_workflow lists them'])[0]}")
    parser.parse_args()
    print(parser.format_help().split("\n\noptions")[0].rstrip(), end="\n\n")
    for name, does in MODULES.items():
        print(f"  {name:12}{does}")


if __name__ == "__main__":
    run_command(main)
