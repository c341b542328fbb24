"""What is stored of a further modality of a video, whatever its files hold."""

import numpy as np

from wbdc.competitions import Source
from wbdc.core.findings import Findings
from wbdc.data.modality_files import read_modality
from wbdc.data.sound_files import read_sound
from wbdc.data.token_files import read_tokens


def read_modality_rows(
    content: str, source: Source, findings: Findings, width: int | None = None
) -> np.ndarray:
    """Read features, (n, D) float16; hashes of tokens, (n, 4) float16; or samples of sound, (n,)
    int16.

    content: of `modality_content`. width: D that is expected of features; None for any.
    """
    if content == "sound":
        return read_sound(source, findings)
    if content == "tokens":
        return read_tokens(source, findings)
    return read_modality(source, findings, width)
