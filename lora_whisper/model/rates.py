"""Rates that every Whisper checkpoint shares; neither torch nor Transformers is needed for them."""

SAMPLING_RATE = 16_000  # samples a second
HOP_SAMPLES = 160  # frames are 10 ms apart
SECONDS_PER_TIMESTAMP = 0.02  # one position of the encoder
