"""From recordings to texts, subtitles and word times: what a model is adapted for."""
