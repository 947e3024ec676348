"""A search over settings: what it tries, keeps and goes on with."""
