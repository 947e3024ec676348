"""Several channels as the one that Whisper hears: their mean, unless they cancel each other.

Of a stereo recording with one plug reversed, the mean is silence; its first channel is the speech.
"""

from __future__ import annotations

import numpy as np

# Of the power that the mean of unlike channels has. Below it, two equally loud channels correlate
# by less than -0.8: what they have in common, which is the speech, is lost in their mean.
CANCELLING_SHARE = 0.2
AUDIBLE_SHARE = 0.5  # of the loudest channel's power; the first one that has so much stands in


class Mixer:
    """Makes one channel of many, a piece at a time; or takes out the one that is given."""

    def __init__(self, channel: int | None = None):
        self.channel = channel
        self._powers = np.zeros(0)  # of each channel, summed over the samples
        self._of_mean = self._of_unlike = 0.0  # the same of the mean, as it is and as expected

    def mono(self, channels: np.ndarray) -> np.ndarray:
        """(channels, samples) float32 → (samples,)."""
        count = len(channels)
        if count == 1:
            return np.asarray(channels[0])
        if self.channel is not None:
            return np.ascontiguousarray(channels[min(self.channel, count - 1)])
        mean: np.ndarray = channels.mean(axis=0, dtype=np.float32)
        powers = np.einsum("cs,cs->c", channels, channels).astype(np.float64)
        if count > len(self._powers):
            self._powers = np.pad(self._powers, (0, count - len(self._powers)))
        self._powers[:count] += powers
        self._of_mean += float(np.dot(mean, mean))
        self._of_unlike += float(powers.sum()) / count**2
        return mean

    @property
    def cancels(self) -> bool:
        """Whether most of what was mixed was lost by it."""
        return self._of_mean < CANCELLING_SHARE * self._of_unlike

    def stand_in(self) -> int:
        """The channel to take instead. Not simply the loudest: that may be another in a slice."""
        return int(np.argmax(self._powers >= AUDIBLE_SHARE * self._powers.max()))
