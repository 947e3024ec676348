"""A run from its folder to its summary: the loop and its loss, checkpoints, memory, time."""
