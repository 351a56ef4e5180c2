"""What NeMo lacks on a GPU, for its best speed and for checkpoints that hold. `install` is called in a worker before NeMo is imported, the others after.

Each part changes no result beyond rounding and stands aside where it doesn't fit.
"""

from __future__ import annotations


def install() -> None:
    """Make gradient accumulation fusion possible without Apex, and NeMo's import short. Before NeMo is imported."""
    from nemo_workflow.backends import memory_pool
    from nemo_workflow.backends.gpu import weight_gradient

    memory_pool.leave_out()
    weight_gradient.install()


def fuse_output_layer() -> None:
    """Compute output layer and cross entropy in one step; see output_layer.py. Imports megatron-core."""
    from nemo_workflow.backends.gpu import output_layer

    output_layer.install()


def fuse_elementwise() -> None:
    """SwiGLU's gradient and the rotary embedding in kernels of ours; see activation.py and rotary.py. Imports megatron-core."""
    from nemo_workflow.backends.gpu import activation, rotary

    activation.install()
    rotary.install()


def fast_attention() -> None:
    """Attention by FlashAttention 4 where it is installed and fits; see attention.py. Imports megatron-core."""
    from nemo_workflow.backends.gpu import attention

    attention.install()


def mend_checkpoints() -> None:
    """No process of a checkpoint's writers stays behind, and an offloaded optimizer's can be read. Imports megatron-core."""
    from nemo_workflow.backends import checkpoint_queue
    from nemo_workflow.backends.gpu import offloaded_optimizer

    checkpoint_queue.install()
    offloaded_optimizer.install()
