"""A run as a Slurm job: its script, the checks before it is submitted, following it, and what srun starts.

`rules`, `login`, `cluster`, `jobs` and `follow` are light; only `script` and `submit` import nemo_run.
"""
