"""Frames: from the bytes of an image file to the square of uint8 pixels that a vision tower takes.

They are normalized later, on the device.
"""

import io
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import simplejpeg
from PIL import Image, ImageFile

from wbdc.core.findings import Findings
from wbdc.core.image_settings import ImageSettings
from wbdc.core.out_of_memory import is_memory_short, raise_if_exhausted
from wbdc.data.resize import crop_positions, jpeg_divisor, resize_and_crop

MAX_PIXELS = 64_000_000  # larger images are refused by their header, before any memory is used
ImageFile.LOAD_TRUNCATED_IMAGES = False  # a truncated image is counted, not filled with gray
# Pillow refuses twice this number, before a GIF allocates memory for its first frame
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # is raised at half the limit
# without EPS, whose reader starts another program
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "AVIF")
# of the memory that a thread reuses for the pixels of a JPEG: 1920 x 1080 need 6 MB
MAX_REUSED_BYTES = 2**23
THUMBNAIL_PIXELS = 32  # side of the gray thumbnail of a frame

# markers of a plain JPEG; EXIF and XMP are not among them, since they may rotate the image
SCAN_MARKER = 0xDA
SIZE_MARKERS = (0xC0, 0xC1, 0xC2)
TABLE_MARKERS = (0xC4, 0xDB, 0xDD, 0xE0, 0xEE, 0xFE)
# readers disagree on shorter segments
MIN_SEGMENT_BYTES = {0xC0: 11, 0xC1: 11, 0xC2: 11, 0xE0: 16, 0xEE: 14}
# bits, channels, sampling of all channels but the first
PLAIN_CHANNELS = ((8, 1, b""), (8, 3, b"\x11\x11"))
ORIENTATION_TAG = 0x0112
ORIENTATION_TRANSPOSES = dict(
    enumerate(
        (
            "FLIP_LEFT_RIGHT",
            "ROTATE_180",
            "FLIP_TOP_BOTTOM",
            "TRANSPOSE",
            "ROTATE_270",
            "TRANSVERSE",
            "ROTATE_90",
        ),
        2,
    )
)
DAMAGED_IMAGE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    RuntimeError,
    ArithmeticError,
    TypeError,
    LookupError,
    struct.error,
    Image.DecompressionBombError,
)
# Pillow's message for damage and for too little memory
WEBP_DECODER_ERROR = "could not create decoder object"


def decode_frames(
    encoded: Sequence[bytes],
    settings: ImageSettings,
    findings: Findings,
    location: str = "",
    out: np.ndarray | None = None,
    crops: int = 1,
) -> np.ndarray:
    """Decode frames: (n * crops, 3, S, S) uint8, in order. Damaged frames are dropped and counted.

    location: name of the video in `findings`. out: (m, 3, S, S) uint8 with m >= len(encoded) *
    crops, where the first n * crops squares are written; None: a new array. crops: squares of each
    frame, one after another, see `crop_positions`.
    """
    if out is None:
        out = np.empty((len(encoded) * crops, 3, settings.size, settings.size), np.uint8)
    count = 0
    for number, data in enumerate(encoded):
        squares = _decode_squares(data, settings, findings, f"{location}#{number}", crops)
        for square in squares:
            np.copyto(out[count], square.transpose(2, 0, 1))
            count += 1
    return out[:count]


def decode_frame(
    data: bytes, settings: ImageSettings, findings: Findings, location: str = ""
) -> np.ndarray | None:
    """Decode one frame, resize it and crop its center: (3, S, S) uint8 RGB.

    A damaged frame is counted in `findings` and gives None. Empty `data` gives None; the reader of
    the archive has counted it.
    """
    squares = _decode_squares(data, settings, findings, location)
    return squares[0].transpose(2, 0, 1).copy() if squares else None


def probe_image(
    data: bytes, findings: Findings, location: str = ""
) -> tuple[int, int, np.ndarray] | None:
    """Return the upright width and height of a frame, and a thumbnail of it as (32, 32) uint8 gray.

    A damaged frame is counted and gives None, exactly when `decode_frame` does that. Every bit of a
    JPEG is read, but only the thumbnail is transformed, which is 1.6 times as fast as decoding. The
    image is resized with a Hamming window: with a box, the thumbnails of one scene in several sizes
    differ three times as much.
    """
    if not data:
        return None
    with _count_damage(findings, location):
        side = THUMBNAIL_PIXELS
        if (size := plain_jpeg_size(data)) is not None:
            pixels = simplejpeg.decode_jpeg(
                data, "GRAY", strict=True, min_width=side, min_height=side
            )
            gray = Image.fromarray(pixels[..., 0])
        else:
            pixels, _ = _decode_rgb(data, None, findings, location)
            gray = Image.fromarray(pixels).convert("L")
            size = gray.size
        return *size, np.asarray(gray.resize((side, side), Image.Resampling.HAMMING))


