"""The losses of one batch: model and objectives as one module, which torch's DDP can wrap."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.device import autocast
from wbdc.core.plug import distinct_names
from wbdc.nets.model import VideoClassifier
from wbdc.train.objectives import Objective
from wbdc.train.tricks import Outcome


class Step(nn.Module):
    """The weighted sum of the objectives' losses of a batch.

    shares: for each objective, which share of what its loss averages over the step the next batch
    holds; None: all of it.
    """

    def __init__(
        self,
        model: VideoClassifier,
        objectives: Sequence[Objective],
        device: torch.device,
        precision: torch.dtype,
    ):
        super().__init__()
        self.model = model
        self.objectives = nn.ModuleList(objectives)
        self.names = distinct_names(objectives)
        self.device = device
        self.precision = precision
        self.shares: Sequence[Tensor] | None = None

    def forward(self, batch: Batch) -> Outcome:
        """Encode the frames, hide what every objective hides, fuse once, and sum the losses.

        The frames are encoded before anything is hidden, so every further forward pass of an
        objective starts from their features.
        """
        with autocast(self.device, self.precision):
            original = self.model.encode(batch)
            hidden, targets = self._hide(original)
            fused = self.model.fuse(hidden)
            losses = [
                objective.loss(self.model, fused, replace(hidden, targets=target), original)
                for objective, target in zip(self.objectives, targets, strict=True)
            ]

        if self.shares is not None:
            losses = [loss * share for loss, share in zip(losses, self.shares, strict=True)]
        total = sum(o.weight * loss for o, loss in zip(self.objectives, losses, strict=True))
        return Outcome(total, dict(zip(self.names, losses, strict=True)))

    def counts(self, batch: Batch) -> Tensor:
        """Return how many items of a batch each objective averages: (objectives,) float."""
        return torch.stack([o.count(batch).to(torch.float32) for o in self.objectives])

    def _hide(self, original: Batch) -> tuple[Batch, list[dict[str, Tensor]]]:
        """Hide what every objective hides; return the targets of each by position, because one
        plug may be used twice.
        """
        hidden = original
        targets = []
        for objective in self.objectives:
            hidden = objective.hide(replace(hidden, targets=original.targets))
            targets.append(hidden.targets)
        return hidden, targets
