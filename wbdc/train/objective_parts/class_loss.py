"""The loss of predicted classes, averaged over the videos that have a label."""

import torch
from torch import Tensor

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.core.plug import plug_name
from wbdc.train.losses import Loss
from wbdc.train.objectives import masked_mean


def mean_class_loss(loss: Loss, logits: Tensor, batch: Batch, is_counted: Tensor) -> Tensor:
    """Average the losses of the videos that count, (B,) bool; 0 when there is none.

    logits: (B, C). A soft label replaces the label of its video. Its sum is the weight of the
    video, whose loss is multiplied by it, so that doubtful pseudo-labels may have a smaller one.
    Raises UsageFault for soft labels when the loss takes hard labels only.
    """
    # videos without a label get class 0, and their losses are masked
    labels = batch.text.new_zeros(len(batch)) if batch.label is None else batch.label.clamp(min=0)
    if batch.soft_label is None:
        return masked_mean(loss(logits.float(), labels), is_counted)

    if not loss.takes_soft_labels:
        raise UsageFault(
            f"loss {plug_name(loss)!r} takes hard labels only, and these videos have soft labels, "
            "for example of mixup or pseudo-labels; choose another loss, or remove what makes them"
        )
    targets, weights = _soft_targets(batch.soft_label.float(), labels)
    return masked_mean(loss(logits.float(), targets) * weights, is_counted)


def _soft_targets(soft: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities of the classes, (B, C), and the weight of each video, (B,)."""
    sums = soft.sum(1, keepdim=True)
    hard = torch.zeros_like(soft).scatter_(1, labels.unsqueeze(1), 1.0)
    has_soft_label = sums > 0
    targets = torch.where(has_soft_label, soft / sums.masked_fill(~has_soft_label, 1), hard)
    return targets, torch.where(has_soft_label, sums, 1.0).squeeze(1)