def _decode_squares(
    data: bytes, settings: ImageSettings, findings: Findings, location: str, crops: int = 1
) -> list[np.ndarray]:
    """Decode one frame to squares (S, S, 3) uint8, valid until this thread decodes the next one;
    to none when it is damaged.
    """
    if not data:
        return []
    with _count_damage(findings, location):
        pixels, full_size = _decode_rgb(data, settings, findings, location)
        return [
            resize_and_crop(pixels, settings, full_size, position)
            for position in crop_positions(crops)
        ]
    return []


@contextmanager
def _count_damage(findings: Findings, location: str) -> Iterator[None]:
    """Count a damaged image instead of failing on it. Out-of-memory errors are raised."""
    try:
        yield
    except DAMAGED_IMAGE_ERRORS as error:
        raise_if_exhausted(error)
        if str(error) == WEBP_DECODER_ERROR and is_memory_short():
            raise MemoryError(WEBP_DECODER_ERROR) from error
        findings.add("frame.damaged", f"{location}: {str(error)[:80]}")


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Read width and height from the header of a plain JPEG: upright, 8 bits, gray or three
    channels. None for all other files, which Pillow reads.

    A file that is plain here is a JPEG for Pillow too. The header is a sequence of segments
    (marker, length, content) up to the first scan (ITU-T T.81, 1992, annex B).
    """
    size = None
    at = 2
    while data.startswith(b"\xff\xd8") and at + 4 <= len(data):
        lead, marker, length = struct.unpack_from(">BBH", data, at)
        if lead != 0xFF or length < MIN_SEGMENT_BYTES.get(marker, 2):
            return None
        if marker == SCAN_MARKER:
            return size and _check_size(*size)
        if marker in SIZE_MARKERS and size is None:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            if (bits, channels, data[at + 11 : at + 2 + length : 3][1:]) not in PLAIN_CHANNELS:
                return None
            size = width, height
        elif marker not in TABLE_MARKERS:
            return None
        at += 2 + length
    return None


def _check_size(width: int, height: int) -> tuple[int, int]:
    """Raise ValueError for an image that its header declares too large or too long."""
    if not 0 < width * height <= MAX_PIXELS or max(width, height) > 50 * min(width, height) + 5000:
        raise ValueError(f"declares {width} x {height} pixels")
    return width, height


class _ReusedMemory(threading.local):
    """Memory of one thread for the pixels of a JPEG.

    New memory for each image costs a tenth of decoding: the system clears its pages first.
    """

    def __init__(self) -> None:
        self.buffer = bytearray()

    def take(self, size: int) -> bytearray | None:
        """Return at least `size` bytes, None for more than `MAX_REUSED_BYTES`."""
        if size > MAX_REUSED_BYTES:
            return None
        if len(self.buffer) < size:
            self.buffer = bytearray(size)
        return self.buffer


_reused_memory = _ReusedMemory()


def _decode_jpeg(
    data: bytes, width: int, height: int, settings: ImageSettings | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode a JPEG by libjpeg-turbo, reduced as far as `settings` allow; None: not reduced.

    Returns (H, W, 3) uint8, valid until this thread decodes the next one, and the full height and
    width.
    """
    divisor = jpeg_divisor(height, width, settings) if settings else 1
    columns, rows = (-(-side // divisor) for side in (width, height))
    pixels = simplejpeg.decode_jpeg(
        data,
        "RGB",
        strict=True,
        min_width=columns,
        min_height=rows,
        min_factor=divisor,
        buffer=_reused_memory.take(3 * columns * rows),
    )
    return pixels, (height, width)


def _decode_rgb(
    data: bytes, settings: ImageSettings | None, findings: Findings, location: str
) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode an image: a plain JPEG by `_decode_jpeg`, which see, and others by Pillow.

    The content decides about the format, not the file name.
    """
    if (size := plain_jpeg_size(data)) is not None:
        return _decode_jpeg(data, *size, settings)
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:  # reads the header only
        _check_size(*image.size)
        if image.format not in ("JPEG", "MPO"):
            findings.add("frame.format", f"{location} is {image.format}")
        elif image.mode in ("RGB", "L") and _orientation(image) is None and image.format == "JPEG":
            return _decode_jpeg(data, *image.size, settings)
        pixels = _convert_to_rgb(image)
        return pixels, pixels.shape[:2]


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """Return the transposition that makes an image upright.

    None when it is upright or its EXIF block is damaged, which does not mean that the pixels are.
    """
    try:
        return Image.Transpose[ORIENTATION_TRANSPOSES[image.getexif()[ORIENTATION_TAG]]]
    except DAMAGED_IMAGE_ERRORS:
        return None


def _convert_to_rgb(image: Image.Image) -> np.ndarray:
    """Convert any image to upright 8-bit RGB: (H, W, 3) uint8.

    16-bit gray is scaled, not clipped. Transparent pixels become black.
    """
    # raises for a truncated image: `getexif` of a PNG would load it, fail once, and then succeed
    image.load()
    if image.mode.startswith("I"):
        gray = np.asarray(image, np.float64)
        return np.repeat((gray / 257).clip(0, 255).round().astype(np.uint8)[..., None], 3, 2)

    if (transposition := _orientation(image)) is not None:
        image = image.transpose(transposition)
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.asarray(image.convert("RGB"))
