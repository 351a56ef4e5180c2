"""Convert a Hugging Face model to a NeMo 2 checkpoint. The work is in nemo_workflow.conversion."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nemo_workflow.utils.errors import run_command

if __name__ == "__main__":
    run_command("nemo_workflow.conversion.command:import_main")
