"""Frames: from JPEG bytes to the square of uint8 pixels that a vision tower looks at.

Pixels equal those of Pillow's resize path (torchvision's Resize + CenterCrop), byte for byte; normalising waits
until they are on the device.
"""

import io
import struct
from collections.abc import Sequence

import numpy as np
import simplejpeg
from PIL import Image, ImageFile

from wbdc.core.findings import Findings
from wbdc.core.look import Look

MOST_PIXELS = 64_000_000  # larger pictures are refused by their header, before any memory is taken
ImageFile.LOAD_TRUNCATED_IMAGES = False  # half a picture is a fault to count, not gray to train on
Image.MAX_IMAGE_PIXELS = None  # our own limit speaks first
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "AVIF")  # no format whose reader starts another program, as that of EPS does
REACH = 16  # of a strip, so many short sides around its middle are resized: 4000 x 2 would grow to 448,000 x 224
ORIENTATION = 0x0112
UPRIGHT = dict(enumerate(("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"), 2))
BROKEN = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, ZeroDivisionError, MemoryError, OverflowError, TypeError, KeyError, IndexError, struct.error)


def look_at(encoded: Sequence[bytes], look: Look, findings: Findings, place: str = "") -> np.ndarray:
    """Decode what can be decoded: (n, 3, S, S) uint8, in order. Frames that cannot are dropped and counted."""
    seen = [picture for number, data in enumerate(encoded) if (picture := decode(data, look, findings, f"{place}#{number}")) is not None]
    return np.stack(seen) if seen else np.zeros((0, 3, look.size, look.size), np.uint8)


def decode(data: bytes, look: Look, findings: Findings, place: str = "") -> np.ndarray | None:
    """Decode one frame: (3, S, S) uint8 RGB, short side resized to S, centre cropped; None, and counted, when damaged."""
    if not data:
        return None  # counted where it was read
    try:
        return np.ascontiguousarray(shape(_rgb(data, findings, place), look).transpose(2, 0, 1))
    except BROKEN as error:
        findings.add("frame.damaged", f"{place}: {str(error)[:80]}")
        return None


def shape(picture: np.ndarray, look: Look) -> np.ndarray:
    """Resize the short side to look.size and cut the centre square: (H, W, 3) uint8 -> (S, S, 3) uint8."""
    height, width = picture.shape[:2]
    size, short = look.size, min(height, width)
    if max(height, width) > REACH * short:
        top, left = (max(0, (side - REACH * short) // 2) for side in (height, width))
        picture = picture[top : height - top, left : width - left]
        height, width = picture.shape[:2]
    if short != size:
        # torchvision's rule for the long side; floor, but never under the short one
        to = (size, max(size, int(size * height / width))) if width <= height else (max(size, int(size * width / height)), size)
        picture = np.asarray(Image.fromarray(picture).resize(to, RESAMPLING[look.interpolation]))
        height, width = picture.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return picture[top : top + size, left : left + size]


def _rgb(data: bytes, findings: Findings, place: str) -> np.ndarray:
    """Decode to (H, W, 3): plain JPEG through libjpeg-turbo, all else through Pillow, judged by content and not by name."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:  # reads the header only
        width, height = picture.size
        if not 0 < width * height <= MOST_PIXELS or max(width, height) > 50 * min(width, height) + 5000:
            raise ValueError(f"declares {width} x {height} pixels")
        if picture.format not in ("JPEG", "MPO"):
            findings.add("frame.format", f"{place} is {picture.format}")
        elif picture.mode in ("RGB", "L") and _orientation(picture) is None and picture.format == "JPEG":
            return simplejpeg.decode_jpeg(data, "RGB", strict=True)
        return _convert(picture)


def _orientation(picture: Image.Image) -> Image.Transpose | None:
    """Say what turns a picture upright; None when nothing does, or its EXIF block is broken: that says nothing about the pixels."""
    try:
        return Image.Transpose[UPRIGHT[picture.getexif()[ORIENTATION]]]
    except BROKEN:
        return None


def _convert(picture: Image.Image) -> np.ndarray:
    """Convert any picture to upright 8-bit RGB; 16-bit gray is scaled, not clipped; transparency lies on black."""
    picture.load()  # raises for half a picture now: asked for the EXIF block of a PNG, Pillow would load it, fail once, and be content
    if picture.mode.startswith("I"):
        gray = np.asarray(picture, np.float64)
        return np.repeat((gray / 257).clip(0, 255).round().astype(np.uint8)[..., None], 3, 2)
    if (turn := _orientation(picture)) is not None:
        picture = picture.transpose(turn)
    if "A" in picture.getbands() or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.asarray(picture.convert("RGB"))
