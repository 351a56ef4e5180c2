"""`--completion SHELL`: the script by which a shell completes the flags and their values, made by shtab from the parser."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from nemo_workflow.config import command_line
from nemo_workflow.models import catalog
from nemo_workflow.utils import gpus
from nemo_workflow.utils.errors import Refusal

SCRIPT = "pretrain_llm.py"
# shtab's script completes the command's own name; the pages call it by `python`, as zsh's completion of python does by itself
BY_PYTHON = {
    "bash": """
_by_python_NAME() {
  if (( COMP_CWORD > 1 )) && [[ ${COMP_WORDS[1]##*/} == SCRIPT ]]; then
    COMP_WORDS=("${COMP_WORDS[@]:1}")
    COMP_CWORD=$(( COMP_CWORD - 1 ))
    _shtab_NAME
  elif declare -F _python >/dev/null; then
    _python "$@"
  elif declare -F _comp_cmd_python >/dev/null; then
    _comp_cmd_python "$@"
  fi
}
# the completion of python that is there stays
if declare -F _completion_loader >/dev/null; then _completion_loader python || true; fi
complete -o bashdefault -o default -F _by_python_NAME python python3
""",
    "fish": """
function __fish_by_python_NAME
    complete -C (string replace -r '^.*SCRIPT' SCRIPT -- (commandline -cp))
end
for python in python python3
    complete -c $python -n "string match -q '*SCRIPT' -- (commandline -opc)[2]" -f -a '(__fish_by_python_NAME)'
end
""",
}


def script(shell: str) -> str:
    """The script for a shell, one spelling of each flag; raises Refusal without shtab."""
    try:
        import shtab
    except ModuleNotFoundError:
        raise Refusal("--completion: the package shtab is not installed; pip install shtab") from None
    made = command_line.parser()
    made.prog = Path(sys.argv[0]).name
    kinds = {"DIR": shtab.DIRECTORY, "FILE": shtab.FILE, "PATH": shtab.FILE}
    values = {"model_name": sorted(catalog.load()), "gpu": sorted(gpus.BY_KEY)}
    for action in made._actions:
        action.option_strings = [name for name in action.option_strings if "_" not in name]
        action.choices = values.get(action.dest, action.choices)
        if kind := kinds.get(str(action.metavar)):
            action.complete = kind  # type: ignore[attr-defined]
    name = re.sub(r"\W", "_", made.prog)
    by_python = BY_PYTHON.get(shell, "") if made.prog == SCRIPT else ""
    return str(shtab.complete(made, shell=shell)) + by_python.replace("NAME", name).replace("SCRIPT", SCRIPT)
