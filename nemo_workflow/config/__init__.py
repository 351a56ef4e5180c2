"""Flags -> one typed run configuration, or every problem at once."""
