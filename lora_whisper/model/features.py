"""Whisper's input features: the log-mel spectrogram of a window, computed a batch at a time.

What stands behind a clip that is shorter than its window is not the same in all programs.
Transformers and whisper.cpp pad the sound with silence, which the log-mel has at the bottom of its
range; openai-whisper and faster-whisper pad the log-mel with 0.0, which is in the middle of it. A
model trained with one hears the other as something new.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.audio_utils import mel_filter_bank

from lora_whisper.config import Padding
from lora_whisper.model.published import FRAMES_PER_POSITION, HOP_SAMPLES, SAMPLING_RATE

FFT_SAMPLES = 400  # one frame sees 25 ms
HIGHEST_FREQUENCY = 8_000.0  # Hz, half of the sampling rate
SMALLEST_POWER = 1e-10  # what silence counts as
SMALLEST_LOG_POWER = math.log10(SMALLEST_POWER)
DYNAMIC_RANGE = 8.0  # powers of ten below the loudest spot of the window


class LogMel(nn.Module):
    """Log-mel spectrogram, equal to Transformers' `WhisperFeatureExtractor`.

    Radford et al. 2022, https://arxiv.org/abs/2212.04356, section 2.2: 10-ms frames, Slaney's mel
    scale, and a range that hangs on the loudest spot of each window, not of the batch.
    """

    hann: Tensor
    filters: Tensor

    def __init__(self, mel_bins: int, window_seconds: float):
        super().__init__()
        self.window_samples = round(window_seconds * SAMPLING_RATE)
        filters = mel_filter_bank(
            num_frequency_bins=1 + FFT_SAMPLES // 2,
            num_mel_filters=mel_bins,
            min_frequency=0.0,
            max_frequency=HIGHEST_FREQUENCY,
            sampling_rate=SAMPLING_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        # Each twice in a row, for the real and the imaginary part of a frequency.
        doubled = torch.tensor(filters.T).float().repeat_interleave(2, dim=1)
        self.register_buffer("filters", doubled, persistent=False)
        self.bands = _bands(doubled)
        self.register_buffer("hann", torch.hann_window(FFT_SAMPLES), persistent=False)

    @torch.no_grad()
    def forward(self, waveforms: Tensor, ends: Sequence[int | None] = ()) -> Tensor:
        """(batch, samples) float32 at 16 kHz → (batch, mel_bins, window_samples / 160).

        Shorter input is padded with silence. Autocast is off: bfloat16 keeps three digits of a
        power that spans eight powers of ten.

        Args:
            ends: of each row, the frame from which on its log-mel is 0.0; None: nowhere.

        Raises:
            ValueError: input longer than the window.
        """
        missing_samples = self.window_samples - waveforms.shape[-1]
        if missing_samples < 0:
            raise ValueError(f"{waveforms.shape[-1]} samples in a window of {self.window_samples}")
        with torch.autocast(waveforms.device.type, enabled=False):
            padded = pad(waveforms.float(), (0, missing_samples))
            frames = frames_with_sound(waveforms.shape[-1])
            # On a CPU, what one clip needs stays in the caches: a batch of 16 took twice as long.
            at_once = 1 if waveforms.device.type == "cpu" else len(padded)
            mel = torch.cat([self._features(part, frames) for part in padded.split(at_once)])
        for row, end in enumerate(ends):
            if end is not None:
                mel[row, :, end:] = 0.0
        return mel

    def clip(self, waveform: Tensor, padding: Padding) -> Tensor:
        """(samples,), no more than a window's → (mel_bins, frames of the window)."""
        if padding == "sound":
            return self(waveform[None])[0]
        # Of a full window, openai-whisper's last frames see silence behind it, and no mirror.
        return self.recording(waveform, padding)[:, : self.window_samples // HOP_SAMPLES]

    @torch.no_grad()
    def recording(self, waveform: Tensor, padding: Padding) -> Tensor:
        """(samples,) of any length → (mel_bins, samples / 160 and the frames of a window more).

        As openai/whisper's `transcribe` looks at a long recording: the range hangs on the loudest
        spot of all of it, and a window of padding follows, so that one can be cut out anywhere.
        """
        frames = content_frames(len(waveform)) + self.window_samples // HOP_SAMPLES
        log_powers = waveform.new_full((len(self.filters), frames), SMALLEST_LOG_POWER).float()
        first = 0
        for part in self.log_powers([waveform]):
            log_powers[:, first : first + part.shape[1]] = part
            first += part.shape[1]
        scaled = in_range(log_powers, log_powers.amax())
        if padding == "log-mel":
            scaled[:, content_frames(len(waveform)) :] = 0.0
        return scaled

    @torch.no_grad()
    def log_powers(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """A recording in pieces, (samples,) each → log10 of its powers, as far as any sounds.

        Yields (mel_bins, frames), the frames of a window at a time: spectra take 40 times the
        memory of the samples. How the recording was divided changes no bit.
        """
        at_once, half = self.window_samples // HOP_SAMPLES, FFT_SAMPLES // 2
        needed = (at_once - 1) * HOP_SAMPLES + FFT_SAMPLES
        waiting, samples, done = self.hann.new_zeros(0), 0, 0
        for piece in pieces:
            waiting = torch.cat([waiting, piece.float()])
            if samples <= half < samples + len(piece):  # frames are centred: its mirror precedes it
                waiting = _mirrored(waiting)
            samples += len(piece)
            while samples > half and len(waiting) >= needed:
                yield self._log_powers(waiting, at_once)
                waiting, done = waiting[at_once * HOP_SAMPLES :], done + at_once
        waiting = pad(waiting, (0, self.window_samples))
        waiting = waiting if samples > half else _mirrored(waiting)
        for first in range(done, frames_with_sound(samples), at_once):
            frames = min(at_once, frames_with_sound(samples) - first)
            yield self._log_powers(waiting[(first - done) * HOP_SAMPLES :], frames)

    def _log_powers(self, centred: Tensor, frames: int) -> Tensor:
        """Of the first frames of (samples,): (mel_bins, frames)."""
        mel = centred.new_zeros(1, len(self.filters), frames)
        with torch.autocast(centred.device.type, enabled=False):
            self._mel(centred[None], mel)
        return mel.clamp_(min=SMALLEST_POWER).log10_()[0]

    def _features(self, padded: Tensor, frames: int) -> Tensor:
        """(batch, window_samples) → (batch, mel_bins, frames of the window)."""
        centred = pad(padded, (FFT_SAMPLES // 2, FFT_SAMPLES // 2), mode="reflect")
        window_frames = self.window_samples // HOP_SAMPLES
        mel = centred.new_zeros(len(padded), len(self.filters), window_frames)
        self._mel(centred, mel[:, :, :frames])
        return _scaled(mel)

    def _mel(self, centred: Tensor, mel: Tensor) -> None:
        """Fill (batch, mel_bins, frames), powers, from the first frames of (batch, samples)."""
        # As torch.stft does it, but with frames in rows, which is how the FFT goes along them.
        windowed = centred.unfold(-1, FFT_SAMPLES, HOP_SAMPLES)[:, : mel.shape[-1]] * self.hann
        # (batch, frames, 2 · frequencies): squared real and imaginary parts, side by side, whose
        # sums are the powers.
        parts = torch.view_as_real(torch.fft.rfft(windowed)).flatten(-2)
        squares = parts.square_().transpose(1, 2)
        for bins, frequencies in self.bands:
            mel[:, bins] = self.filters[bins, frequencies] @ squares[:, frequencies]


def _scaled(mel: Tensor) -> Tensor:
    """Powers (batch, mel bins, frames) → what the model sees, in place."""
    log_power = mel.clamp_(min=SMALLEST_POWER).log10_()
    return in_range(log_power, log_power.amax(dim=(1, 2), keepdim=True))


def in_range(log_power: Tensor, loudest: Tensor) -> Tensor:
    """log10 of powers → what the model sees, in place; the range hangs on the loudest of them."""
    return log_power.clamp_(min=loudest - DYNAMIC_RANGE).add_(4.0).div_(4.0)


def _mirrored(samples: Tensor) -> Tensor:
    """With what half a frame before the beginning hears: the sound behind it, backwards."""
    return torch.cat([samples[1 : FFT_SAMPLES // 2 + 1].flip(0), samples])


def _bands(filters: Tensor) -> list[tuple[slice, slice]]:
    """Neighbouring rows of (mel bins, columns), with the columns that any of them looks at.

    A filter is a narrow triangle: in 8 bands, the product takes a quarter of the time.
    """
    bands = []
    for rows in torch.arange(len(filters)).tensor_split(8):
        bins = slice(int(rows[0]), int(rows[-1]) + 1)
        columns = filters[bins].any(dim=0).nonzero()
        bands.append((bins, slice(int(columns.min()), int(columns.max()) + 1)))
    return bands


def content_frames(samples: int) -> int:
    """Frames behind which openai-whisper and faster-whisper pad the log-mel.

    `content_frames` in openai/whisper's `transcribe` and SYSTRAN/faster-whisper's.
    """
    return samples // HOP_SAMPLES


def positions_with_sound(samples: int) -> int:
    """Positions of the encoder that see anything of `samples`."""
    return math.ceil(frames_with_sound(samples) / FRAMES_PER_POSITION)


def frames_with_sound(samples: int) -> int:
    """Frames that see anything of `samples`; the rest of a window is silence."""
    return math.ceil((samples + FFT_SAMPLES // 2) / HOP_SAMPLES)
