"""The similarity of two videos by the descriptors of their frames."""

from typing import NamedTuple

import numpy as np
import torch


class DescribedVideos(NamedTuple):
    """n videos by their frames. descriptors: (n, V) float32, of `describe_video`; squares: (n,), of
    their lengths, which are 0 for a video without frames.
    """

    descriptors: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, descriptors: np.ndarray) -> "DescribedVideos":
        """Compute the lengths once, for descriptors that are compared often."""
        return cls(descriptors, np.einsum("ij,ij->i", descriptors, descriptors))


def frame_kernel(rows: DescribedVideos, centers: DescribedVideos, width: float) -> np.ndarray:
    """Return exp(-d^2 / width) for the distances d of n and m descriptors: (n, m) float64.

    A video without frames is similar to no video.
    """
    has_frames = np.outer(rows.squares > 0, centers.squares > 0)
    return np.where(has_frames, np.exp(-squared_distances(rows, centers) / width), 0.0)


def squared_distances(rows: DescribedVideos, centers: DescribedVideos) -> np.ndarray:
    """Return the squared distances of n and m descriptors: (n, m) float64, 0 or more."""
    lengths = rows.squares[:, None] + centers.squares
    # by torch, whose threads the commands set: those of numpy's products change their bits
    products = torch.from_numpy(rows.descriptors) @ torch.from_numpy(centers.descriptors).T
    return np.maximum(lengths - 2 * products.numpy(), 0).astype(np.float64)
