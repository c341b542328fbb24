"""Frames: from JPEG bytes to the square of uint8 pixels that a vision tower looks at.

Pixels equal those of Pillow's resize path (torchvision's Resize + CenterCrop), byte for byte;
normalising waits
until they are on the device.
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
from wbdc.core.image_transform import ImageTransform
from wbdc.core.out_of_memory import is_memory_short, raise_if_exhausted

MAX_PIXELS = 64_000_000  # larger pictures are refused by their header, before any memory is taken
ImageFile.LOAD_TRUNCATED_IMAGES = False  # half a picture is a fault to count, not gray to train on
Image.MAX_IMAGE_PIXELS = (
    MAX_PIXELS // 2
    # Pillow refuses twice as many; a GIF takes memory for its first frame before it tells us its size
)
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # said from half the limit on
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
IMAGE_FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "BMP",
    "GIF",
    "AVIF",
)  # no format whose reader starts another program, as that of EPS does
# of a strip, so many short sides around its middle are resized: 4000 x 2 would grow to 448,000 x
# 224
MAX_STRIP_RATIO = 16
THUMBNAIL_PIXELS = 32  # side of the gray thumbnail that proves a frame
SCAN_MARKER, SIZE_MARKERS, TABLE_MARKERS = (
    0xDA,
    (0xC0, 0xC1, 0xC2),
    (0xC4, 0xDB, 0xDD, 0xE0, 0xEE, 0xFE),
)  # markers of a plain JPEG; not EXIF or XMP, which may turn it
MIN_SEGMENT_BYTES = {
    0xC0: 11,
    0xC1: 11,
    0xC2: 11,
    0xE0: 16,
    0xEE: 14,
}  # bytes; of shorter ones readers think differently
PLAIN_CHANNELS = (
    (8, 1, b""),
    (8, 3, b"\x11\x11"),
)  # bits, channels, sampling of all channels but the first
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
WEBP_DECODER_ERROR = (
    "could not create decoder object"  # Pillow's words for damage and for too little memory
)


def decode_frames(
    encoded: Sequence[bytes], look: ImageTransform, findings: Findings, place: str = ""
) -> np.ndarray:
    """Decode what can be decoded: (n, 3, S, S) uint8, in order. Frames that cannot are dropped and
    counted.
    """
    seen = [
        picture
        for number, data in enumerate(encoded)
        if (picture := decode_frame(data, look, findings, f"{place}#{number}")) is not None
    ]
    return np.stack(seen) if seen else np.zeros((0, 3, look.size, look.size), np.uint8)


def decode_frame(
    data: bytes, look: ImageTransform, findings: Findings, place: str = ""
) -> np.ndarray | None:
    """Decode one frame: (3, S, S) uint8 RGB, resized and centre cropped as `shape` does; None, and
    counted, when damaged.
    """
    if not data:
        return None  # counted where it was read
    with _count_damage(findings, place):
        return np.ascontiguousarray(
            resize_and_crop(_decode_rgb(data, findings, place), look).transpose(2, 0, 1)
        )


def probe_image(
    data: bytes, findings: Findings, place: str = ""
) -> tuple[int, int, np.ndarray] | None:
    """Say what one frame is: its width and height, upright, and all of it as (32, 32) uint8 gray;
    None, and counted, exactly when `decode` does.

    A JPEG's every bit is read, for damage, but only the thumbnail is transformed: 1.6 times as fast
    as decode. Shrunk by Hamming's window: by a box,
    thumbnails of one scene in several sizes lie three times as far apart.
    """
    if not data:
        return None
    with _count_damage(findings, place):
        if (sides := _plain_jpeg_size(data)) is not None:
            gray = Image.fromarray(
                simplejpeg.decode_jpeg(
                    data,
                    "GRAY",
                    strict=True,
                    min_width=THUMBNAIL_PIXELS,
                    min_height=THUMBNAIL_PIXELS,
                )[..., 0]
            )
        else:
            gray = Image.fromarray(_decode_rgb(data, findings, place)).convert("L")
            sides = gray.size
        return *sides, np.asarray(
            gray.resize((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.HAMMING)
        )


def resize_and_crop(picture: np.ndarray, look: ImageTransform) -> np.ndarray:
    """Resize the short side to look.short, or look.size, and cut the centre square of look.size:
    (H, W, 3) uint8 -> (S, S, 3) uint8.

    All of it is resized, not only what the centre shows: Pillow orders its two passes by the box it
    is given, and pixels would differ by up to 3.
    """
    height, width = picture.shape[:2]
    size, short, to = look.size, min(height, width), look.short or look.size
    if max(height, width) > MAX_STRIP_RATIO * short:
        top, left = (max(0, (side - MAX_STRIP_RATIO * short) // 2) for side in (height, width))
        picture = picture[top : height - top, left : width - left]
        height, width = picture.shape[:2]
    if short != to:
        height, width = (
            max(to, int(to * side / short)) for side in (height, width)
        )  # torchvision's rule: floor, but never under the short side
        picture = np.asarray(
            Image.fromarray(picture).resize((width, height), RESAMPLING[look.interpolation])
        )
    top, left = round((height - size) / 2), round((width - size) / 2)
    return picture[top : top + size, left : left + size]


@contextmanager
def _count_damage(findings: Findings, place: str) -> Iterator[None]:
    """Count a damaged picture instead of failing on it. Raises what says that memory ran out."""
    try:
        yield
    except DAMAGED_IMAGE_ERRORS as error:
        raise_if_exhausted(error)
        if str(error) == WEBP_DECODER_ERROR and is_memory_short():
            raise MemoryError(WEBP_DECODER_ERROR) from error
        findings.add("frame.damaged", f"{place}: {str(error)[:80]}")


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Read width and height from the header of a plain JPEG: upright, 8 bits, gray or three
    channels; None for all that Pillow shall judge.

    Whatever is plain here is a JPEG for Pillow too: marker, length, content, up to the first scan
    (ITU-T T.81, 1992, annex B).
    """
    sides, at = None, 2
    while data.startswith(b"\xff\xd8") and at + 4 <= len(data):
        lead, marker, length = struct.unpack_from(">BBH", data, at)
        if lead != 0xFF or length < MIN_SEGMENT_BYTES.get(marker, 2):
            return None
        if marker == SCAN_MARKER:
            return sides and _check_size(*sides)
        if marker in SIZE_MARKERS and sides is None:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            if (bits, channels, data[at + 11 : at + 2 + length : 3][1:]) not in PLAIN_CHANNELS:
                return None
            sides = width, height
        elif marker not in TABLE_MARKERS:
            return None
        at += 2 + length
    return None


