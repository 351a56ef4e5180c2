import os

from nemo_workflow.utils.errors import run_command

if __name__ == "__main__":
    run_command("nemo_workflow.launch.corpus.command:main_and_leave", program=os.environ.get("PREPROCESS_PROGRAM"))
