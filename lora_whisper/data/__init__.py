"""From any source of speech to the batches of one optimizer step; and what `check` finds in it."""
