"""A corpus preprocessed by several nodes: preprocess_data.sh --executor slurm."""
