"""The base checkpoint: its files, vocabulary, log-mel and weights, quantized or not."""
