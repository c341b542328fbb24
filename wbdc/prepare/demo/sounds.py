"""The sound of synthetic videos: features of one vector a second, as a model of sounds extracts
them, or .wav files; and the files with which `wbdc` reads them.

Classes with the same words have different sounds, and so have classes with the same scene. So sound
helps where frames or text are missing or hard to read. Each sound is that of many classes, so it
does not suffice.
"""

import io
import wave

import numpy as np

SOUNDS = 8
SOUND_WIDTH = 8  # numbers of a vector; SOUNDS at least
STEP_NOISE = 1.0  # standard deviation of each number of each second; those of a sound are 1 or -1
NO_SOUND_RATE = 0.05  # videos without a file
# a .wav file holds a chord: the level of each tone is a number of the vector of its second
WAV_RATE = 8000
LOWEST_TONE_HZ = 200
TONE_RATIO = 1.5  # of neighboring tones; the highest has 3,417 Hz
TONE_AMPLITUDE = 0.01  # of a tone whose number is 0; full scale is 1
LEVEL_SCALE = 0.7  # amplitudes are TONE_AMPLITUDE * exp(LEVEL_SCALE * number)
SOUND_CONTEST_FILE = "contest_with_sound.py"
SOUND_KIT_FILE = "sound.toml"
FEATURE_PATH = "audio/{split}/{id}.npy"  # below the folder of the data
WAV_PATH = "audio/{split}/{id}.wav"
SOUND_CONTEST = '''"""The synthetic contest with CONTENT of the sound of each video."""

from wbdc.competitions.wechat2022 import WeChat2022


class ContestWithSound(WeChat2022):
    """Beside text and frames, a video may have FILE."""

    modalities = {"audio": "PATH"}
'''
SOUND_CONTESTS = {  # by whether the sound is in .wav files
    False: SOUND_CONTEST.replace("CONTENT", "features")
    .replace("FILE", "a .npy file of vectors, one a second")
    .replace("PATH", FEATURE_PATH),
    True: SOUND_CONTEST.replace("CONTENT of the sound", "a .wav file")
    .replace("FILE", "a .wav file of its sound")
    .replace("PATH", WAV_PATH),
}
# of a kit: words, frames and a further modality are one sequence
ONE_SEQUENCE = """\
[fusion]
use = "single_stream"

[pooling]
use = "mean_by_modality"

[tiny.fusion]
use = "single_stream"

[tiny.pooling]
use = "mean_by_modality"

"""
SOUND_KIT = f"""\
# Single stream with sound: words, frames and vectors of sound are one sequence.
#   wbdc prepare --data DIR/data --competition DIR/{SOUND_CONTEST_FILE}
#   wbdc train --kit DIR/FILE --tiny --fold 0
MEASUREDabout = "One sequence of words, frames and sound through all BERT layers."
extends = "dual_stream"
competition = "./{SOUND_CONTEST_FILE}"

{ONE_SEQUENCE}[modality.audio]
TOWER"""
FEATURES_TOWER = f"""\
use = "features"
width = {SOUND_WIDTH}
"""
VGGISH_TOWER = """\
use = "vggish"

[tiny.modality.audio]
pretrained = false
steps = 8
channels = 8
hidden = 128
dim = 64
"""
AST_TOWER = """\
use = "ast"
model = "MIT/ast-finetuned-audioset-10-10-0.4593"

[tiny.modality.audio]
use = "ast"
frames = 96
steps = 8

[tiny.modality.audio.architecture]
hidden_size = 64
num_hidden_layers = 2
num_attention_heads = 2
intermediate_size = 128
num_mel_bins = 64
frequency_stride = 16
time_stride = 16
"""
FEATURES_COST = """\
# Measured with 400 videos on one CPU core: five folds in 6 minutes; mean F1
# .916 and .912 with two seeds, and .767 and .823 without audio.
"""
# the tower and the cost of each kit, by whether the sound is in .wav files
SOUND_KITS = {
    False: {SOUND_KIT_FILE: (FEATURES_TOWER, FEATURES_COST)},
    True: {"vggish.toml": (VGGISH_TOWER, ""), "ast.toml": (AST_TOWER, "")},
}


def sound_kits(wav: bool) -> dict[str, str]:
    """Return the kits for a contest with sound, by the name of the file."""
    return {
        name: SOUND_KIT.replace("FILE", name).replace("MEASURED", cost).replace("TOWER", tower)
        for name, (tower, cost) in SOUND_KITS[wav].items()
    }


def sound_codes() -> np.ndarray:
    """Return the mean vector of each sound, (SOUNDS, SOUND_WIDTH): rows of a Hadamard matrix, of
    which any two differ in half of their numbers.
    """
    numbers = range(SOUND_WIDTH)
    return np.array([[(-1) ** (i & j).bit_count() for j in numbers] for i in range(SOUNDS)])


def draw_sound(
    rng: np.random.Generator, sound: int, seconds: int, *, wav: bool = False
) -> bytes | None:
    """Return the .npy file of the features of a sound, (seconds, SOUND_WIDTH) float32, or the .wav
    file of its chord; None for a video without sound.
    """
    if rng.random() < NO_SOUND_RATE:
        return None
    noise = rng.normal(scale=STEP_NOISE, size=(seconds, SOUND_WIDTH))
    features = (sound_codes()[sound] + noise).astype(np.float32)
    if wav:
        return _encode_chord(features)
    file = io.BytesIO()
    np.save(file, features)
    return file.getvalue()


def _encode_chord(levels: np.ndarray) -> bytes:
    """Encode a chord of eight tones as .wav. levels: of each tone in each second, (seconds, 8)."""
    times = np.arange(len(levels) * WAV_RATE) / WAV_RATE
    tones = LOWEST_TONE_HZ * TONE_RATIO ** np.arange(SOUND_WIDTH)
    amplitudes = np.repeat(TONE_AMPLITUDE * np.exp(LEVEL_SCALE * levels), WAV_RATE, axis=0)
    chord = (amplitudes * np.sin(2 * np.pi * times[:, None] * tones)).sum(1)
    samples = (chord.clip(-1, 1) * 32767).round().astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(WAV_RATE)
        writer.writeframes(samples.tobytes())
    return file.getvalue()
