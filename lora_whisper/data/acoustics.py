"""Sounds without speech, made from nothing but a generator, for windows in which nobody speaks; and
what a telephone leaves of speech: a narrow band at 8 kHz, and what its codec makes of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Literal, cast

import av
import numpy as np
import soxr

from lora_whisper.errors import UserError
from lora_whisper.model.published import SAMPLING_RATE

SOFTEST_DBFS, LOUDEST_DBFS = -60.0, -25.0  # root mean square: a quiet room, a street outside
LOWEST_FREQUENCY = 20.0  # Hz; below it nobody hears, and brown noise would be little else
MAINS_FREQUENCIES = (50.0, 60.0)  # Hz, in Europe and in America
HUM_HARMONICS = 12
SEMITONE = 2 ** (1 / 12)
MAJOR_SCALE = (0, 2, 4, 5, 7, 9, 11)  # semitones above the key
NOTE_SECONDS = (0.15, 0.6)
BREATHS_A_SECOND = (0.2, 0.4)  # 12 to 24 a minute

TELEPHONE_RATE = 8_000  # samples a second
TELEPHONE_BAND = (300.0, 3_400.0)  # Hz, as in ITU-T G.712

Maker = Callable[[int, np.random.Generator], np.ndarray]


# ── sounds without speech ────────────────────────────────────────────────────────────────────────


def generated_noise(kind: str, samples: int, rng: np.random.Generator) -> np.ndarray:
    """One of NOISE_KINDS as (samples,) float32 at 16 kHz, below full scale.

    The level is drawn between -60 and -25 dB below full scale (root mean square).
    """
    noise = _MAKERS[kind](samples, rng)
    level_db = rng.uniform(SOFTEST_DBFS, LOUDEST_DBFS)
    rms = np.sqrt(np.mean(np.square(noise)))
    return (noise * (10 ** (level_db / 20) / rms if rms else 0.0)).astype(np.float32)


def _colored(samples: int, rng: np.random.Generator, exponent: float) -> np.ndarray:
    """Noise whose power falls as 1/f^exponent: white noise, shaped in the frequency domain."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequencies = np.fft.rfftfreq(samples, 1 / SAMPLING_RATE)
    audible = frequencies >= LOWEST_FREQUENCY
    spectrum[audible] *= frequencies[audible] ** (-exponent / 2)
    spectrum[~audible] = 0.0
    return np.fft.irfft(spectrum, samples)


def _hum(samples: int, rng: np.random.Generator) -> np.ndarray:
    """The mains and its harmonics, each at a level of its own, over a faint hiss."""
    time = np.arange(samples) / SAMPLING_RATE
    mains = rng.choice(MAINS_FREQUENCIES)
    hum = 0.01 * rng.standard_normal(samples)
    for harmonic in range(1, HUM_HARMONICS + 1):
        amplitude, phase = rng.uniform(0.3, 1.0) / harmonic, rng.uniform(0, 2 * np.pi)
        hum += amplitude * np.sin(2 * np.pi * harmonic * mains * time + phase)
    return hum


