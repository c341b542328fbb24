"""Descriptors of frames that need no training: histograms of oriented gradients, and of colors."""

from typing import NamedTuple

import numpy as np

CLIP_GRADIENTS = 0.2  # largest entry of a normalized block (Dalal and Triggs, 2005)
BLOCK_EPSILON = 1e-4  # keeps blocks without any gradient at 0
FRAME_SETTINGS_SHAPE = {  # of what model.json holds
    "image": dict,
    "frames": int,
    "descriptor": {"cell": int, "orientations": int, "color_levels": int, "color_grid": int},
}


class DescriptorSettings(NamedTuple):
    """How frames are described.

    cell: side of a cell of gradients in pixels; orientations: bins of the directions of gradients.
    color_levels: bins of each of the three color channels; color_grid: number of rows and columns
    of regions, each with a histogram of its own.
    """

    cell: int
    orientations: int
    color_levels: int
    color_grid: int


def describe_video(frames: np.ndarray, settings: DescriptorSettings) -> np.ndarray:
    """Describe a video by the mean over its frames: (V,) float64, zeros without frames.

    frames: (n, 3, S, S) uint8 RGB; S is a multiple of the cell. The descriptors of gradients and of
    colors each have the L2 norm 1.
    """
    parts = (
        gradient_histograms(frames, settings.cell, settings.orientations),
        color_histograms(frames, settings.color_levels, settings.color_grid),
    )
    if not len(frames):
        return np.zeros(sum(part.shape[1] for part in parts))
    return np.concatenate([_normalize(part.mean(0), 0.0) for part in parts])


def descriptor_length(side: int, settings: DescriptorSettings) -> int:
    """Return V of `describe_video`. side: of the frames, in pixels."""
    return len(describe_video(np.zeros((0, 3, side, side), np.uint8), settings))


def gradient_histograms(frames: np.ndarray, cell: int, orientations: int) -> np.ndarray:
    """Return histograms of oriented gradients, HOG (Dalal and Triggs, 2005).

    frames: (n, 3, S, S) uint8. The gradient of a pixel is that of the channel in which it is the
    largest; its size is divided between the two nearest of the unsigned directions. Blocks of two
    by two cells are normalized, clipped and normalized again: (n, (k - 1)^2 * 4 * orientations)
    float64 for k = S / cell.
    """
    pixels = frames.astype(np.float64) / 255
    horizontal = np.zeros_like(pixels)
    vertical = np.zeros_like(pixels)
    horizontal[..., 1:-1] = pixels[..., 2:] - pixels[..., :-2]
    vertical[..., 1:-1, :] = pixels[..., 2:, :] - pixels[..., :-2, :]
    size = np.hypot(horizontal, vertical)
    strongest = size.argmax(1)[:, None] if len(frames) else np.zeros((0, 1, *frames.shape[2:]), int)
    horizontal, vertical, size = (
        np.take_along_axis(values, strongest, 1)[:, 0] for values in (horizontal, vertical, size)
    )
    direction = np.arctan2(vertical, horizontal) / np.pi % 1 * orientations - 0.5
    lower = np.floor(direction)
    share = direction - lower
    bins = lower.astype(int)
    cells = _cell_histograms(bins % orientations, size * (1 - share), cell, orientations)
    cells += _cell_histograms((bins + 1) % orientations, size * share, cell, orientations)

    blocks = np.concatenate(
        [cells[:, :-1, :-1], cells[:, 1:, :-1], cells[:, :-1, 1:], cells[:, 1:, 1:]], -1
    )
    clipped = np.minimum(_normalize(blocks, BLOCK_EPSILON), CLIP_GRADIENTS)
    blocks = _normalize(clipped, BLOCK_EPSILON)
    return blocks.reshape(len(frames), int(np.prod(blocks.shape[1:])))


def color_histograms(frames: np.ndarray, levels: int, grid: int) -> np.ndarray:
    """Return the square roots of the shares of each color: (n, grid^2 * levels^3) float64.

    frames: (n, 3, S, S) uint8. A color is one of `levels` values in each of three channels; each of
    grid x grid regions has a histogram of its own. Square roots keep large areas of one color from
    hiding all others (Hellinger kernel).
    """
    count, _, side, _ = frames.shape
    level = frames.astype(int) * levels // 256
    color = (level[:, 0] * levels + level[:, 1]) * levels + level[:, 2]
    region = np.arange(side) * grid // side
    colors = levels**3
    position = (np.arange(count)[:, None, None] * grid + region[:, None]) * grid + region
    entries = (position * colors + color).ravel()
    pixels = np.bincount(entries, minlength=count * grid**2 * colors)
    pixels = pixels.reshape(count, grid**2, colors)
    shares = pixels / np.maximum(1, pixels.sum(-1, keepdims=True))
    return np.sqrt(shares).reshape(count, grid**2 * colors)


def _cell_histograms(
    bins: np.ndarray, sizes: np.ndarray, cell: int, orientations: int
) -> np.ndarray:
    """Add up sizes by cell and bin: (n, S, S) twice -> (n, k, k, orientations)."""
    count, side, _ = bins.shape
    cells = side // cell
    index = np.arange(side) // cell
    position = (np.arange(count)[:, None, None] * cells + index[:, None]) * cells + index
    entries = (position * orientations + bins).ravel()
    sums = np.bincount(entries, sizes.ravel(), count * cells**2 * orientations)
    return sums.reshape(count, cells, cells, orientations)


def _normalize(values: np.ndarray, epsilon: float) -> np.ndarray:
    """Divide the last axis by its L2 norm; rows of zeros stay zeros."""
    norm = np.sqrt((values**2).sum(-1, keepdims=True) + epsilon)
    return values / np.where(norm > 0, norm, 1)