def _check_size(width: int, height: int) -> tuple[int, int]:
    """Refuse a picture by the size that its header declares, before any memory is taken."""
    if not 0 < width * height <= MAX_PIXELS or max(width, height) > 50 * min(width, height) + 5000:
        raise ValueError(f"declares {width} x {height} pixels")
    return width, height


def _decode_rgb(data: bytes, findings: Findings, place: str) -> np.ndarray:
    """Decode to (H, W, 3): plain JPEG through libjpeg-turbo, all else through Pillow, judged by
    content and not by name.
    """
    if _plain_jpeg_size(data):
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as picture:  # reads the header only
        _check_size(*picture.size)
        if picture.format not in ("JPEG", "MPO"):
            findings.add("frame.format", f"{place} is {picture.format}")
        elif (
            picture.mode in ("RGB", "L")
            and _orientation(picture) is None
            and picture.format == "JPEG"
        ):
            return simplejpeg.decode_jpeg(data, "RGB", strict=True)
        return _convert_to_rgb(picture)


def _orientation(picture: Image.Image) -> Image.Transpose | None:
    """Say what turns a picture upright; None when nothing does, or its EXIF block is broken: that
    says nothing about the pixels.
    """
    try:
        return Image.Transpose[ORIENTATION_TRANSPOSES[picture.getexif()[ORIENTATION_TAG]]]
    except DAMAGED_IMAGE_ERRORS:
        return None


def _convert_to_rgb(picture: Image.Image) -> np.ndarray:
    """Convert any picture to upright 8-bit RGB; 16-bit gray is scaled, not clipped; transparency
    lies on black.
    """
    # raises for half a picture now: asked for the EXIF block of a PNG, Pillow would load it, fail
    # once, and be content
    picture.load()
    if picture.mode.startswith("I"):
        gray = np.asarray(picture, np.float64)
        return np.repeat((gray / 257).clip(0, 255).round().astype(np.uint8)[..., None], 3, 2)
    if (turn := _orientation(picture)) is not None:
        picture = picture.transpose(turn)
    if "A" in picture.getbands() or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.asarray(picture.convert("RGB"))
