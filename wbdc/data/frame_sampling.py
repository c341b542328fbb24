"""What is read of a video's file: how much of it at most, which frames, and which faults are the
file's own.
"""

import lzma
import struct
import tokenize
import zipfile
import zlib

MAX_FILE_BYTES = 2**30  # bytes of one video's archive or clip

# all that zipfile and numpy raise on archives of strangers, as found by flipping their bytes;
# MemoryError is not among them: what a file declares is checked before memory is taken for it
DAMAGED_FILE_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    ValueError,
    OverflowError,
    IndexError,
)


def sample_frames(count: int, most: int) -> list[int]:
    """Choose `most` of `count` positions, each in the middle of its share: floor((i + .5) · count /
    most).

    Strictly increasing; all of them when count <= most. (The field's `range(0, n, n // k)[:k]`
    takes a prefix.)
    """
    return (
        list(range(count))
        if count <= most
        else [(2 * i + 1) * count // (2 * most) for i in range(most)]
    )
