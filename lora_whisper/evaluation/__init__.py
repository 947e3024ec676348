"""Decoding with the real `generate`, text normalization, error rates and their intervals."""
