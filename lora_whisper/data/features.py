"""Whisper's input features: the log-mel spectrogram of a window, computed a batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.audio_utils import mel_filter_bank

from lora_whisper.data.audio import SAMPLING_RATE

FFT_SAMPLES = 400  # one frame sees 25 ms
HOP_SAMPLES = 160  # frames are 10 ms apart
HIGHEST_FREQUENCY = 8_000.0  # Hz, half of the sampling rate
SMALLEST_POWER = 1e-10  # what silence counts as
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
        self.register_buffer("filters", torch.tensor(filters.T).float(), persistent=False)
        self.register_buffer("hann", torch.hann_window(FFT_SAMPLES), persistent=False)

    @torch.no_grad()
    def forward(self, waveforms: Tensor) -> Tensor:
        """(batch, samples) float32 at 16 kHz → (batch, mel_bins, window_samples / 160).

        Shorter input is padded with silence. Autocast is off: bfloat16 keeps three digits of a
        power that spans eight powers of ten.

        Raises:
            ValueError: input longer than the window.
        """
        missing_samples = self.window_samples - waveforms.shape[-1]
        if missing_samples < 0:
            raise ValueError(f"{waveforms.shape[-1]} samples in a window of {self.window_samples}")
        with torch.autocast(waveforms.device.type, enabled=False):
            padded = pad(waveforms.float(), (0, missing_samples))
            spectrum = torch.stft(
                padded, FFT_SAMPLES, HOP_SAMPLES, window=self.hann, return_complex=True
            )
            # Without `contiguous` the product below takes a slow strided path on the CPU.
            power = spectrum[..., :-1].abs().square().contiguous()
            log_power = (self.filters @ power).clamp(min=SMALLEST_POWER).log10()
            loudest = log_power.amax(dim=(1, 2), keepdim=True)
            return (torch.maximum(log_power, loudest - DYNAMIC_RANGE) + 4.0) / 4.0
