"""Fully sharded layers: each rank holds a part of their weights, gradients and optimizer state."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed
from torch import nn

from wbdc.core.errors import UsageFault
from wbdc.core.ranks import COLLECTIVE_TIMEOUT
from wbdc.nets.model import VideoClassifier
from wbdc.train.distributed.shards import is_sharded
from wbdc.train.repeated_layers import repeated_layers

ENTRY_METHODS = ("encode", "fuse")  # of a model, beside forward


def check_shardable(model: nn.Module, precision: torch.dtype) -> None:
    """Raise UsageFault for a model without repeated layers, and for float16, whose loss scaling
    does not know sharded gradients.
    """
    if precision == torch.float16:
        raise UsageFault(
            'fully_shard = true does not work with fp16; set precision to "bf16" or "fp32"'
        )
    if not repeated_layers(model):
        raise UsageFault("fully_shard = true: this model has no repeated layers; remove it")


def shard_layers(model: VideoClassifier, objectives: nn.Module, device: torch.device) -> None:
    """Shard the repeated layers of a model, and of its copies in the objectives, over the ranks.

    torch's fully_shard (FSDP2; Zhao et al., 2023, "PyTorch FSDP"): a layer's weights are gathered
    when it is computed, forward and backward, and its gradients are averaged and sharded after
    each backward pass. The names of the weights do not change; all others, as embeddings and
    heads, stay ordinary tensors. Called before tricks and optimizer are built, because the sharded
    weights are new tensors; all ranks must call it.
    """
    from torch.distributed.device_mesh import DeviceMesh

    # a group of its own: the order of collectives within a group must be that of all ranks
    group = torch.distributed.new_group(timeout=COLLECTIVE_TIMEOUT)
    mesh = DeviceMesh.from_group(group, device.type)
    copies = [module for module in objectives.modules() if isinstance(module, VideoClassifier)]
    for whole in dict.fromkeys([model, *copies]):
        _shard_model(whole, mesh)


def _shard_model(model: VideoClassifier, mesh: object) -> None:
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for layer in repeated_layers(model).values():
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    # the root orders the communication of the layers, and has no weights of its own
    rest = {weight for weight in model.parameters() if not is_sharded(weight)}
    fully_shard(model, mesh=mesh, ignored_params=rest)
    for name in ENTRY_METHODS:
        register_fsdp_forward_method(model, name)


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """In a block, every rank holds all weights, so that it may compute more or fewer batches than
    the others. All ranks must enter the block. Without sharded layers, it changes nothing.
    """
    layers = _sharded_modules(model)
    for layer in layers:
        layer.unshard()
        layer.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(True, recurse=False)
            layer.reshard()


def _sharded_modules(model: nn.Module) -> list:
    if not torch.distributed.is_initialized():
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]
