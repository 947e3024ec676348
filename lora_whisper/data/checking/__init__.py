"""What is wrong with speech: measured, found, and left out of repaired manifests."""
