"""Files of speech tokens: one text for each video, of tokens that white space separates."""

import numpy as np

from wbdc.competitions import Source
from wbdc.core.findings import Findings
from wbdc.core.modality_limit import MAX_STEPS
from wbdc.core.token_hashes import HASH_BYTES, hash_token
from wbdc.data.modality_files import read_modality_file, sample_steps

MAX_TOKEN_BYTES = 2**20  # of the file of one video


def read_tokens(source: Source, findings: Findings) -> np.ndarray:
    """Read the hashes of the tokens of one video: (n, 4) float16, see `hash_token`; none when the
    file holds none.

    The file is text in UTF-8; a byte order mark is ignored. Of more than MAX_STEPS tokens, so many
    are sampled by position. A file that cannot be read is counted in `findings`; a missing one is
    not.
    """
    rows = read_modality_file(source, findings, MAX_TOKEN_BYTES, _hash_tokens)
    return np.zeros((0, HASH_BYTES), np.float16) if rows is None else rows


def _hash_tokens(data: bytes) -> np.ndarray:
    tokens = np.array(data.decode("utf-8-sig").split(), object)
    hashes = [hash_token(token) for token in sample_steps(tokens, MAX_STEPS)]
    return np.array(hashes, np.float16).reshape(-1, HASH_BYTES)
