"""Layer-wise decay of the learning rates: early layers learn slower than late ones (Clark et al.,
2020, "ELECTRA"; Bao et al., 2022, "BEiT").

The rate of layer i of L is base * decay ** (L - i), so the last layer learns at the base rate. What
comes before layer 1, embeddings above all, has i = 0; what follows layer L has i = L.
"""

import re
from collections.abc import Sequence

from wbdc.core.errors import UsageFault
from wbdc.train.optimizer import find_part
from wbdc.train.weight_names import OTHER_PARTS

# modules whose numbered children are layers; the numbers in "mlp.0" and "downsample.1" are not
LAYER_LIST = re.compile(r"(.*(layer|block|stage|group)s?\d*|features|[a-z]+_to_[a-z]+)")
# the two directions of a cross attention, for example text_to_frames and frames_to_text
DIRECTION = re.compile(r"([a-z]+)_to_([a-z]+)")
EMBEDDING_NAME = re.compile("embed|token|position|^bottleneck$")
POOLING_NAME = re.compile(r"pooling\.")  # of a fusion, which lists it before its layers


def layer_rate_factors(
    names: Sequence[str], rates: dict[str, float], decays: dict[str, float]
) -> dict[str, float]:
    """Return the factor of the learning rate of each weight in a part with a decay, by its name.

    names: of all weights, in the model's order. rates: the learning rate of each part. decays: by
    part. Raises UsageFault for a part without numbered layers, with the parts that have some.
    """
    factors: dict[str, float] = {}
    for part, decay in decays.items():
        numbers = _part_numbers(part, names, rates)
        last = max(numbers.values(), default=0)
        if last == 0:
            layered = [p for p in rates if any(_part_numbers(p, names, rates).values())]
            choices = ", ".join(p for p in layered if p != OTHER_PARTS)
            raise UsageFault(
                f"layer_decay of {part!r}: this part has no numbered layers, for example "
                "encoder.layer.3 or blocks.3; parts of learning_rate with layers: "
                f"{choices or 'none'}"
            )
        factors |= {name: decay ** (last - number) for name, number in numbers.items()}
    return factors


def _part_numbers(part: str, names: Sequence[str], rates: dict[str, float]) -> dict[str, int]:
    """Return the number of the layer of each weight of a part, by its name."""
    members = [name for name in names if find_part(name, rates) == part]
    numbers = layer_numbers([name.removeprefix(f"{part}.") for name in members])
    return dict(zip(members, numbers, strict=True))


def layer_numbers(names: Sequence[str]) -> list[int]:
    """Return the number of the layer of each weight, from 1 to L; 0 before the first layer.

    names: of the weights of one part, in the model's order. Lists in lists are counted through:
    layers.0.blocks.1 is layer 2, and layers.1.blocks.0 the next one. The directions of a cross
    attention are one layer: text_to_frames.0 and frames_to_text.0. Outside of the layers, a weight
    called an embedding, a token or a position is 0. A pooling and a tensor of a module that holds
    all layers are L, since such modules list theirs first. Any other weight has the number of the
    last layer before it.
    """
    paths = [_layer_path(name) for name in names]
    distinct = [path for path in dict.fromkeys(paths) if path]
    layers = [p for p in distinct if not any(other.startswith(f"{p}.") for other in distinct)]
    layer_of_path = {path: number for number, path in enumerate(layers, 1)}

    numbers: list[int] = []
    passed = 0
    for name, path in zip(names, paths, strict=True):
        passed = max(passed, layer_of_path.get(path, 0))
        if path in layer_of_path:
            numbers.append(layer_of_path[path])
        elif EMBEDDING_NAME.search(name):
            numbers.append(0)
        else:
            is_last = _holds_all(name, layers) or POOLING_NAME.match(name)
            numbers.append(len(layers) if is_last else passed)
    return numbers


def _layer_path(name: str) -> str:
    """Return the innermost numbered layer of a weight: "blocks.3.mlp.0.weight" -> "blocks.3"; both
    directions of a cross attention have the same one.
    """
    words = [_joint_name(word) for word in name.split(".")]
    end = 0
    is_list = False
    for position, word in enumerate(words):
        if not word.isdigit():
            is_list = LAYER_LIST.fullmatch(word) is not None
        elif is_list:
            end = position + 1
    return ".".join(words[:end])


def _joint_name(word: str) -> str:
    """Return one name for both directions: "text_to_frames" -> "frames_to_text"."""
    direction = DIRECTION.fullmatch(word)
    return "_to_".join(sorted(direction.groups())) if direction else word


def _holds_all(name: str, layers: Sequence[str]) -> bool:
    """Return whether the module that a tensor belongs to contains every layer."""
    owner, dot, _ = name.rpartition(".")
    return all(layer.startswith(owner + dot) for layer in layers)
