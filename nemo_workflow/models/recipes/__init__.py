"""Recipes of our own beside NeMo's, in the same form: a module with a `pretrain_recipe`."""

NAMES = ("llama_125m", "llama_350m", "llama_tiny")
