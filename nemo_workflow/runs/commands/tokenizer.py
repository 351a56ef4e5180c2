"""`python -m nemo_workflow.tokenizer`"""

from nemo_workflow.utils.errors import run_command

if __name__ == "__main__":
    run_command("nemo_workflow.preprocess.train_tokenizer:main")
