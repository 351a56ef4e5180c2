"""supported_model.txt, supported_config.txt and supported_model_name.txt from what is known of NeMo: `python -m tools.generate_supported`.

ckpt_conversion/list_supported_model_config.py asks the installed NeMo first, which takes a minute.
"""

from __future__ import annotations

from nemo_workflow import REPOSITORY
from nemo_workflow.conversion import supported
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import run_command


def main() -> None:
    """Write them into the project's folder."""
    Parser(prog="python -m tools.generate_supported", description="Write the lists of supported models.").parse_args()
    for line in supported.write_lists(supported.stored(), REPOSITORY):
        print(line)


if __name__ == "__main__":
    run_command(main)
