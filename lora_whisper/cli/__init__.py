"""The command line: a file for each command, and what composes and starts them."""
