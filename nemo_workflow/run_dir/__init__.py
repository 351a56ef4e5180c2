"""Everything that lies in a run's folder; imports neither torch nor NeMo."""
