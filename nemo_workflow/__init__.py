"""Pretrain a language model with NVIDIA NeMo 2.0: plan, train, resume, convert."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parent

# `python -m nemo_workflow.dataset` and its kin: the commands that are not a package of their own
__path__.append(str(PACKAGE / "runs" / "commands"))
