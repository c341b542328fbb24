"""A step on several ranks: each has a replica of the model, and their gradients are averaged."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from wbdc.core.ranks import Ranks
from wbdc.train.distributed.shards import is_sharded
from wbdc.train.distributed.sync_batch_norm import synced_batch_norm
from wbdc.train.step import Step


@contextmanager
def replicated(step: Step, ranks: Ranks) -> Iterator[nn.Module]:
    """Yield a module that computes a step's losses, and averages gradients over the ranks in the
    backward pass: torch's DistributedDataParallel (Li et al., 2020), or `step` on a single rank.

    All ranks start with the weights of rank 0. Their batch norms share statistics in the block.
    Weights that `shard_layers` has sharded are no replicas, and are left to their layers.
    """
    if ranks.size == 1:
        yield step
        return

    with synced_batch_norm(step), _blank_frames(step), warnings.catch_warnings():
        # a gradient of one row may have other strides than its weight, which costs one copy
        warnings.filterwarnings("ignore", "Grad strides do not match", UserWarning)
        # nothing changes the tokens of a model in place
        warnings.filterwarnings("ignore", ".* returned a view tensor", UserWarning)
        yield _replicate(step)


@contextmanager
def _blank_frames(step: Step) -> Iterator[None]:
    """In a block, a rank without frames in a batch computes what the other ranks compute."""
    towers = step.model.vision.parts().values()
    for tower in towers:
        tower.encodes_blank = True
    try:
        yield
    finally:
        for tower in towers:
            tower.encodes_blank = False


def _replicate(step: Step) -> nn.Module:
    # their layers average the gradients themselves
    sharded = [name for name, weight in step.named_parameters() if is_sharded(weight)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(step, sharded)
    with warnings.catch_warnings():
        # torch 2.15 renames broadcast_buffers, which earlier versions require
        warnings.simplefilter("ignore", FutureWarning)
        # unused: heads that no objective reads, and a tower whose features are cached
        return DistributedDataParallel(step, find_unused_parameters=True, broadcast_buffers=False)


def averaging(replica: nn.Module, is_last: bool) -> AbstractContextManager:
    """Return a context for one part of a step: gradients are averaged once, after the last part."""
    if is_last or not isinstance(replica, DistributedDataParallel):
        return nullcontext()
    return replica.no_sync()
