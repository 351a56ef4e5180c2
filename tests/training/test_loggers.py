"""TensorBoard and W&B, fed as a training feeds them: killed, resumed, without a key, without a network."""

from __future__ import annotations
