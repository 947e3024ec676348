"""One file per command: the only ones that know Hydra. Configuration → parts → one call."""
