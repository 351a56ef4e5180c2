"""NeMo 2.7 with megatron-core 0.16, which took three arguments out of `get_megatron_optimizer` that NeMo still passes.

megatron-core 0.16.0 knows `config_overrides` instead, and without it leaves biases and norms out of the weight decay as
0.15 did. So NeMo's defaults may be dropped; anything else is refused as megatron-core would.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

DEFAULTS = {"no_weight_decay_cond": None, "scale_lr_cond": None, "lr_mult": 1.0}


def install() -> None:
    """Drop the arguments that this megatron-core doesn't take where they say nothing. Imports megatron-core."""
    from megatron.core import optimizer

    make = optimizer.get_megatron_optimizer
    gone = DEFAULTS.keys() - inspect.signature(make).parameters.keys()
    if not gone:
        return

    @functools.wraps(make)
    def without_defaults(*values: Any, **named: Any) -> Any:
        kept = {name: value for name, value in named.items() if name not in gone or value != DEFAULTS[name]}
        return make(*values, **kept)

    optimizer.get_megatron_optimizer = without_defaults
