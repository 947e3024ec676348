"""From a manifest on disk to the batches of one optimizer step."""
