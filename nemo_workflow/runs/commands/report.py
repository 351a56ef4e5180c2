"""`python -m nemo_workflow.report`"""

from nemo_workflow.utils.errors import run_command

if __name__ == "__main__":
    run_command("nemo_workflow.runs.report_command:main")
