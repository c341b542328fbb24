"""Drop a modality of some videos, so that a model leans on neither words nor frames alone (ModDrop;
Neverova et al., 2016).
"""

from dataclasses import replace

import torch
from torch import nn

from wbdc.core.batch import Batch
from wbdc.nets.model import VideoClassifier
from wbdc.train.tricks import Loss, Outcome, Trick


class DropModality(Trick):
    """text, frames: share of the videos that lose it. No video loses both, nor its only one."""

    def __init__(self, model: nn.Module, *, text: float = 0.1, frames: float = 0.1):
        super().__init__(model)
        self.text, self.frames = text, frames

    def wrap_loss(self, loss: Loss) -> Loss:
        def dropped(batch: Batch) -> Outcome:
            return loss(
                drop_modalities(
                    batch,
                    self.model,
                    torch.rand(len(batch), device=batch.text.device),
                    self.text,
                    self.frames,
                )
            )

        return dropped


def drop_modalities(
    batch: Batch, model: VideoClassifier, draw: torch.Tensor, text: float, frames: float
) -> Batch:
    """Take the text of videos with draw < text and the frames of those with draw > 1 - frames.
    draw: (B,) in 0..1.

    Of a text its first token stays, so that no row is empty; a video without frames keeps its text,
    one without words its frames.
    """
    special = torch.tensor(sorted(model.special.values()), device=batch.text.device)
    shown, told = (
        batch.frame_mask.any(1),
        (batch.text_mask & ~torch.isin(batch.text, special)).any(1),
    )
    silent = (draw < text) & shown
    blind = (draw > 1 - frames) & told & ~silent
    words = batch.text_mask & ~silent[:, None]
    words[:, 0] = batch.text_mask[:, 0]
    return replace(batch, text_mask=words, frame_mask=batch.frame_mask & ~blind[:, None])
