"""Mixup: train on mixtures of two videos and of their labels (Zhang et al., 2018)."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.plug import check_choice
from wbdc.core.tokens import Tokens
from wbdc.train.task import Task
from wbdc.train.tricks import BatchLoss, Outcome, Trick

MIXED_PARTS = ("pooled", "tokens", "frames")
MIXUP_QUANTILES = 1025


class Mixup(Trick):
    """Each video becomes (1 - s) of itself and s of another video of its batch, and so does its
    label; s is the smaller part of a number from the distribution Beta(alpha, alpha).

    Pixels and token ids are not mixed, but vectors (manifold mixup; Verma et al., 2019; for texts
    Guo et al., 2019), so the vision tower runs once. Partners are drawn on each GPU apart. A video
    is not mixed when it or its partner has no label.

    on: "pooled", the input of the head; "tokens", embedded words and frames, position by position,
    before the fusion; "frames", of these the frames only. alpha: 1 gives even shares, smaller
    numbers shares near 0.

    Raises UsageFault for an alpha that is not positive, and for an unknown part.
    """

    mixes_videos = True

    def __init__(self, model: nn.Module, task: Task, *, on: str = "pooled", alpha: float = 0.2):
        super().__init__(model, task)
        check_choice("trick 'mixup'", MIXED_PARTS, on=on)
        if not 0 < alpha < math.inf:
            raise UsageFault(f"trick 'mixup': alpha = {alpha:g}; it must be above 0")
        self.on = on
        self.classes = len(task.classes)
        self.quantiles = minor_share_quantiles(alpha)

    def change_batch(self, batch: Batch) -> Batch:
        """Return the batch with mixed labels, as `soft_label`."""
        labels = label_probabilities(batch, self.classes)
        return replace(batch, soft_label=mix_rows(labels, *self._draw(batch)))

    def wrap_loss(self, loss: BatchLoss) -> BatchLoss:
        """Return a loss that mixes what its batches become in the model."""

        def mixed_loss(batch: Batch) -> Outcome:
            with self._mixing(*self._draw(batch)):
                return loss(batch)

        return mixed_loss

    def _draw(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Draw the partner of each video, (B,) int64, and the partner's share, (B,) float."""
        order, share = self.draw(batch, "mixup", 2).unbind(1)
        partners = next_in_order(order)
        is_labeled = batch.is_labeled()
        shares = interpolate_quantiles(self.quantiles.to(share.device, non_blocking=True), share)
        return partners, torch.where(is_labeled & is_labeled[partners], shares, 0.0)

    @contextmanager
    def _mixing(self, partners: Tensor, shares: Tensor) -> Iterator[None]:
        """Mix the input of the head or of the fusion in a block."""

        def mix_pooled(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            return (mix_rows(inputs[0], partners, shares),)

        def mix_sequences(module: nn.Module, inputs: tuple[Tokens, Tokens]) -> tuple:
            text, frames = inputs
            if self.on == "tokens":
                text = mix_tokens(text, partners, shares)
            return text, mix_tokens(frames, partners, shares)

        with ExitStack() as stack:
            if self.on == "pooled":
                hook = self.model.head.register_forward_pre_hook(mix_pooled)
            else:
                hook = self.model.fusion.register_forward_pre_hook(mix_sequences)
            stack.callback(hook.remove)
            yield


def mix_rows(x: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """Return (1 - share) of each row of x, (B, ...), and the share of its partner's row."""
    weights = shares.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
    return torch.lerp(x, x.index_select(0, partners), weights)


def mix_tokens(tokens: Tokens, partners: Tensor, shares: Tensor) -> Tokens:
    """Mix sequences position by position; padding counts as zeros. A position is real where that
    of the video is, or that of a partner with a share.
    """
    x = tokens.x.masked_fill(~tokens.real.unsqueeze(-1), 0)
    has_share = (shares > 0).view(-1, *[1] * (tokens.mask.dim() - 1))
    mask = tokens.mask | (tokens.mask[partners] & has_share)
    return Tokens(mix_rows(x, partners, shares), mask)


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


def minor_share_quantiles(alpha: float, count: int = MIXUP_QUANTILES) -> Tensor:
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
