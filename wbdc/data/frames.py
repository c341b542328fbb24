"""Frames: from the bytes of an image file to the square of uint8 pixels that a vision tower takes.

Pixels equal those of Pillow's resize (torchvision's Resize + CenterCrop), byte for byte. They are
normalized later, on the device.
"""

import io
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import simplejpeg
from PIL import Image, ImageFile

from wbdc.core.findings import Findings
from wbdc.core.image_settings import ImageSettings
from wbdc.core.out_of_memory import is_memory_short, raise_if_exhausted

MAX_PIXELS = 64_000_000  # larger images are refused by their header, before any memory is used
ImageFile.LOAD_TRUNCATED_IMAGES = False  # a truncated image is counted, not filled with gray
# Pillow refuses twice this number, before a GIF allocates memory for its first frame
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # is raised at half the limit
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# without EPS, whose reader starts another program
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "AVIF")
# the long side is cropped to this many short sides: 4000 x 2 would grow to 448,000 x 224
MAX_STRIP_RATIO = 16
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
    encoded: Sequence[bytes], settings: ImageSettings, findings: Findings, location: str = ""
) -> np.ndarray:
    """Decode frames: (n, 3, S, S) uint8, in order. Damaged frames are dropped and counted.

    location: name of the video in `findings`.
    """
    frames = [
        frame
        for number, data in enumerate(encoded)
        if (frame := decode_frame(data, settings, findings, f"{location}#{number}")) is not None
    ]
    size = settings.size
    return np.stack(frames) if frames else np.zeros((0, 3, size, size), np.uint8)


def decode_frame(
    data: bytes, settings: ImageSettings, findings: Findings, location: str = ""
) -> np.ndarray | None:
    """Decode one frame, resize it and crop its center: (3, S, S) uint8 RGB.

    A damaged frame is counted in `findings` and gives None. Empty `data` gives None; the reader of
    the archive has counted it.
    """
    if not data:
        return None
    with _count_damage(findings, location):
        image = resize_and_crop(_decode_rgb(data, findings, location), settings)
        return np.ascontiguousarray(image.transpose(2, 0, 1))


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
        if (size := _plain_jpeg_size(data)) is not None:
            pixels = simplejpeg.decode_jpeg(
                data, "GRAY", strict=True, min_width=side, min_height=side
            )
            gray = Image.fromarray(pixels[..., 0])
        else:
            gray = Image.fromarray(_decode_rgb(data, findings, location)).convert("L")
            size = gray.size
        return *size, np.asarray(gray.resize((side, side), Image.Resampling.HAMMING))


def resize_and_crop(image: np.ndarray, settings: ImageSettings) -> np.ndarray:
    """Resize the short side to `settings.short`, or to `settings.size`, and crop the center
    square: (H, W, 3) uint8 -> (S, S, 3) uint8. `settings.squash` resizes both sides to S.

    The whole image is resized, not only its center: Pillow orders its two passes by the box that it
    gets, and pixels would differ by up to 3.
    """
    height, width = image.shape[:2]
    size = settings.size
    short = min(height, width)
    new_short = settings.short or settings.size
    resampling = RESAMPLING[settings.interpolation]
    if settings.squash:
        return np.asarray(Image.fromarray(image).resize((size, size), resampling))

    if max(height, width) > MAX_STRIP_RATIO * short:
        top, left = (max(0, (side - MAX_STRIP_RATIO * short) // 2) for side in (height, width))
        image = image[top : height - top, left : width - left]
        height, width = image.shape[:2]

    if short != new_short:
        # torchvision's rule: floor, but at least the new short side
        height, width = (max(new_short, int(new_short * side / short)) for side in (height, width))
        image = np.asarray(Image.fromarray(image).resize((width, height), resampling))

    top = round((height - size) / 2)
    left = round((width - size) / 2)
    return image[top : top + size, left : left + size]


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


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
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


def _decode_rgb(data: bytes, findings: Findings, location: str) -> np.ndarray:
    """Decode an image to (H, W, 3) uint8: a plain JPEG by libjpeg-turbo, others by Pillow.

    The content decides about the format, not the file name.
    """
    if _plain_jpeg_size(data):
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:  # reads the header only
        _check_size(*image.size)
        if image.format not in ("JPEG", "MPO"):
            findings.add("frame.format", f"{location} is {image.format}")
        elif image.mode in ("RGB", "L") and _orientation(image) is None and image.format == "JPEG":
            return simplejpeg.decode_jpeg(data, "RGB", strict=True)
        return _convert_to_rgb(image)


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
