"""The settings of a log-Mel spectrogram, as the weights of a sound tower expect it. A tower states
them; `wbdc.data.log_mel` computes the spectrogram.
"""

from typing import NamedTuple

SAMPLE_RATE = 16_000  # samples of a sound per second
WINDOW_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
FFT_SAMPLES = 512


class MelSettings(NamedTuple):
    """How a log-Mel spectrogram is computed, and divided into patches.

    frames: spectra of a patch, 100 a second. mels: bands of a spectrum. low_hz, high_hz: edges of
    the lowest and the highest band. power: of the magnitudes, 1 or 2. is_periodic: whether the Hann
    window is periodic and not symmetric. removes_mean: whether the mean of each window is
    subtracted. preemphasis: share of the sample before that is subtracted from each sample. offset,
    floor: the logarithm is log(max(x, floor) + offset). padding: log energy of what is missing from
    the last patch. mean, std: of the log energies, which become (x - mean) / std.
    """

    frames: int
    mels: int
    low_hz: float
    high_hz: float
    power: int
    is_periodic: bool
    removes_mean: bool
    preemphasis: float
    offset: float
    floor: float
    padding: float
    mean: float
    std: float

    @property
    def width(self) -> int:
        """The numbers of a patch."""
        return self.frames * self.mels
