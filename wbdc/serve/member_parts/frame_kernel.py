"""The similarity of two videos by the descriptors of their frames."""

import numpy as np


def frame_kernel(rows: np.ndarray, centers: np.ndarray, width: float) -> np.ndarray:
    """Return exp(-d^2 / width) for the distances d of descriptors: (n, m) float64.

    rows: (n, V) float32, centers: (m, V) float32, of `describe_video`. A video without frames has a
    descriptor of zeros and is similar to no video.
    """
    distances = squared_distances(rows, centers)
    has_frames = np.outer(rows.any(1), centers.any(1))
    return np.where(has_frames, np.exp(-distances / width), 0.0)


def squared_distances(rows: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return the squared distances of (n, V) and (m, V): (n, m) float64, 0 or more."""
    lengths = (rows**2).sum(1)[:, None] + (centers**2).sum(1)
    return np.maximum(lengths - 2 * (rows @ centers.T), 0).astype(np.float64)
