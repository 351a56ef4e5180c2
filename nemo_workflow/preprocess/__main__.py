import os
import sys

from nemo_workflow.errors import run_command
from nemo_workflow.preprocess.command import main

if __name__ == "__main__":
    sys.argv[0] = os.environ.get("PREPROCESS_PROGRAM", "preprocess")  # the name in front of an error
    run_command(main)
