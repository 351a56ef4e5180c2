"""Wikitext -> plain text."""

from nemo_workflow.wikipedia.wikitext.cleaner import Cleaner

__all__ = ["Cleaner"]
