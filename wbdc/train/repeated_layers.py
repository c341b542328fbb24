"""The repeated layers of a model, for example those of a transformer: recomputed in the backward
pass to save memory, or compiled.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from wbdc.core.errors import EnvironmentFault, UsageFault

CPP_COMPILERS = ("g++", "clang++", "c++")


def repeated_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of a model by name: the members of lists of modules of one class that have
    weights.

    Of nested lists, as in Swin, only the inner ones count. A layer with a batch norm is left out,
    because computing it twice would move its running averages twice.
    """
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and _is_repetition(module):
            layers |= {f"{name}.{number}": layer for number, layer in enumerate(module)}
    return {
        name: layer
        for name, layer in layers.items()
        if not any(other.startswith(f"{name}.") for other in layers)
        and not any(isinstance(m, _BatchNorm) for m in layer.modules())
    }


@contextmanager
def checkpointed_layers(model: nn.Module) -> Iterator[None]:
    """In a block, save only the inputs of each layer in the forward pass, and compute the layer
    again in the backward pass (activation checkpointing; Chen et al., 2016, "Training Deep Nets
    with Sublinear Memory Cost"). Gradients are the same, including dropout.

    Raises UsageFault for a model without repeated layers.
    """
    with _wrapped_forward(
        _require_layers(model, "activation_checkpointing"),
        lambda forward: partial(checkpoint, forward, use_reentrant=False),
    ):
        yield


@contextmanager
def compiled_layers(model: nn.Module, device: torch.device) -> Iterator[None]:
    """In a block, run each layer through torch.compile: layers of one class are compiled once, for
    any number of videos and tokens. Results differ by rounding.

    Raises UsageFault for a model without repeated layers, EnvironmentFault without a compiler.
    """
    compilers = [os.environ.get("CXX", ""), *CPP_COMPILERS]
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise EnvironmentFault(
            "compile = true needs a C++ compiler for the CPU, for example g++; install one, or "
            "train without compile"
        )
    with _wrapped_forward(_require_layers(model, "compile"), partial(torch.compile, dynamic=True)):
        yield


@contextmanager
def _wrapped_forward(
    layers: list[nn.Module], wrap: Callable[[Callable], Callable]
) -> Iterator[None]:
    """Replace the forward function of layers in a block."""
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = wrap(layer.forward)
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward


def _is_repetition(modules: nn.ModuleList | nn.Sequential) -> bool:
    is_of_one_class = len({type(module) for module in modules}) == 1
    return is_of_one_class and any(True for _ in modules.parameters())


def _require_layers(model: nn.Module, setting: str) -> list[nn.Module]:
    layers = list(repeated_layers(model).values())
    if not layers:
        raise UsageFault(f"{setting} = true: this model has no repeated layers; remove the setting")
    return layers
