"""Resizing: from the pixels of an image to the square that a vision tower takes.

`resize_exact` gives the pixels of Pillow (torchvision's Resize + CenterCrop), byte for byte.
`resize_fast` gives those of torch's resize of 8-bit images, which rounds its weights to 16 bits
instead of 22: of a photo, about one value in 300 differs, by at most 2 of 255 levels; of a tall
image whose height Pillow resizes first, one in four.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from wbdc.core.image_settings import FAST_RESIZE, ImageSettings

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
FILTER_SUPPORT = {"bicubic": 2, "bilinear": 1}  # pixels to each side that a filter reads
# the long side is cropped to this many short sides: 4000 x 2 would grow to 448,000 x 224
MAX_STRIP_RATIO = 16
JPEG_DIVISORS = (8, 4, 2)  # by which a JPEG decoder can reduce an image faster than it decodes it
# sides of a reduced image, in sides of the resized one: at 1, pixels differ by 2 levels on average
MIN_REDUCED_RATIO = 1.5


class Geometry(NamedTuple):
    """How an image becomes a square: its size after resizing, and the first row and column of the
    square in it, in pixels.
    """

    height: int
    width: int
    first_row: int
    first_column: int


def crop_positions(crops: int) -> list[float]:
    """Return where squares lie along the long side of a frame, from 0 at its start to 1 at its end:
    the center alone, or several from end to end.
    """
    return [0.5] if crops == 1 else [number / (crops - 1) for number in range(crops)]


def plan_geometry(
    height: int, width: int, settings: ImageSettings, position: float = 0.5
) -> Geometry:
    """Return how an image of height x width pixels becomes a square.

    The short side becomes `settings.short`, or `settings.size`, and the square is its center.
    position: of the square along the long side, see `crop_positions`. `settings.squash` resizes
    both sides to `settings.size`.
    """
    size = settings.size
    if settings.squash:
        return Geometry(size, size, 0, 0)
    short = min(height, width)
    new_short = settings.short or size
    # torchvision's rule: floor, but at least the new short side
    height, width = (max(new_short, int(new_short * side / short)) for side in (height, width))
    row_position, column_position = (position, 0.5) if height > width else (0.5, position)
    first_row = round((height - size) * row_position)
    return Geometry(height, width, first_row, round((width - size) * column_position))


def jpeg_divisor(height: int, width: int, settings: ImageSettings) -> int:
    """Return by what a JPEG decoder reduces an image before it is resized: 1, 2, 4 or 8.

    Only fast resizing reduces, as long as the image stays clearly larger than the result. A photo
    then differs from the exact one by less than a level on average, and more at sharp edges.
    """
    if settings.resize != FAST_RESIZE or is_strip(height, width):
        return 1
    geometry = plan_geometry(height, width, settings)
    ratio = min(height / geometry.height, width / geometry.width)
    return next((n for n in JPEG_DIVISORS if ratio >= n * MIN_REDUCED_RATIO), 1)


def is_strip(height: int, width: int) -> bool:
    """Return whether an image is so long that its ends are cropped before it is resized."""
    return max(height, width) > MAX_STRIP_RATIO * min(height, width)


def resize_and_crop(
    pixels: np.ndarray,
    settings: ImageSettings,
    full_size: tuple[int, int],
    position: float = 0.5,
) -> np.ndarray:
    """Resize an image and crop a square: (H, W, 3) uint8 -> (S, S, 3) uint8.

    full_size: height and width before a decoder reduced it by `jpeg_divisor`. position: of the
    square, see `plan_geometry`.
    """
    if is_strip(*pixels.shape[:2]) and not settings.squash:
        pixels = _cut_strip(pixels)
        full_size = pixels.shape[:2]
    geometry = plan_geometry(*full_size, settings, position)
    if geometry[:2] == pixels.shape[:2]:
        return crop_square(pixels, geometry, settings.size)
    resize = resize_fast if settings.resize == FAST_RESIZE else resize_exact
    return resize(pixels, geometry, settings.size, settings.interpolation)


def crop_square(pixels: np.ndarray, geometry: Geometry, size: int) -> np.ndarray:
    """Crop the square of an image that has its final size already: (H, W, 3) -> (S, S, 3)."""
    return pixels[
        geometry.first_row : geometry.first_row + size,
        geometry.first_column : geometry.first_column + size,
    ]


def resize_exact(
    pixels: np.ndarray, geometry: Geometry, size: int, interpolation: str
) -> np.ndarray:
    """Resize and crop with the pixels of Pillow: (H, W, 3) uint8 -> (S, S, 3) uint8.

    Pillow resizes along one side and then along the other, and rounds to 8 bits after each. Two
    separate passes give the same bytes, and each leaves out rows or columns that the square does
    not need. Pillow's own `box` leaves out more, but rounds its corners to float32, which changes
    single values.
    """
    height, width = pixels.shape[:2]
    resampling = RESAMPLING[interpolation]
    support = FILTER_SUPPORT[interpolation]
    # what is left out of one pass is black in the other, so that the rest keeps its position
    if _is_vertical_first(height, width, geometry):
        first, last = _needed_range(width, geometry.width, geometry.first_column, size, support)
        image = Image.fromarray(pixels[:, first:last])
        image = image.resize((last - first, geometry.height), resampling)
        image = image.crop((-first, geometry.first_row, width - first, geometry.first_row + size))
        image = image.resize((geometry.width, size), resampling)
        return crop_square(np.asarray(image), geometry._replace(first_row=0), size)

    first, last = _needed_range(height, geometry.height, geometry.first_row, size, support)
    image = Image.fromarray(pixels[first:last])
    image = image.resize((geometry.width, last - first), resampling)
    image = image.crop(
        (geometry.first_column, -first, geometry.first_column + size, height - first)
    )
    image = image.resize((size, geometry.height), resampling)
    return crop_square(np.asarray(image), geometry._replace(first_column=0), size)


def resize_fast(
    pixels: np.ndarray, geometry: Geometry, size: int, interpolation: str
) -> np.ndarray:
    """Resize and crop by torch's kernel for 8-bit images: (H, W, 3) uint8 -> (S, S, 3) uint8.

    It computes in one thread. The bytes are equal on all CPUs; on one without AVX2 or NEON, it is
    slower than `resize_exact`.
    """
    import torch  # takes seconds; exact pixels are resized without it

    # torch warns of arrays that it must not change, although it does not
    image = torch.from_numpy(np.require(pixels, requirements=("C", "W")))[None]
    resized = torch.nn.functional.interpolate(
        image.permute(0, 3, 1, 2), geometry[:2], mode=interpolation, antialias=True
    )
    return crop_square(resized[0].permute(1, 2, 0).numpy(), geometry, size)


def _cut_strip(pixels: np.ndarray) -> np.ndarray:
    """Crop the long side of an image to `MAX_STRIP_RATIO` short sides around its center."""
    height, width = pixels.shape[:2]
    longest = MAX_STRIP_RATIO * min(height, width)
    row, column = (max(0, (side - longest) // 2) for side in (height, width))
    return pixels[row : height - row, column : width - column]


def _is_vertical_first(height: int, width: int, geometry: Geometry) -> bool:
    """Return whether Pillow resizes the height before the width.

    That is the rule of Pillow 13; earlier versions always resize the width first. It is applied
    with every version, so that the pixels of a submission do not depend on the one installed.
    """
    shrinks = height - geometry.height
    return shrinks > 0 and shrinks > 2 * (width - geometry.width)


def _needed_range(side: int, new_side: int, start: int, size: int, support: int) -> tuple[int, int]:
    """Return the first row of an image that a square needs, and the row after the last one; or its
    columns.

    side, new_side: of the image before and after resizing; start, size: of the square. support:
    pixels to each side that the filter reads.
    """
    scale = side / new_side
    reach = support * max(scale, 1) + 1  # one more row, against rounding
    first = math.floor((start + 0.5) * scale - reach)
    last = math.ceil((start + size - 0.5) * scale + reach)
    return max(0, first), min(side, last)
