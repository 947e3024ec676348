"""Speech from text by espeak-ng, flite and festival, and who speaks where.

A voice is written `espeak:en-us+m3`, `flite:rms` or `festival:kal_diphone`. No voice stands in
two of the groups below, and no espeak variant (a throat) of the base's stands in the others.

Debian packages: espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts.
"""

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import soundfile
from scipy.signal import resample_poly

SAMPLE_RATE_HZ = 16_000
WINDOW_SECONDS = 5.0
LONGEST_SECONDS = 4.7

BASE_ACCENTS = ("en-us", "en-gb", "en-gb-x-rp")
BASE_VARIANTS = """m1 m2 m3 m4 m5 m6 f1 f2 f3 Alex Andy Andrea Annie Denis Gene Jacky Lee Marco
Mario Michael adam antonio benjamin caleb david ed grandma john klatt klatt2 max michel pablo paul
pedro quincy rob robert sandro shelby steph travis victor zac""".split()
BASE_VOICES = tuple(
    [f"espeak:{accent}+{variant}" for accent in BASE_ACCENTS for variant in BASE_VARIANTS]
    + ["flite:kal16", "flite:rms", "flite:slt", "festival:kal_diphone"]
)
UNHEARD_VOICES = (
    "espeak:en-us-nyc+Mike",
    "espeak:en-us-nyc+f5",
    "espeak:en-gb+marcelo",
    "espeak:en-us+belinda",
    "espeak:en-gb-x-rp+norbert",
    "festival:cmu_us_slt_arctic_hts",
)
DICTATION_VOICES = (
    "espeak:en-gb-scotland+m7",
    "espeak:en-gb-scotland+f4",
    "espeak:en-gb-x-gbclan+linda",
    "espeak:en-029+Diogo",
    "espeak:en-029+anika",
    "flite:awb",
)
DICTATION_UNHEARD_VOICES = (
    "espeak:en-gb-x-gbcwmd+m8",
    "espeak:en-gb-x-gbcwmd+Alicia",
    "espeak:en-gb-x-gbclan+edward",
    "espeak:en-gb-scotland+Hugo",
    "espeak:en-029+boris",
    "festival:ked_diphone",
)


@dataclass(frozen=True)
class Delivery:
    """How a sentence is read: espeak-ng's words a minute and pitch (0–99)."""

    words_per_minute: int
    pitch: int

    @property
    def stretch(self) -> float:
        """Duration relative to the synthesiser's own."""
        return 165 / self.words_per_minute


def draw_delivery(random: Random) -> Delivery:
    """A delivery between unhurried and brisk, low and high."""
    return Delivery(random.randint(145, 205), random.randint(32, 68))


def draw_base_voice(random: Random) -> str:
    """espeak-ng in four of five sentences: it is the quickest and has the most throats."""
    share = random.random()
    engine = "espeak" if share < 0.78 else "flite" if share < 0.97 else "festival"
    return random.choice([voice for voice in BASE_VOICES if voice.startswith(engine)])


def read_out(spoken: str, voice: str, random: Random) -> np.ndarray:
    """`synthesise` in a random delivery, brisker while it is too long for the window."""
    delivery = draw_delivery(random)
    samples = synthesise(spoken, voice, delivery)
    while len(samples) > LONGEST_SECONDS * SAMPLE_RATE_HZ:
        delivery = Delivery(int(delivery.words_per_minute * 1.15), delivery.pitch)
        samples = synthesise(spoken, voice, delivery)
    return samples


def synthesise(spoken: str, voice: str, delivery: Delivery) -> np.ndarray:
    """Float samples (samples,) at 16 kHz, silence at both ends cut to 50 ms, peak 0.5."""
    engine, name = voice.split(":")
    engines = {"espeak": speak_espeak, "flite": speak_flite, "festival": speak_festival}
    samples, rate_hz = engines[engine](spoken, name, delivery)
    if rate_hz != SAMPLE_RATE_HZ:
        divisor = int(np.gcd(rate_hz, SAMPLE_RATE_HZ))
        samples = resample_poly(samples, SAMPLE_RATE_HZ // divisor, rate_hz // divisor)
    return trim(samples / max(1e-6, float(np.abs(samples).max())) * 0.5).astype(np.float32)


def trim(samples: np.ndarray, margin_seconds: float = 0.05) -> np.ndarray:
    """Cuts what is quieter than 1 % of the peak at both ends, but for the margin."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    margin_samples = int(margin_seconds * SAMPLE_RATE_HZ)
    return samples[max(0, loud[0] - margin_samples) : loud[-1] + margin_samples]


def speak_espeak(spoken: str, name: str, delivery: Delivery) -> tuple[np.ndarray, int]:
    speed, pitch = str(delivery.words_per_minute), str(delivery.pitch)
    command = ["espeak-ng", "-v", name, "-s", speed, "-p", pitch, "--stdout", spoken]
    answer = subprocess.run(command, capture_output=True, check=True)
    return np.frombuffer(answer.stdout[44:], dtype=np.int16) / 32768.0, 22_050


def speak_flite(spoken: str, name: str, delivery: Delivery) -> tuple[np.ndarray, int]:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        stretch = f"duration_stretch={delivery.stretch:.2f}"
        command = ["flite", "-voice", name, "--setf", stretch, "-t", spoken, "-o", file.name]
        subprocess.run(command, check=True)
        return soundfile.read(file.name)


def speak_festival(spoken: str, name: str, delivery: Delivery) -> tuple[np.ndarray, int]:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        setting = f"(begin (voice_{name}) (Parameter.set 'Duration_Stretch {delivery.stretch:.2f}))"
        command = ["text2wave", "-eval", setting, "-o", file.name]
        subprocess.run(command, input=spoken.encode(), check=True)
        return soundfile.read(file.name)


def phonemes(word: str) -> list[str]:
    """The word's phonemes in espeak-ng's American mnemonics, without stress."""
    command = ["espeak-ng", "-q", "-x", "--sep=_", "-v", "en-us", word]
    answer = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    marks = str.maketrans("", "", "',;%=|-!")
    return [
        part
        for part in answer.translate(marks).replace("\n", "_").replace(" ", "_").split("_")
        if part
    ]


def write_opus(path: Path, samples: np.ndarray) -> None:
    """Ogg Opus, 16 kHz mono, about 16 kbit/s."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path, samples, SAMPLE_RATE_HZ, format="OGG", subtype="OPUS", compression_level=0.96
    )
