"""A data set by reading sentences aloud: which one is next, is the take good, where it is kept."""
