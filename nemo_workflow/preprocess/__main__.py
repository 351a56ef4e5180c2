import os
import sys

from nemo_workflow.utils.errors import run_command


def main_and_leave() -> None:
    """Everything is on disk then, and Python would take a tenth of a second to free what the tokenizer holds."""
    from nemo_workflow.launch.corpus.command import main

    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run_command(main_and_leave, program=os.environ.get("PREPROCESS_PROGRAM"))
