"""The sounds of synthetic videos: a .wav file holds the numbers of the features."""

import io
import wave

import numpy as np

from wbdc.prepare.demo.sounds import (
    LEVEL_SCALE,
    LOWEST_TONE_HZ,
    SOUND_WIDTH,
    TONE_AMPLITUDE,
    TONE_RATIO,
    WAV_RATE,
    draw_sound,
)


def test_the_levels_of_the_tones_of_a_chord_are_the_features():
    features = np.load(io.BytesIO(draw_sound(np.random.default_rng(1), 2, 3)))
    with wave.open(io.BytesIO(draw_sound(np.random.default_rng(1), 2, 3, wav=True))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (8000, 1, 24_000)
        samples = np.frombuffer(file.readframes(24_000), "<i2") / 2**15
    tones = LOWEST_TONE_HZ * TONE_RATIO ** np.arange(SOUND_WIDTH)
    phases = np.exp(-2j * np.pi * np.arange(len(samples))[:, None] * tones / WAV_RATE)
    seconds = (samples[:, None] * phases).reshape(3, WAV_RATE, SOUND_WIDTH)
    amplitudes = 2 * np.abs(seconds.mean(1))
    levels = np.log(amplitudes / TONE_AMPLITUDE) / LEVEL_SCALE
    np.testing.assert_allclose(levels, features, atol=0.05)


def test_the_same_videos_have_no_sound_in_both_forms():
    for seed in range(60):
        forms = [draw_sound(np.random.default_rng(seed), 0, 1, wav=wav) for wav in (False, True)]
        assert (forms[0] is None) == (forms[1] is None)