def _tones(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Plucked notes of one major scale, one to three at a time: like music, with no voice in it."""
    melody = np.zeros(samples)
    key = rng.uniform(110, 220)  # Hz
    first = 0
    while first < samples:
        length = round(rng.uniform(*NOTE_SECONDS) * SAMPLING_RATE)
        for _ in range(rng.integers(1, 4)):
            semitones = rng.choice(MAJOR_SCALE) + 12 * rng.integers(0, 3)
            note = _note(key * SEMITONE**semitones, length)
            melody[first : first + length] += note[: samples - first]
        first += length
    return melody


def _note(frequency: float, samples: int) -> np.ndarray:
    """Three harmonics that start at once and die away by 40 dB; they begin and end at zero."""
    time = np.arange(samples) / SAMPLING_RATE
    harmonics = sum(np.sin(2 * np.pi * n * frequency * time) / n**2 for n in (1, 2, 3))
    return harmonics * np.exp(-4.6 * np.arange(samples) / samples)


def _breathing(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Pink noise that swells and falls as slowly as a sleeper breathes."""
    time = np.arange(samples) / SAMPLING_RATE
    rate, phase = rng.uniform(*BREATHS_A_SECOND), rng.uniform(0, 2 * np.pi)
    swelling = 0.5 + 0.5 * np.sin(2 * np.pi * rate * time + phase)
    return (0.02 + swelling**2) * _colored(samples, rng, exponent=1.0)


_MAKERS: dict[str, Maker] = {
    "silence": lambda samples, rng: np.zeros(samples),
    "white": lambda samples, rng: rng.standard_normal(samples),
    "pink": partial(_colored, exponent=1.0),  # by 3 dB an octave: rain, wind, a crowd far off
    "brown": partial(_colored, exponent=2.0),  # by 6: traffic behind walls, a cabin
    "hum": _hum,
    "tones": _tones,
    "breathing": _breathing,
}
NOISE_KINDS = tuple(_MAKERS)


# ── telephone ────────────────────────────────────────────────────────────────────────────────────

# The codecs are those of FFmpeg's libraries, through PyAV and in memory. On one core, 10 s of
# speech take 1 ms through G.711, 45 ms through AMR and 50 ms through Opus.


@dataclass(frozen=True)
class Codec:
    """How FFmpeg names a codec's two ends, and how long speech takes through both."""

    encoder: str
    decoder: str
    bits_per_second: int | None  # None: it has only one rate
    delay_samples: int  # at 8 kHz, measured by cross-correlation; FFmpeg does not report it


CODECS = {
    "pcm_mulaw": Codec("pcm_mulaw", "pcm_mulaw", None, 0),  # G.711, American and Japanese networks
    "pcm_alaw": Codec("pcm_alaw", "pcm_alaw", None, 0),  # G.711 elsewhere
    "amr_nb": Codec("libopencore_amrnb", "amrnb", 12_200, 40),  # GSM and UMTS
    "opus": Codec("libopus", "opus", 12_000, 1),  # messengers on a thin line
}


def require_codecs() -> None:
    """See that every codec can be used here.

    Raises:
        UserError: the installed PyAV was built without one.
    """
    missing = []
    for name, codec in CODECS.items():
        try:
            av.Codec(codec.encoder, "w")
            av.Codec(codec.decoder, "r")
        except av.codec.codec.UnknownCodecError:
            missing.append(name)
    if missing:
        raise UserError(
            f"augmentation=telephone: PyAV was built without {', '.join(missing)}; "
            "type: pip install --force-reinstall av"
        )


def through_telephone(samples: np.ndarray, codec: Codec) -> np.ndarray:
    """(samples,) float32 at 16 kHz as it comes out of a telephone: as long, and not moved in time.

    Peaks beyond full scale are clipped, as the line would.
    """
    narrow = soxr.resample(_band_passed(samples), SAMPLING_RATE, TELEPHONE_RATE, quality="HQ")
    late = codec.delay_samples
    sent = np.concatenate([narrow, np.zeros(late, dtype=np.float32)])
    received = _through_codec(sent, codec)[late:]
    wide = soxr.resample(received, TELEPHONE_RATE, SAMPLING_RATE, quality="HQ")[: len(samples)]
    return np.pad(wide, (0, len(samples) - len(wide)))


def _band_passed(samples: np.ndarray) -> np.ndarray:
    """Filtered forwards and backwards, which moves nothing: -6 dB at both ends of the band."""
    from scipy.signal import butter, sosfiltfilt

    band = butter(2, TELEPHONE_BAND, "bandpass", fs=SAMPLING_RATE, output="sos")
    return sosfiltfilt(band, samples).astype(np.float32)


def _through_codec(samples: np.ndarray, codec: Codec) -> np.ndarray:
    """Encode and decode (samples,) float32 at 8 kHz; what comes out may be longer."""
    encoder, decoder = _context(codec.encoder, "w"), _context(codec.decoder, "r")
    encoder.format, encoder.time_base = "s16", Fraction(1, TELEPHONE_RATE)
    if codec.bits_per_second:
        encoder.bit_rate = codec.bits_per_second
    encoder.open()
    decoder.extradata = encoder.extradata  # says how much of its beginning Opus throws away
    integers = np.clip(np.round(samples * 32_768), -32_768, 32_767).astype(np.int16)
    sent = av.AudioFrame.from_ndarray(integers[np.newaxis], format="s16", layout="mono")
    sent.sample_rate, sent.pts = TELEPHONE_RATE, 0
    packets = [*encoder.encode(sent), *encoder.encode(None)]
    frames = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    decoded = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])
    if decoded.dtype.kind == "i":
        decoded = decoded.astype(np.float32) / 32_768
    # Opus decodes to 48 kHz whatever went in.
    return soxr.resample(decoded, frames[0].sample_rate, TELEPHONE_RATE, quality="HQ")


def _context(codec: str, mode: Literal["r", "w"]) -> av.AudioCodecContext:
    context = cast(av.AudioCodecContext, av.CodecContext.create(codec, mode))
    context.sample_rate, context.layout = TELEPHONE_RATE, "mono"
    return context
