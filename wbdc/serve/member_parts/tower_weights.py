"""Weights of members with a vision tower, which several members of a package may share."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from wbdc.core.errors import IntegrityFault
from wbdc.core.weights import load_weights, weights_fingerprint
from wbdc.nets.vision import Vision
from wbdc.serve.cache_key import cache_key
from wbdc.serve.member_files import MODEL_FILE, WEIGHTS_FILE

# in model.json: the file with the weights of the vision tower, when several members share it
TOWER = "tower"
TOWER_PREFIX = "vision."  # of the names of a tower's tensors in a member's weights file
MAX_ERROR_CHARACTERS = 600


def tower_key(vision: Vision, *inputs: Hashable) -> str:
    """Return a hash that is equal for towers that compute the same of the same inputs."""
    fingerprint = weights_fingerprint(vision.state_dict())
    return cache_key(*inputs, vision.blueprint(), fingerprint)


def read_weights(folder: Path, facts: dict, half: bool) -> dict[str, Tensor]:
    """Read the weights of a folder, with those of a shared tower, rounded to float16 if `half`."""
    weights = load_weights(folder / WEIGHTS_FILE)
    if TOWER in facts:
        weights |= load_weights(folder / facts[TOWER])
    if half:
        weights = {name: _round_to_half(tensor) for name, tensor in weights.items()}
    return weights


@contextmanager
def explain_damage(folder: Path) -> Iterator[None]:
    """Raise IntegrityFault for an error of reading and loading weights."""
    try:
        yield
    except (SafetensorError, OSError, RuntimeError, KeyError) as error:
        message = " ".join(str(error).split())[:MAX_ERROR_CHARACTERS]
        raise IntegrityFault(
            f"{folder / WEIGHTS_FILE} does not fit {MODEL_FILE} beside it: {message}"
        ) from error


def _round_to_half(tensor: Tensor) -> Tensor:
    return tensor.half().float() if tensor.is_floating_point() else tensor
