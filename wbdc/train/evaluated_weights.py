"""The weights that are evaluated and exported, for example a moving average."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from wbdc.train.distributed.shards import full_tensor
from wbdc.train.tricks import Trick


@contextmanager
def evaluating(tricks: Sequence[Trick]) -> Iterator[None]:
    """Hold a model in the form in which it is evaluated, for example with averaged weights."""
    with ExitStack() as stack:
        for trick in tricks:
            stack.enter_context(trick.evaluating())
        yield


@contextmanager
def preserving_training(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore the mode of every module and the state of torch's random numbers after a block, so
    that training continues as if the block had not run.
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, is_training in modes:
            module.training = is_training


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copy all weights and buffers of a model to memory of the CPU, whole on every rank."""
    tensors = model.state_dict()
    return {n: full_tensor(t).detach().cpu().clone().contiguous() for n, t in tensors.items()}
