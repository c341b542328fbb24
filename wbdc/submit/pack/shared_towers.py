"""Weights as a package stores them: a vision tower that several members share is stored once, and
weights may be stored as float16.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from wbdc.core.files import publish_file, publish_json, read_json
from wbdc.core.weights import load_weights, weights_fingerprint
from wbdc.serve.member_files import MODEL_FILE, WEIGHTS_FILE
from wbdc.serve.member_parts.tower_weights import TOWER, TOWER_PREFIX

SHARED_TOWERS_FOLDER = "models/towers"  # in a package
TOWER_NAME_LENGTH = 12  # hexadecimal digits

Weights = dict[str, torch.Tensor]


def share_towers(package: Path, member_folders: Sequence[Path], *, half: bool) -> None:
    """Rewrite the weights of members in place: equal towers go into one file, and floating-point
    weights become float16 when `half`.

    Without `half`, the weights file of a member that shares nothing keeps its bytes.
    """
    names = [_tower_name(load_weights(folder / WEIGHTS_FILE)) for folder in member_folders]
    shared = {name for name, count in Counter(names).items() if name and count > 1}
    for folder, name in zip(member_folders, names, strict=True):
        if name not in shared and not half:
            continue
        weights = load_weights(folder / WEIGHTS_FILE)
        if half:
            weights = {key: _to_half(tensor) for key, tensor in weights.items()}
        if name in shared:
            weights = _move_tower(weights, folder, package / SHARED_TOWERS_FOLDER / name)
        _save(folder / WEIGHTS_FILE, weights)


def _move_tower(weights: Weights, folder: Path, stem: Path) -> Weights:
    """Save the tower of a member unless it is there, refer to it in model.json, and return the
    other weights.
    """
    path = stem.with_name(f"{stem.name}.safetensors")
    if not path.is_file():
        _save(path, {key: w for key, w in weights.items() if key.startswith(TOWER_PREFIX)})
    model = read_json(folder / MODEL_FILE)
    publish_json(folder / MODEL_FILE, model | {TOWER: os.path.relpath(path, folder)})
    return {key: w for key, w in weights.items() if not key.startswith(TOWER_PREFIX)}


def _tower_name(weights: Weights) -> str:
    """Name the tower in a member's weights by its content; "" when there is none."""
    tower = {
        key.removeprefix(TOWER_PREFIX): tensor
        for key, tensor in weights.items()
        if key.startswith(TOWER_PREFIX)
    }
    return weights_fingerprint(tower)[:TOWER_NAME_LENGTH] if tower else ""


def _to_half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


def _save(path: Path, weights: Weights) -> None:
    publish_file(path, lambda temporary: save_file(weights, temporary))
