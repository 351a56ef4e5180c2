"""A Wikipedia as clean JSON Lines: find the dump, fetch it, take the text out of it."""
