"""Running statistics of batch norms, computed anew for weights that no step has trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wbdc.train.distributed.gather import sum_over_ranks


def tracking_norms(model: nn.Module) -> list[_BatchNorm]:
    """List the batch norms of a model that have running statistics."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [norm for norm in norms if norm.running_mean is not None]


@contextmanager
def recomputed_statistics(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """In a block, batch norms in evaluation mode normalize each batch with its own statistics;
    after it, their running statistics are the means over the batches of all ranks.

    As `torch.optim.swa_utils.update_bn`, with three differences: a batch counts by its number of
    items; other modules stay in evaluation mode, so that no dropout changes what later layers
    receive; and the ranks need not share their batches. A batch norm that no item reaches keeps its
    statistics.
    """
    means = [_BatchMeans(norm) for norm in norms]
    hooks = [mean.norm.register_forward_pre_hook(mean.add) for mean in means]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for mean in means:
        mean.write()


class _BatchMeans:
    """The means of the statistics of a batch norm's batches. items: values of a channel so far."""

    def __init__(self, norm: _BatchNorm):
        self.norm = norm
        self.items = 0
        self.mean = torch.zeros_like(norm.running_mean)
        self.variance = torch.zeros_like(norm.running_var)

    @torch.no_grad()
    def add(self, norm: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        """Add a batch, and let the batch norm use its statistics."""
        values = inputs[0].float()
        items = values.numel() // values.shape[1]
        if not items:
            return
        axes = [axis for axis in range(values.dim()) if axis != 1]
        variance, mean = torch.var_mean(values, axes, correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

        self.items += items
        share = items / self.items
        self.mean.lerp_(mean, share)
        # running statistics hold the unbiased variance
        self.variance.lerp_(variance * (items / max(1, items - 1)), share)

    @torch.no_grad()
    def write(self) -> None:
        """Write the means over all ranks into the batch norm."""
        items = self.mean.new_tensor(float(self.items))
        sums = torch.stack([self.mean, self.variance, torch.ones_like(self.mean)]) * items
        mean, variance, count = sum_over_ranks(sums)
        for buffer, total in ((self.norm.running_mean, mean), (self.norm.running_var, variance)):
            buffer.copy_(torch.where(count > 0, total / count.clamp(min=1), buffer))
