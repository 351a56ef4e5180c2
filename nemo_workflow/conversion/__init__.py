"""Checkpoints between Hugging Face folders and NeMo 2 folders, tensor by tensor, proved or refused."""
