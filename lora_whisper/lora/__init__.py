"""An adapter's life: what it is, how it begins, is kept, found and folded into its base."""
