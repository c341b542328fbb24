"""The sound of synthetic videos: features of one vector a second, as a model of sounds extracts
them, and the files with which `wbdc` reads them.

Classes with the same words have different sounds, so sound helps where frames are missing or hard
to read. Sounds are shared by classes of all topics, so that sound alone does not suffice.
"""

import io

import numpy as np

SOUNDS = 4
SOUND_WIDTH = 8  # numbers of a vector
STEP_NOISE = 1.0  # standard deviation of each number of each second; those of a sound are 1 or -1
NO_SOUND_RATE = 0.05  # videos without a file
SOUND_CONTEST_FILE = "contest_with_sound.py"
SOUND_KIT_FILE = "sound.toml"
FEATURE_PATH = "audio/{split}/{id}.npy"  # below the folder of the data
SOUND_CONTEST = f'''"""The synthetic contest with features of the sound of each video."""

from wbdc.competitions.wechat2022 import WeChat2022


class ContestWithSound(WeChat2022):
    """Beside text and frames, a video may have a .npy file of vectors, one a second."""

    modalities = {{"audio": "{FEATURE_PATH}"}}
'''
SOUND_KIT = f"""\
# Single stream with sound: words, frames and vectors of sound are one sequence.
#   wbdc prepare --data DIR/data --competition DIR/{SOUND_CONTEST_FILE}
#   wbdc train --kit DIR/{SOUND_KIT_FILE} --tiny --fold 0
# Measured with 400 videos on one busy CPU core: 7 minutes; mean F1 .892, and .791 without audio.
about = "One sequence of words, frames and sound through all BERT layers."
extends = "dual_stream"
competition = "./{SOUND_CONTEST_FILE}"

[fusion]
use = "single_stream"

[pooling]
use = "mean_by_modality"

[tiny.fusion]
use = "single_stream"

[tiny.pooling]
use = "mean_by_modality"

[modality.audio]
use = "features"
width = {SOUND_WIDTH}
"""


def sound_codes() -> np.ndarray:
    """Return the mean vector of each sound, (SOUNDS, SOUND_WIDTH): rows of a Hadamard matrix, of
    which any two differ in half of their numbers.
    """
    numbers = range(SOUND_WIDTH)
    return np.array([[(-1) ** (i & j).bit_count() for j in numbers] for i in range(SOUNDS)])


def draw_sound(rng: np.random.Generator, sound: int, seconds: int) -> bytes | None:
    """Return the .npy file of the features of a sound, (seconds, SOUND_WIDTH) float32; None for a
    video without sound.
    """
    if rng.random() < NO_SOUND_RATE:
        return None
    noise = rng.normal(scale=STEP_NOISE, size=(seconds, SOUND_WIDTH))
    file = io.BytesIO()
    np.save(file, (sound_codes()[sound] + noise).astype(np.float32))
    return file.getvalue()
