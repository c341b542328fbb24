"""Hide some words from the model while it learns, so that no single word decides (word dropout;
Iyyer et al., 2015).
"""

from dataclasses import replace

import torch
from torch import nn

from wbdc.core.batch import Batch
from wbdc.nets.model import VideoClassifier
from wbdc.train.tricks import Loss, Outcome, Trick


class DropWords(Trick):
    """share: of the real words that become [MASK]."""

    def __init__(self, model: nn.Module, *, share: float = 0.1):
        super().__init__(model)
        self.share = share

    def wrap_loss(self, loss: Loss) -> Loss:
        def dropped(batch: Batch) -> Outcome:
            return loss(
                hide_words(
                    batch,
                    self.model,
                    torch.rand(batch.text.shape, device=batch.text.device) < self.share,
                )
            )

        return dropped


def hide_words(batch: Batch, model: VideoClassifier, hidden: torch.Tensor) -> Batch:
    """Replace words at the places `hidden` (B, T) bool by [MASK]; special words stay."""
    special = torch.tensor(sorted(model.special.values()), device=batch.text.device)
    return replace(
        batch,
        text=torch.where(
            hidden & ~torch.isin(batch.text, special), model.special["[MASK]"], batch.text
        ),
    )
