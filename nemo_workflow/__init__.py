"""Pretrain language models with NVIDIA NeMo 2.0: what the commands at the top level share, a room a concern."""
