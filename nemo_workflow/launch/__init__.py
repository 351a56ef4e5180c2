"""Start the ranks, follow them, stop them."""
