"""Wikitext -> plain text."""
