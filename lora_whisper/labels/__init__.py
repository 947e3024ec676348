"""Whether transcripts belong to their clips, by a model that was not trained on them."""
