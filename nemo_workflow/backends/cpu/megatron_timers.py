"""megatron-core 0.15.3: no collective for an empty list of timers."""

from __future__ import annotations

import functools
from typing import Any

from nemo_workflow.backends.patching import PatchList

PATCHES = PatchList("megatron-core")


@PATCHES("megatron.core.timers:Timers.get_all_timers_string", signature="self, names, normalizer, reset, barrier")
def nothing_to_gather(original: Any) -> Any:
    """NeMo's ProgressPrinter asks for the timers on rank 0 only, and the original gathers an empty tensor over all ranks. gloo
    counts that gather, so rank 0 is one collective ahead and the next one (ModelCheckpoint.file_exists) waits for ever."""

    @functools.wraps(original)
    def get_all_timers_string(self: Any, names: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not names and not self._timers:
            return None
        return original(self, names, *args, **kwargs)

    return get_all_timers_string
