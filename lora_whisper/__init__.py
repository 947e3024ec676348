"""LoRA training for OpenAI's Whisper: adapt, merge, and prove what the adapter is worth."""

__version__ = "0.1.0"
