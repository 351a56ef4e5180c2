"""What every package shares; it knows nothing of runs."""
