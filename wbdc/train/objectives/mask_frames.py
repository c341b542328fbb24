"""Predict masked frames from the other frames and the text (masked frame modeling, MFM; HERO, Li et
al., 2020).
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.tokens import Fused
from wbdc.nets.model import VideoClassifier
from wbdc.train.objective_parts.candidates import candidate_losses
from wbdc.train.objective_parts.contrastive import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    cosine_logits,
    whole_batch_positions,
)
from wbdc.train.objective_parts.frame_rows import (
    frame_means,
    fused_frames,
    gather_frames,
    which_frames,
)
from wbdc.train.objectives import Objective, masked_mean
from wbdc.train.task import Task

LOSSES = ("nce", "regression")
FILLS = ("learned", "zero")
INITIAL_DEVIATION = 0.02  # of weights, as in BERT


class MaskFrames(Objective):
    """Hides whole frames after the vision tower, and predicts their features: (B, F, D) to
    (B, F, vision.dim).

    With loss "nce", a predicted vector must find its frame among all real frames of the batch, of
    all ranks, by cosine ("HERO: Hierarchical Encoder for Video+Language Omni-representation
    Pre-training"). The loss of a batch is scaled so that its chance level is ln(videos of a batch *
    frames of a video), however many frames are real. With "regression", it is the mean squared
    error of the feature, normalized to mean 0 and variance 1 (as the pixels of MAE; He et al.,
    2022); its chance level, of a prediction of zeros, is 1.

    Targets have no gradient, so that a trained tower cannot make them easy. A frame with several
    vectors is hidden as a whole, and its mean is predicted.

    share: probability of hiding each real frame. loss: "nce", choose the frame among all frames of
    the batch, or "regression", predict its feature. fill: what replaces the features of a hidden
    frame: "learned", a trained vector, or "zero". temperature: divisor of the cosines of "nce".

    Raises UsageFault for settings that do not exist.
    """

    def __init__(
        self,
        model: VideoClassifier,
        task: Task,
        *,
        weight: float = 1.0,
        share: float = 0.15,
        loss: str = "nce",
        fill: str = "learned",
        temperature: float = 0.1,
    ):
        super().__init__(model, task, weight=weight)
        self.check_between(0, 1, share=share)
        self.check_between(MIN_TEMPERATURE, MAX_TEMPERATURE, temperature=temperature)
        self.check_choice(LOSSES, loss=loss)
        self.check_choice(FILLS, fill=fill)
        self.share = share
        self.kind = loss
        self.temperature = temperature
        self.frames_per_batch = max(2, task.batch_size * model.vision.steps)
        self.chance = math.log(self.frames_per_batch) if loss == "nce" else 1.0
        self.fill = nn.Parameter(torch.zeros(model.vision.dim)) if fill == "learned" else None
        if self.fill is not None:
            nn.init.normal_(self.fill, std=INITIAL_DEVIATION)
        self.transform = nn.Sequential(
            nn.Linear(model.trunk.dim, model.trunk.dim),
            nn.GELU(),
            nn.LayerNorm(model.trunk.dim),
            nn.Linear(model.trunk.dim, model.vision.dim),
        )
        nn.init.normal_(self.transform[-1].weight, std=INITIAL_DEVIATION)  # near the chance level
        nn.init.zeros_(self.transform[-1].bias)
        self.per_frame = model.vision.tokens_per_frame

    def hide(self, batch: Batch) -> Batch:
        """Replace the features of frames.

        targets["mask_frames"]: (B, F) bool, the hidden frames.
        """
        is_hidden = self._select(batch)
        rows = is_hidden.repeat_interleave(self.per_frame, 1)[..., None]
        fill = self.fill.to(batch.frames.dtype) if self.fill is not None else 0.0
        frames = torch.where(rows, fill, batch.frames)
        return batch.hide("mask_frames", is_hidden, frames=frames)

    def loss(self, model: VideoClassifier, fused: Fused, batch: Batch, original: Batch) -> Tensor:
        """Return the average over the hidden frames, or 0 when there is none."""
        predicted = self.transform(fused_frames(fused.frames, self.per_frame)).float()
        detached = replace(original, frames=original.frames.detach())
        if self.kind == "regression":
            losses = normalized_errors(predicted, frame_means(detached.frames, self.per_frame))
        else:
            losses = self._nce_losses(model, predicted, detached)
        return masked_mean(losses, batch.targets["mask_frames"])

    def count(self, batch: Batch) -> Tensor:
        """Return the number of hidden frames."""
        return self._select(batch).sum()

    def _select(self, batch: Batch) -> Tensor:
        """Return which frames are hidden: (B, F) bool."""
        is_real = which_frames(batch, self.per_frame)
        return (self.draw(batch, "select", is_real.shape[1]) < self.share) & is_real

    def _nce_losses(self, model: VideoClassifier, predicted: Tensor, batch: Batch) -> Tensor:
        """Let each predicted vector, (B, F, dim), find its frame: (B, F)."""
        features, mask = gather_frames(batch, model.vision)
        means = frame_means(features, self.per_frame)
        rows = whole_batch_positions(predicted, batch.rank_sizes)
        columns = torch.arange(predicted.shape[1], device=predicted.device)
        partners = rows[:, None] * means.shape[1] + columns

        logits = cosine_logits(predicted.flatten(0, 1), means.flatten(0, 1), self.temperature)
        is_candidate = mask[:, :: self.per_frame].flatten()
        losses = candidate_losses(logits, partners.flatten(), is_candidate, self.frames_per_batch)
        return losses.view(predicted.shape[:2])


def normalized_errors(predicted: Tensor, features: Tensor) -> Tensor:
    """Return the mean squared error of each predicted vector: (..., D), (..., D) -> (...).

    The features are normalized to mean 0 and variance 1 over D.
    """
    # towers differ in scale, so eps is only a guard against a division by 0
    target = F.layer_norm(features.float(), features.shape[-1:], eps=1e-12)
    return F.mse_loss(predicted, target, reduction="none").mean(-1)
