"""NeMo 2.7 with megatron-core 0.16, which took three arguments out of `get_megatron_optimizer` that NeMo still passes.

megatron-core 0.16.0 knows `config_overrides` instead, and without it leaves biases and norms out of the weight decay as
0.15 did. So NeMo's defaults may be dropped; anything else is refused as megatron-core would.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from nemo_workflow.backends.patching import replace
from nemo_workflow.backends.registry import find

DEFAULTS = {"no_weight_decay_cond": None, "scale_lr_cond": None, "lr_mult": 1.0}


def install() -> None:
    """Imports megatron-core."""
    replace(find("backends.optimizer_arguments:without_defaults"))


def without_defaults(make: Any) -> Any:
    """Drop the arguments that this megatron-core doesn't take where they say nothing."""
    gone = DEFAULTS.keys() - inspect.signature(make).parameters.keys()
    if not gone:
        return make

    @functools.wraps(make)
    def drop(*values: Any, **named: Any) -> Any:
        kept = {name: value for name, value in named.items() if name not in gone or value != DEFAULTS[name]}
        return make(*values, **kept)

    return drop
