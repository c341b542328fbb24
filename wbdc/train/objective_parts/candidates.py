"""The choice of one candidate among others, with one chance level for every batch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def candidate_losses(
    logits: Tensor, partners: Tensor, is_candidate: Tensor, nominal_count: int
) -> Tensor:
    """Return the cross entropy of each row's choice, scaled to one chance level: (n,) float32.

    logits: (n, m). partners: (n,) int64, the right column of each row. is_candidate: (m,) or (n, m)
    bool; other columns are masked. The loss of a row whose partner is masked has no meaning.

    A uniform choice among c candidates has the loss ln(c), and c differs between batches. The
    factor ln(nominal_count) / ln(c) makes it ln(nominal_count) everywhere. A certain choice has the
    loss 0, and so has a choice from one candidate.
    """
    logits = logits.float()
    counts = is_candidate.sum(-1).clamp(min=2)
    masked = logits.masked_fill(~is_candidate, torch.finfo(logits.dtype).min)
    losses = F.cross_entropy(masked, partners, reduction="none")
    return losses * (math.log(nominal_count) / counts.log())
