"""The speech tokens of synthetic videos, as anonymized ids; and the files with which `wbdc` reads
them.

The tokens of a class depend on its sound: two classes with the same words or the same scene have
different ones, and classes of all topics share them.
"""

import numpy as np

from wbdc.prepare.demo.sounds import ONE_SEQUENCE

TOKENS_OF_A_SOUND = 20  # ids that only videos with one sound have
COMMON_TOKENS = 200  # ids of all videos
TOKENS_PER_SECOND = 2
SOUND_SHARE = 0.4  # of the tokens of a video, those of its sound
NO_SPEECH_RATE = 0.05  # videos without a file
FIRST_ID = 10_000
SPEECH_PATH = "speech/{split}/{id}.txt"  # below the folder of the data
SPEECH_CONTEST_FILE = "contest_with_speech.py"
SPEECH_KIT_FILE = "speech.toml"
SPEECH_CONTEST = f'''"""The synthetic contest with the speech tokens of each video."""

from wbdc.competitions.wechat2022 import WeChat2022


class ContestWithSpeech(WeChat2022):
    """Beside text and frames, a video may have a .txt file of tokens."""

    modalities = {{"speech": "{SPEECH_PATH}"}}
'''
SPEECH_KIT = f"""\
# Single stream with speech tokens: words, frames and tokens are one sequence.
#   wbdc prepare --data DIR/data --competition DIR/{SPEECH_CONTEST_FILE}
#   wbdc train --kit DIR/{SPEECH_KIT_FILE} --tiny --fold 0
about = "One sequence of words, frames and speech tokens through all BERT layers."
extends = "dual_stream"
competition = "./{SPEECH_CONTEST_FILE}"

{ONE_SEQUENCE}[modality.speech]
use = "word2vec"
steps = 64
"""


def draw_speech(rng: np.random.Generator, sound: int, seconds: int) -> bytes | None:
    """Return the .txt file of the speech tokens of a video with a sound; None for one without."""
    if rng.random() < NO_SPEECH_RATE:
        return None
    count = seconds * TOKENS_PER_SECOND
    first = COMMON_TOKENS + sound * TOKENS_OF_A_SOUND
    of_sound = first + rng.integers(TOKENS_OF_A_SOUND, size=count)
    common = rng.integers(COMMON_TOKENS, size=count)
    tokens = FIRST_ID + np.where(rng.random(count) < SOUND_SHARE, of_sound, common)
    return " ".join(map(str, tokens.tolist())).encode()
