"""Frame sampling, the size limit of a video's file, and the errors that mean a damaged file."""

import lzma
import struct
import tokenize
import zipfile
import zlib

MAX_FILE_BYTES = 2**30  # of one video's archive or video file

# what zipfile and numpy raise for damaged archives, found by flipping bytes; MemoryError is not
# among them, since declared sizes are checked before memory is allocated
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


def sample_frames(count: int, max_frames: int) -> list[int]:
    """Return `max_frames` of `count` positions, each the middle of an equal share of them:
    floor((i + 0.5) · count / max_frames).

    Positions are strictly increasing; all are returned when count <= max_frames. (The common
    `range(0, n, n // k)[:k]` samples a prefix only.)
    """
    if count <= max_frames:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * max_frames) for i in range(max_frames)]
