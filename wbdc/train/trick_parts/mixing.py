"""Partners and shares of videos that are mixed, and the labels of mixtures."""

import math

import numpy as np
import torch
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault

SHARE_QUANTILES = 1025


def check_alpha(trick: str, alpha: float) -> None:
    """Raise UsageFault for an alpha that no distribution Beta(alpha, alpha) has.

    trick: its name, for the message.
    """
    if not 0 < alpha < math.inf:
        raise UsageFault(f"trick {trick!r}: alpha = {alpha:g}; it must be above 0")


def draw_partners(numbers: Tensor, can_mix: Tensor, quantiles: Tensor) -> tuple[Tensor, Tensor]:
    """Return the partner of each video, (B,) int64, and the partner's share, (B,) float: 0 unless
    both can be mixed.

    numbers: (B, 2) uniform; can_mix: (B,) bool; quantiles: of `minor_share_quantiles`.
    """
    order, share = numbers.unbind(1)
    partners = next_in_order(order)
    shares = interpolate_quantiles(quantiles.to(share.device, non_blocking=True), share)
    return partners, torch.where(can_mix & can_mix[partners], shares, 0.0)


def mix_rows(x: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """Return (1 - share) of each row of x, (B, ...), and the share of its partner's row."""
    weights = shares.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
    return torch.lerp(x, x.index_select(0, partners), weights)


def label_probabilities(batch: Batch, classes: int) -> Tensor:
    """Return the soft label of each video, or else 1 for its label: (B, C) float32; zeros for a
    video without a label.
    """
    hard = torch.zeros(len(batch), classes, device=batch.text.device)
    if batch.label is not None:
        labels = batch.label.unsqueeze(1)
        hard = hard.scatter(1, labels.clamp(min=0), (labels >= 0).float())
    if batch.soft_label is None:
        return hard
    has_soft_label = batch.soft_label.sum(1, keepdim=True) > 0
    return torch.where(has_soft_label, batch.soft_label.float(), hard)


def next_in_order(numbers: Tensor) -> Tensor:
    """Return for each of B numbers the position of the next larger one; of the largest, that of
    the smallest: a permutation without fixed points if B > 1.
    """
    order = numbers.argsort()
    return torch.empty_like(order).scatter_(0, order, order.roll(-1))


def minor_share_quantiles(alpha: float, count: int = SHARE_QUANTILES) -> Tensor:
    """Return the smaller of x and 1 - x for x from Beta(alpha, alpha), at `count` probabilities
    with equal distances from 0 to 1: (count,) float32, from 0 to 0.5.
    """
    # x = u ** (1 / alpha) turns the density, which may be infinite at 0, into a smooth one of u
    u = np.linspace(0, 0.5**alpha, 100_001)
    density = (1 - u ** (1 / alpha)) ** (alpha - 1)
    areas = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    probabilities = np.linspace(0, 1, count)
    return torch.from_numpy(np.interp(probabilities, areas / areas[-1], u) ** (1 / alpha)).float()


def interpolate_quantiles(quantiles: Tensor, probabilities: Tensor) -> Tensor:
    """Return the quantiles at probabilities from 0 to 1, linearly between those of a table."""
    positions = probabilities * (len(quantiles) - 1)
    lower = positions.long().clamp(max=len(quantiles) - 2)
    return torch.lerp(quantiles[lower], quantiles[lower + 1], positions - lower)


def partner_frames(frames: Tensor, mask: Tensor, partners: Tensor) -> Tensor:
    """Return for each frame of B videos that of the partner at the same part of its time.

    frames: (B, F, ...); mask: (B, F) bool, real frames first. Frame i of n has the partner's frame
    floor(i * m / n) of m.
    """
    counts = mask.sum(1)
    positions = torch.arange(frames.shape[1], device=frames.device)
    sources = positions * counts[partners, None] // counts.clamp(min=1)[:, None]
    sources = sources.clamp(max=max(frames.shape[1] - 1, 0))
    return frames[partners[:, None], sources]
