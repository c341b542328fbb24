"""Arrays of batches: rows padded with zeros, and frames decoded where the batch needs them.

All are allocated by `_batch_memory`, in page-locked memory for a GPU.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from wbdc.core.device_copies import pinned_empty


def pad_rows(
    rows: Sequence[Sequence], shape: tuple[int, ...], dtype: np.dtype, pinned: bool
) -> Tensor:
    """Pad B rows with zeros to a shape: (B, *shape). Rows on a GPU stay there."""
    if isinstance(rows[0], Tensor):
        return pad_sequence(rows, batch_first=True)
    padded, values = _batch_memory((len(rows), *shape), dtype, pinned)
    for row, items in enumerate(rows):
        if len(items):
            values[row, : len(items)] = items
        if pinned:  # such memory is reused
            values[row, len(items) :] = 0
    return padded


class PaddedFrames(Sequence[np.ndarray]):
    """The frames of B videos, at most F each: a sequence of (n, 3, S, S) uint8 arrays.

    All are parts of one array, (B, F, 3, S, S), which becomes the batch. `space` returns the part
    of a video to decode into, and `set_count` says how many frames it holds.
    """

    def __init__(self, videos: int, frames: int, size: int, *, pinned: bool = False):
        shape = (videos, frames, 3, size, size)
        self._tensor, self._pixels = _batch_memory(shape, np.uint8, pinned)
        self._pinned = pinned
        self.counts = [0] * videos

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, video: int) -> np.ndarray:
        return self._pixels[video, : self.counts[video]]

    def space(self, video: int) -> np.ndarray:
        """Return where the frames of a video belong: (F, 3, S, S) uint8."""
        return self._pixels[video]

    def set_count(self, video: int, count: int) -> None:
        """Set the number of frames that `space` of a video holds."""
        self.counts[video] = count

    def padded(self) -> Tensor:
        """Return all frames, padded with zeros to those of the longest video: (B, n, 3, S, S).

        They are copied only if all videos have fewer than F frames.
        """
        longest = max(self.counts)
        if longest < self._pixels.shape[1]:
            return pad_rows(self, (longest, *self._pixels.shape[2:]), np.uint8, self._pinned)
        if self._pinned:
            for video, count in enumerate(self.counts):
                self._pixels[video, count:] = 0
        return self._tensor


def _batch_memory(
    shape: tuple[int, ...], dtype: np.dtype, pinned: bool
) -> tuple[Tensor, np.ndarray]:
    """Allocate a tensor, and return it with an array that shares its memory.

    It holds zeros, except in page-locked memory.
    """
    if pinned:
        tensor = pinned_empty(shape, torch.from_numpy(np.empty(0, dtype)).dtype)
        return tensor, tensor.numpy()
    array = np.zeros(shape, dtype)  # the system gives zeros, without writing them
    return torch.from_numpy(array), array
