"""Samples: reading them from any file, hearing pauses in them, and changing them."""
