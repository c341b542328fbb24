"""Mixup: train on mixtures of two videos and of their labels (Zhang et al., 2018)."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.plug import check_choice
from wbdc.core.tokens import Tokens
from wbdc.train.task import Task
from wbdc.train.trick_parts.mixing import (
    check_alpha,
    draw_partners,
    label_probabilities,
    minor_share_quantiles,
    mix_rows,
)
from wbdc.train.tricks import BatchLoss, Outcome, Trick

MIXED_PARTS = ("pooled", "tokens", "frames")


class Mixup(Trick):
    """Each video becomes (1 - s) of itself and s of another video of its batch, and so does its
    label; s is the smaller part of a number from the distribution Beta(alpha, alpha).

    Pixels and token ids are not mixed, but vectors (manifold mixup; Verma et al., 2019; for texts
    Guo et al., 2019), so the vision tower runs once. Partners are drawn on each GPU apart. A video
    is not mixed when it or its partner has no label.

    on: "pooled", the input of the head; "tokens", embedded words, frames and further modalities,
    position by position, before the fusion; "frames", of these the frames only. alpha: 1 gives even
    shares, smaller numbers shares near 0.

    Raises UsageFault for an alpha that is not positive, and for an unknown part.
    """

    mixes_videos = True

    def __init__(self, model: nn.Module, task: Task, *, on: str = "pooled", alpha: float = 0.2):
        super().__init__(model, task)
        check_choice("trick 'mixup'", MIXED_PARTS, on=on)
        check_alpha("mixup", alpha)
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
        return draw_partners(self.draw(batch, "mixup", 2), batch.is_labeled(), self.quantiles)

    @contextmanager
    def _mixing(self, partners: Tensor, shares: Tensor) -> Iterator[None]:
        """Mix the input of the head or of the fusion in a block."""

        def mix_pooled(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            return (mix_rows(inputs[0], partners, shares),)

        def mix_sequences(module: nn.Module, inputs: tuple[Tokens, ...]) -> tuple[Tokens, ...]:
            text, frames, *modalities = inputs
            frames = mix_tokens(frames, partners, shares)
            if self.on == "tokens":
                text = mix_tokens(text, partners, shares)
                modalities = [mix_tokens(tokens, partners, shares) for tokens in modalities]
            return text, frames, *modalities

        with ExitStack() as stack:
            if self.on == "pooled":
                hook = self.model.head.register_forward_pre_hook(mix_pooled)
            else:
                hook = self.model.fusion.register_forward_pre_hook(mix_sequences)
            stack.callback(hook.remove)
            yield


def mix_tokens(tokens: Tokens, partners: Tensor, shares: Tensor) -> Tokens:
    """Mix sequences position by position; padding counts as zeros. A position is real where that
    of the video is, or that of a partner with a share.
    """
    x = tokens.x.masked_fill(~tokens.real.unsqueeze(-1), 0)
    has_share = (shares > 0).view(-1, *[1] * (tokens.mask.dim() - 1))
    mask = tokens.mask | (tokens.mask[partners] & has_share)
    return Tokens(mix_rows(x, partners, shares), mask)
