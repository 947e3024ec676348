"""What a telephone leaves of speech: a narrow band at 8 kHz, and what its codec makes of that.

The codecs are those of FFmpeg's libraries, through PyAV and in memory. On one core, 10 s of speech
take 1 ms through G.711, 45 ms through AMR and 50 ms through Opus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, cast

import av
import numpy as np
import soxr

from lora_whisper.errors import UserError
from lora_whisper.model.rates import SAMPLING_RATE

TELEPHONE_RATE = 8_000  # samples a second
TELEPHONE_BAND = (300.0, 3_400.0)  # Hz, as in ITU-T G.712


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


def require_codecs(names: Sequence[str]) -> None:
    """See that every codec can be used here.

    Raises:
        UserError: a codec that is unknown, or that the installed PyAV was built without.
    """
    available = [name for name, codec in CODECS.items() if _is_available(codec)]
    missing = [name for name in names if name not in available]
    if missing:
        raise UserError(
            f"augmentation.telephone.codecs: no codec {', '.join(missing)}; "
            f"there are {', '.join(available)}"
        )


def _is_available(codec: Codec) -> bool:
    try:
        av.Codec(codec.encoder, "w")
        av.Codec(codec.decoder, "r")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


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
    packets = [*encoder.encode(_frame(samples)), *encoder.encode(None)]
    frames = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    decoded = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])
    if decoded.dtype.kind == "i":
        decoded = decoded.astype(np.float32) / 32_768
    # Opus decodes to 48 kHz whatever went in.
    return soxr.resample(decoded, frames[0].sample_rate, TELEPHONE_RATE, quality="HQ")


def _frame(samples: np.ndarray) -> av.AudioFrame:
    integers = np.clip(np.round(samples * 32_768), -32_768, 32_767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(integers[np.newaxis], format="s16", layout="mono")
    frame.sample_rate, frame.pts = TELEPHONE_RATE, 0
    return frame


def _context(codec: str, mode: Literal["r", "w"]) -> av.AudioCodecContext:
    context = cast(av.AudioCodecContext, av.CodecContext.create(codec, mode))
    context.sample_rate, context.layout = TELEPHONE_RATE, "mono"
    return context
