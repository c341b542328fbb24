"""Weights in half precision: what autocast would convert at each call is converted once."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

# The weights that autocast converts in a layer. Layers of other types keep theirs: autocast
# computes normalizations in FP32, and leaves embeddings as they are.
HALVED_WEIGHTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("weight", "bias"),
    nn.Conv2d: ("weight", "bias"),
}
# On a CPU, torch computes attention by a fused function, which reads these in FP32 also under
# autocast; on a GPU it does not.
HALVED_ATTENTION: dict[type[nn.Module], tuple[str, ...]] = {
    nn.MultiheadAttention: ("in_proj_weight", "in_proj_bias"),
    type(nn.MultiheadAttention(1, 1).out_proj): ("weight", "bias"),
}


def halve_weights(model: nn.Module, precision: torch.dtype) -> list[str]:
    """Convert the weights of linear layers, convolutions and attention to FP16 or BF16, in place.

    Under autocast to the same precision, the output of the model stays the same, bit for bit.
    Returns the names of the converted parameters.
    """
    device = next(model.parameters()).device
    halved = HALVED_WEIGHTS if device.type == "cpu" else HALVED_WEIGHTS | HALVED_ATTENTION
    names = []
    for path, layer in model.named_modules():
        for name in halved.get(type(layer), ()):
            weight = getattr(layer, name)
            if weight is not None:
                weight.data = weight.data.to(precision)
                names.append(f"{path}.{name}".removeprefix("."))
    return names


def restore_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Replace parameters by FP32 weights, by their names; the inverse of `halve_weights`."""
    for name, weight in weights.items():
        parameter = model.get_parameter(name)
        parameter.data = weight.to(parameter.device, torch.float32)
