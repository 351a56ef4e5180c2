import os

from nemo_workflow.errors import run_command
from nemo_workflow.preprocess.command import main

if __name__ == "__main__":
    run_command(main, program=os.environ.get("PREPROCESS_PROGRAM"))
