"""The base checkpoint and the adapter on it."""
