"""Audio as Whisper hears it."""

SAMPLING_RATE = 16_000  # samples a second, of every Whisper checkpoint
