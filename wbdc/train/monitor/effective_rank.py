"""Effective rank: how many directions embeddings use (RankMe; Garrido et al., 2023)."""

import numpy as np

EPSILON = 1e-7  # as in the paper


def effective_rank(embeddings: np.ndarray) -> float:
    """Return the exponential of the entropy of the normalized singular values, from 1 to min(n, D).

    embeddings: (n, D), not centered. Equal vectors have rank 1; NaN if a number is not finite.
    Equations 1 and 2 of "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised
    Representations by Their Rank".
    """
    if not np.isfinite(embeddings).all():
        return float("nan")
    values = np.linalg.svd(embeddings.astype(np.float64), compute_uv=False)
    shares = values / (values.sum() + EPSILON) + EPSILON
    return float(np.exp(-(shares * np.log(shares)).sum()))
