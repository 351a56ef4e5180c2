"""For developers: the demo and the generators. Not part of what a run copies."""
