"""`python -m nemo_workflow.dataset`"""

from nemo_workflow.utils.errors import run_command

if __name__ == "__main__":
    run_command("nemo_workflow.preprocess.inspect_dataset:main")
