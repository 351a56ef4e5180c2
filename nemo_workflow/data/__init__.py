"""What .bin/.idx files say: sequences, tokens, splits, blends."""
