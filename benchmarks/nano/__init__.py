"""The scripts that made the embedded model `nano` and its speech, which lie in the package."""

from pathlib import Path

QUICKSTART = Path(__file__).resolve().parents[2] / "lora_whisper" / "quickstart"
