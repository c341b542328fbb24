"""Multi-sample dropout: the mean loss of several dropout samples of one pass (Inoue, 2019)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_sample_dropout(
    loss: Callable[[Tensor], Tensor], x: Tensor, dropout: float, samples: int, is_training: bool
) -> Tensor:
    """Return the mean of `loss` over samples of x in which numbers are zeroed at random; of one
    sample without a change outside of training.

    loss: from a sample to a scalar. dropout: probability of zeroing each number of x.

    The losses are averaged and not the logits, as in "Multi-Sample Dropout for Accelerated Training
    and Better Generalization": the mean logits of a linear head are those of a weaker dropout.
    """
    if not is_training:
        return loss(x)
    return torch.stack([loss(F.dropout(x, dropout)) for _ in range(samples)]).mean()
