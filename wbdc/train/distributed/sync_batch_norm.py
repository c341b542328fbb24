"""Batch norm over the frames of all ranks, on CPUs and GPUs alike (Ioffe & Szegedy, 2015).

torch's SyncBatchNorm runs on GPUs only, and does not support batch norms that include an
activation, such as those of timm.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wbdc.core.errors import UsageFault
from wbdc.nets.vision import Vision
from wbdc.train.distributed.gather import sum_over_ranks

FOLLOWING_MODULES = ("drop", "act")  # of timm.layers.BatchNormAct2d, in this order


@contextmanager
def synced_batch_norm(model: nn.Module) -> Iterator[None]:
    """In a block, the batch norms of a model share their statistics between all ranks.

    In training mode, each computes the mean and variance of the items of all ranks, weighted by
    their numbers; a rank may have none. Names and tensors of the model do not change, and after the
    block it is the ordinary model. Raises UsageFault for a batch norm without running averages that
    count batches (momentum None).
    """
    towers = [module for module in model.modules() if isinstance(module, Vision)]
    ordinary = {m: type(m) for m in model.modules() if isinstance(m, _BatchNorm)}
    for module, module_class in ordinary.items():
        if module.momentum is None:
            raise UsageFault(
                "a batch norm of the model averages over all batches (momentum None), which is not "
                "supported on several ranks; train it in one process, or freeze the tower"
            )
        module.__class__ = type(module_class.__name__, (_SyncedStatistics, module_class), {})
    for tower in towers:  # other towers may be unable to encode no frames
        tower.always_encode = any(isinstance(module, _BatchNorm) for module in tower.modules())
    try:
        yield
    finally:
        for tower in towers:
            tower.always_encode = False
        for module, module_class in ordinary.items():
            module.__class__ = module_class


def normalize_over_ranks(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalize the channels of x, (n, channels, ...), over the items of all ranks.

    Returns the normalized items in the precision of x, and the mean, the biased variance
    (channels,) and the number of values per channel, a scalar, of all ranks. Without any values,
    mean and variance are 0.
    """
    values = x.float()
    axes = [axis for axis in range(x.dim()) if axis != 1]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    count = values.new_tensor(float(x.numel() // x.shape[1]))

    totals = sum_over_ranks(torch.cat([values.sum(axes), count[None]]))
    size = totals[-1]
    divisor = size.clamp(min=1)
    mean = totals[:-1] / divisor
    # in a second pass: mean(x²) - mean² loses the digits of a small variance
    centered = values - mean.view(shape)
    variance = sum_over_ranks(centered.square().sum(axes)) / divisor

    normal = centered * (variance + epsilon).rsqrt().view(shape)
    if weight is not None:
        normal = normal * weight.view(shape)
    if bias is not None:
        normal = normal + bias.view(shape)
    return normal.to(x.dtype), mean, variance, size


class _SyncedStatistics:
    """Overrides the forward pass of a batch norm in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)

        normal, mean, variance, size = normalize_over_ranks(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self._update(mean.detach(), variance.detach(), size)
        for name in FOLLOWING_MODULES:
            normal = getattr(self, name)(normal) if hasattr(self, name) else normal
        return normal

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, size: Tensor) -> None:
        """Move the running averages towards the statistics of this batch, if it has any items."""
        unbiased = variance * size / (size - 1).clamp(min=1)
        share = self.momentum * (size > 0)
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(unbiased, share)
