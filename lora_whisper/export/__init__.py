"""Merged models in the formats that other programs read."""
