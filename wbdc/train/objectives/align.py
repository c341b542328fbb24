"""Align text, frames and their joint vector: six contrasts, with a modality dropped at random (MMA
of the second team of WeChat Big Data Challenge 2022; InfoNCE, van den Oord et al., 2018).
"""

import math

from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objective_parts.contrastive import (
    MAX_TEMPERATURE,
    MIN_CANDIDATES,
    MIN_TEMPERATURE,
    Temperature,
    pair_losses,
)
from wbdc.train.objective_parts.modalities import is_pair
from wbdc.train.objectives import Objective, masked_mean
from wbdc.train.task import Task


class Align(Objective):
    """The mean of six cross entropies over the videos of a batch: text to frames, text to joint,
    frames to joint, and back. Videos without words or without frames take no part.

    The published summary states three kinds of contrast, six losses, and a modality that is dropped
    at random. Chosen here: text and frames are means over their tokens before they attend to each
    other, from the pass that all objectives share; joint is the pooled vector of a further pass in
    which some videos lose all words or all frames, so that it must be close to the modality that it
    did not read; each of the three has a projection, and all share one temperature.

    weight: factor of this loss in the sum. drop: probability that a video loses a modality in that
    pass: its words or its frames, equally often. dim: width of the projections. temperature: the
    initial value; it is learned and stays between 0.01 and 0.5.
    """

    def __init__(
        self,
        model: VideoClassifier,
        task: Task,
        *,
        weight: float = 1.0,
        drop: float = 0.5,
        dim: int = 256,
        temperature: float = 0.07,
    ):
        super().__init__(model, task, weight=weight)
        self.check_between(0, 1, drop=drop)
        self.check_between(1, math.inf, dim=dim)
        self.check_between(MIN_TEMPERATURE, MAX_TEMPERATURE, temperature=temperature)
        self.drop = drop
        self.videos = max(MIN_CANDIDATES, task.batch_size)
        self.chance = math.log(self.videos)
        self.text = nn.Linear(model.trunk.dim, dim)
        self.frames = nn.Linear(model.trunk.dim, dim)
        self.joint = nn.Linear(model.trunk.dim, dim)
        self.temperature = Temperature(temperature)

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the videos with words and frames, or 0 when there is none."""
        text, frames = model.unimodal(batch, fused)
        dropped = drop_one_modality(original, self.draw(original, "drop"), self.drop)
        t = self.text(text.mean())
        v = self.frames(frames.mean())
        j = self.joint(model.fuse(dropped).pooled)
        temperature = self.temperature()
        is_valid = is_pair(original)
        losses = [
            pair_losses(x, y, is_valid, temperature, self.videos, original.rank_sizes)
            for x, y in ((t, v), (t, j), (v, j))
        ]
        return masked_mean(sum(losses) / len(losses), is_valid)

    def count(self, batch: Batch) -> Tensor:
        """Return the number of videos with words and frames."""
        return is_pair(batch).sum()

    def after_step(self, step: int) -> None:
        """Clamp the temperature."""
        self.temperature.clamp_()


def drop_one_modality(batch: Batch, draw: Tensor, share: float) -> Batch:
    """Mask the words of videos with draw < share / 2, and the frames of those with draw above that
    and below share.

    draw: (B,) from 0 to 1. The first token of a text stays, so that no sequence is empty.
    """
    loses_text = draw < share / 2
    loses_frames = (draw < share) & ~loses_text
    return batch.mask_modalities(loses_text, loses_frames)
