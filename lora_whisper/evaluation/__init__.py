"""From a model and speech to scores: decoding, normalization, error rates, comparisons."""
