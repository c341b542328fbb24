"""Log-Mel spectrograms: those of transformers, and the patches that a tower reads."""

import numpy as np
import pytest
from transformers import ASTFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from wbdc.core.mel_settings import MelSettings
from wbdc.data.log_mel import log_mel, mel_filters, mel_patches, tower_rows
from wbdc.nets.modality.ast import ast_mel as ast_settings
from wbdc.nets.modality.vggish import vggish_mel as vggish_settings

VGGISH = vggish_settings(96, 64)
AST = ast_settings(1024, 128)
FRAME_SAMPLES = 160


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Return a chord with noise, (n,) int16."""
    times = np.arange(round(seconds * 16_000)) / 16_000
    chord = sum(np.sin(2 * np.pi * hertz * times) for hertz in (220, 1330, 5000))
    noise = np.random.default_rng(seed).normal(scale=0.02, size=len(times))
    return ((0.2 * chord * (1 + np.sin(5 * times)) / 2 + noise) * 2**15).astype(np.int16)


def waveform(samples: np.ndarray) -> np.ndarray:
    return samples.astype(np.float32) / 2**15


@pytest.mark.parametrize(
    ("settings", "scale"), [(VGGISH, "htk"), (VGGISH, "kaldi"), (AST, "kaldi")]
)
def test_the_filters_are_those_of_transformers(settings, scale):
    expected = mel_filter_bank(
        257,
        settings.mels,
        settings.low_hz,
        settings.high_hz,
        16_000,
        norm=None,
        mel_scale=scale,
        triangularize_in_mel_space=True,
    )
    filters = mel_filters(settings.mels, settings.low_hz, settings.high_hz)
    np.testing.assert_allclose(filters, expected, atol=2e-6)


def test_vggish_takes_the_logarithm_of_magnitudes():
    samples = waveform(sound(1.5))
    magnitudes = spectrogram(
        samples,
        window_function(400, "hann", periodic=True),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=1.0,
        center=False,
        mel_filters=mel_filter_bank(
            257, 64, 125, 7500, 16_000, mel_scale="htk", triangularize_in_mel_space=True
        ),
        mel_floor=0.0,
    )
    computed = log_mel(samples, VGGISH)
    assert computed.shape == (148, 64)
    np.testing.assert_allclose(computed, np.log(magnitudes.T + 0.01), atol=1e-4)


@pytest.mark.parametrize("seconds", [3.0, 10.255, 12.0])
def test_a_patch_is_what_the_feature_extractor_of_ast_returns(seconds):
    samples = sound(seconds)
    expected = ASTFeatureExtractor()(waveform(samples), 16_000, return_tensors="np").input_values[0]
    short = AST._replace(frames=1024)
    patch = mel_patches(samples, short, 1)[0].reshape(1024, 128)
    np.testing.assert_allclose(patch, expected, atol=2e-3)  # float16


def test_vggish_patches_are_cut_from_one_spectrogram():
    samples = sound(3.0)
    whole = log_mel(waveform(samples), VGGISH)
    patches = mel_patches(samples, VGGISH, 32)
    assert (patches.shape, patches.dtype) == ((3, 96 * 64), np.float16)
    np.testing.assert_allclose(patches[:2].reshape(-1, 64), whole[:192], atol=4e-3)


SMALL = VGGISH._replace(frames=4, mels=8)


@pytest.mark.parametrize(
    ("spectra", "patches"), [(1, 1), (2, 1), (4, 1), (5, 1), (6, 2), (9, 2), (10, 3), (12, 3)]
)
def test_a_last_patch_needs_half_of_its_sound(spectra, patches):
    samples = sound(1.0)[: 240 + FRAME_SAMPLES * spectra]
    rows = mel_patches(samples, SMALL, 32).reshape(-1, 8)
    assert len(rows) == 4 * patches
    padding = rows[spectra:]
    np.testing.assert_allclose(padding, np.log(0.01), atol=2e-3)
    assert (rows[:spectra] > np.log(0.01) + 0.01).all()


def test_of_many_patches_some_are_sampled_by_position():
    samples = sound(2.0)
    every = mel_patches(samples, SMALL, 256)
    assert len(every) == 50
    assert np.array_equal(mel_patches(samples, SMALL, 2), every[[12, 37]])


def test_a_single_sample_gives_a_patch_and_none_gives_none():
    assert mel_patches(np.ones(1, np.int16), SMALL, 5).shape == (1, 32)
    empty = mel_patches(np.zeros(0, np.int16), SMALL, 5)
    assert (empty.shape, empty.dtype) == ((0, 32), np.float16)


@pytest.mark.parametrize("peak", [-(2**15), 2**15 - 1])
@pytest.mark.parametrize("settings", [VGGISH, AST._replace(frames=64)], ids=["vggish", "ast"])
def test_the_loudest_sound_and_silence_are_finite(settings: MelSettings, peak):
    loud = np.where(np.arange(16_000) // 40 % 2, peak, -peak).clip(-(2**15), 2**15 - 1)
    for samples in (loud, np.zeros(16_000), np.full(16_000, peak)):
        assert np.isfinite(mel_patches(samples.astype(np.int16), settings, 8)).all()


def test_a_tower_reads_patches_of_sound_and_rows_of_features():
    samples = sound(1.0)
    assert np.array_equal(tower_rows(samples, SMALL, 3), mel_patches(samples, SMALL, 3))
    features = np.arange(8, dtype=np.float16).reshape(4, 2)
    assert tower_rows(features, None, 2).tolist() == [[2, 3], [6, 7]]
