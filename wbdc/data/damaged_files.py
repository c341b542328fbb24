"""The size limit of a video's file, and the errors that mean a damaged file."""

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
