"""megatron-core 0.15.3: the random number streams of model parallelism, on the CPU's generator.

Megatron keeps a named stream a kind of parallelism, so that dropout differs between tensor parallel ranks where it must and agrees
where it must. It saves and restores them around activation recompute. All of it is written against the CUDA generator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


def get_rng_state(original: Any) -> Any:
    return lambda device="cpu", clone=False, graph_safe=False: torch.get_rng_state()


def set_rng_state(original: Any) -> Any:
    return lambda new_state, device=-1, graph_safe=False: torch.set_rng_state(new_state)


def add_stream(original: Any) -> Any:
    def add(self: Any, name: str, seed: int) -> None:
        if name in self.states_ or seed in self.seeds_:
            raise ValueError(f"random stream {name} or seed {seed} exists already")
        self._is_initialized = True
        self.seeds_.add(seed)
        self.states_[name] = torch.Generator().manual_seed(seed).get_state()

    return add


def fork_stream(original: Any) -> Any:
    @contextlib.contextmanager
    def fork(self: Any, name: str = "model-parallel-rng") -> Iterator[None]:
        if name not in self.states_:
            yield
            return
        outside = torch.get_rng_state()
        torch.set_rng_state(self.states_[name])
        try:
            yield
        finally:
            self.states_[name] = torch.get_rng_state()
            torch.set_rng_state(outside)

    return fork
