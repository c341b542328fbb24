"""Hide the text or the frames of some videos, so that the model relies on neither alone (ModDrop;
Neverova et al., 2016).
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.nets.model import VideoClassifier
from wbdc.train.tricks import Loss, Outcome, Trick


class DropModality(Trick):
    """Masks a whole modality. No video loses both, or the only one that it has.

    text: probability that a video loses its text. frames: probability that it loses its frames.
    """

    def __init__(self, model: nn.Module, *, text: float = 0.1, frames: float = 0.1):
        super().__init__(model)
        self.text = text
        self.frames = frames

    def wrap_loss(self, loss: Loss) -> Loss:
        """Return the loss of the batch with modalities removed."""

        def loss_without_modalities(batch: Batch) -> Outcome:
            draw = torch.rand(len(batch), device=batch.text.device)
            return loss(drop_modalities(batch, self.model, draw, self.text, self.frames))

        return loss_without_modalities


def drop_modalities(
    batch: Batch, model: VideoClassifier, draw: Tensor, text: float, frames: float
) -> Batch:
    """Mask the text of videos with draw < text, and the frames of those with draw > 1 - frames.

    draw: (B,) float from 0 to 1. The first token of a text stays, so that no row is empty. A video
    without frames keeps its text, and one without words keeps its frames.
    """
    special_ids = torch.tensor(sorted(model.special.values()), device=batch.text.device)
    has_frames = batch.frame_mask.any(1)
    has_words = (batch.text_mask & ~torch.isin(batch.text, special_ids)).any(1)
    loses_text = (draw < text) & has_frames
    loses_frames = (draw > 1 - frames) & has_words & ~loses_text

    text_mask = batch.text_mask & ~loses_text[:, None]
    text_mask[:, 0] = batch.text_mask[:, 0]
    frame_mask = batch.frame_mask & ~loses_frames[:, None]
    return replace(batch, text_mask=text_mask, frame_mask=frame_mask)
