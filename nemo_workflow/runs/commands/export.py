"""`python -m nemo_workflow.export`"""

from nemo_workflow.utils.errors import run_command

if __name__ == "__main__":
    run_command("nemo_workflow.runs.export:main")
