"""Weights as a package stores them: a tower that several members share once, and in half the bytes
where that is asked for.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from wbdc.core.files import publish_file, publish_json, read_json
from wbdc.core.weights import load_weights
from wbdc.serve.predict import MODEL_FILE, TOWER, WEIGHTS_FILE

TOWERS = "models/towers"  # in a package


def share_towers(making: Path, homes: Sequence[Path], *, half: bool) -> None:
    """Rewrite the weights of members in place: towers of equal bytes go into one file of their own,
    floats become float16 when `half`.

    Members that share nothing keep the very bytes of their runs, unless `half`.
    """
    prints = [_tower(home / WEIGHTS_FILE) for home in homes]
    shared = {name for name, count in Counter(prints).items() if name and count > 1}
    for home, name in zip(homes, prints):
        if name not in shared and not half:
            continue
        weights = {
            key: _stored(tensor, half) for key, tensor in load_weights(home / WEIGHTS_FILE).items()
        }
        if name in shared:
            tower = making / TOWERS / f"{name}.safetensors"
            if not tower.is_file():
                _save(
                    tower,
                    {key: tensor for key, tensor in weights.items() if key.startswith("vision.")},
                )
            weights = {
                key: tensor for key, tensor in weights.items() if not key.startswith("vision.")
            }
            publish_json(
                home / MODEL_FILE,
                read_json(home / MODEL_FILE) | {TOWER: os.path.relpath(tower, home)},
            )
        _save(home / WEIGHTS_FILE, weights)


def _tower(path: Path) -> str:
    """Name the tower in a file of weights by its content; "" when there is none."""
    hashed, found = hashlib.sha256(), False
    for key, tensor in sorted(load_weights(path).items()):
        if key.startswith("vision."):
            found = True
            hashed.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            hashed.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()[:12] if found else ""


def _stored(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    return tensor.half() if half and tensor.is_floating_point() else tensor


def _save(path: Path, weights: dict[str, torch.Tensor]) -> None:
    publish_file(path, lambda temporary: save_file(weights, temporary))
