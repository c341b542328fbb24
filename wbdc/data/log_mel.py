"""Log-Mel spectrograms of sound in patches, the rows that a sound tower reads."""

from functools import lru_cache

import numpy as np

from wbdc.core.mel_settings import (
    FFT_SAMPLES,
    HOP_SAMPLES,
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    MelSettings,
)
from wbdc.data.frame_sampling import sample_frames
from wbdc.data.modality_files import sample_steps

FULL_SCALE = 2**15  # of int16 samples, which become -1..1
MIN_LAST_SHARE = 0.5  # a last patch with less sound is left out


def tower_rows(stored: np.ndarray, mel: MelSettings | None, steps: int) -> np.ndarray:
    """Return what a tower reads of a further modality of a video: (n, D) float16, n <= steps.

    stored: features (n, D) float16, of which `steps` are sampled by position; or, for a tower with
    the settings `mel`, samples (s,) int16.
    """
    if mel is None:
        return sample_steps(stored, steps)
    return mel_patches(stored, mel, steps)


def mel_patches(samples: np.ndarray, settings: MelSettings, steps: int) -> np.ndarray:
    """Compute the patches of a log-Mel spectrogram: (n, frames * mels) float16.

    samples: (s,) int16, 16,000 a second; no samples give no patch, and others at least one. Of more
    than `steps` patches, so many are sampled by position. A last patch is padded if half of it or
    more is sound, and else left out.
    """
    if len(samples) == 0:
        return np.zeros((0, settings.width), np.float16)
    spectra = 1 + max(0, len(samples) - WINDOW_SAMPLES) // HOP_SAMPLES
    count = max(1, int(spectra / settings.frames + MIN_LAST_SHARE))
    patches = [_mel_patch(samples, settings, i) for i in sample_frames(count, steps)]
    return np.stack(patches).astype(np.float16)


def log_mel(samples: np.ndarray, settings: MelSettings) -> np.ndarray:
    """Compute a log-Mel spectrogram, not normalized: (s,) float32 in -1..1 -> (n, mels) float32.

    n is 1 + (s - 400) // 160. Fewer than 400 samples are padded with silence.
    """
    if len(samples) < WINDOW_SAMPLES:
        samples = np.pad(samples, (0, WINDOW_SAMPLES - len(samples)))
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW_SAMPLES)[::HOP_SAMPLES]
    if settings.removes_mean:
        windows = windows - windows.mean(1, keepdims=True)
    if settings.preemphasis:
        before = np.concatenate([windows[:, :1], windows[:, :-1]], 1)
        windows = windows - np.float32(settings.preemphasis) * before
    spectrum = np.fft.rfft(windows * _hann_window(settings.is_periodic), FFT_SAMPLES)
    powers = (spectrum.real**2 + spectrum.imag**2).astype(np.float32, copy=False)
    energies = powers if settings.power == 2 else np.sqrt(powers)
    bands = energies @ mel_filters(settings.mels, settings.low_hz, settings.high_hz)
    return np.log(np.maximum(bands, np.float32(settings.floor)) + np.float32(settings.offset))


@lru_cache(maxsize=8)
def mel_filters(mels: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Return the weight of each frequency in each band, (257, mels) float32: triangles on the Mel
    scale 1127 ln(1 + f / 700), as in Kaldi and VGGish.
    """
    frequencies = _to_mel(np.arange(FFT_SAMPLES // 2 + 1) * SAMPLE_RATE / FFT_SAMPLES)
    edges = np.linspace(_to_mel(low_hz), _to_mel(high_hz), mels + 2)
    low = edges[:-2]
    center = edges[1:-1]
    high = edges[2:]
    rising = (frequencies[:, None] - low) / (center - low)
    falling = (high - frequencies[:, None]) / (high - center)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _mel_patch(samples: np.ndarray, settings: MelSettings, number: int) -> np.ndarray:
    """Return a patch of the normalized spectrogram, (frames * mels,)."""
    start = number * settings.frames * HOP_SAMPLES
    end = start + (settings.frames - 1) * HOP_SAMPLES + WINDOW_SAMPLES
    energies = log_mel(samples[start:end].astype(np.float32) / FULL_SCALE, settings)
    missing = settings.frames - len(energies)
    padded = np.pad(energies, ((0, missing), (0, 0)), constant_values=settings.padding)
    return ((padded - settings.mean) / settings.std).ravel()


def _to_mel(hertz: np.ndarray | float) -> np.ndarray:
    return 1127 * np.log1p(np.asarray(hertz) / 700)


@lru_cache
def _hann_window(is_periodic: bool) -> np.ndarray:
    window = np.hanning(WINDOW_SAMPLES + 1)[:-1] if is_periodic else np.hanning(WINDOW_SAMPLES)
    return window.astype(np.float32)
