"""What NeMo lacks on a GPU for its best speed. `install` is called in a worker before NeMo is imported.

Each part changes no result beyond rounding and stands aside where it doesn't fit.
"""

from __future__ import annotations


def install() -> None:
    """Make gradient accumulation fusion possible without Apex. NeMo looks for it when it is imported."""
    from nemo_workflow.gpu_backend import weight_gradient

    weight_gradient.install()
