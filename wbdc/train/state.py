"""The state of a training that was stopped or killed: saved whole, taken back bit for bit.

A fold keeps its last two states. `state.json` names the last one and `state-previous.json` the one
before it,
which is taken when the last one is damaged.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wbdc.core.errors import IntegrityBroken
from wbdc.core.files import file_sha256, publish_file, publish_json, read_json
from wbdc.core.weights import load_weights
from wbdc.train.tricks import Trick

STATE_FILE, PREVIOUS = "state.json", "state-previous.json"
SHAPE = {"step": int, "skipped?": int, "sha256": str}


class _Damaged(IntegrityBroken):
    """A state that cannot be read; one of another recipe can."""


class TrainingState(NamedTuple):
    """All that changes while a model learns."""

    model: nn.Module
    objectives: nn.Module
    optimizer: torch.optim.Optimizer
    tricks: Sequence[Trick]
    scaler: torch.amp.GradScaler


def save_state(folder: Path, step: int, learning: TrainingState, skipped: int = 0) -> None:
    """Publish the state after `step`, of which `skipped` steps changed nothing, and keep the one
    before it.

    The disk holds two states at most, also while this one is written.
    """
    tensors = {name: t.detach().contiguous() for name, t in _tensors(learning).items()}
    path, last = _path(folder, step), None
    with contextlib.suppress(IntegrityBroken):
        last = read_json(folder / STATE_FILE, SHAPE)
    kept = {path, _path(folder, last["step"])} if last else {path}
    for old in set(folder.glob("state-*.safetensors")) - kept:
        old.unlink()
    publish_file(path, lambda temporary: save_file(tensors, temporary))
    if last and last["step"] != step:
        publish_json(folder / PREVIOUS, last)
    publish_json(
        folder / STATE_FILE, {"step": step, "skipped": skipped, "sha256": file_sha256(path)}
    )


def restore_state(
    folder: Path, learning: TrainingState, warn: Callable[[str], None] = lambda sentence: None
) -> tuple[int, int]:
    """Take back the last state and return its step and how many were skipped; zeros when there is
    none.

    When it is damaged, takes the one before it, and `warn` is told the damaged file. Raises
    IntegrityBroken when
    that is damaged too, or a state belongs to another recipe.
    """
    if not (folder / STATE_FILE).is_file() and not (folder / PREVIOUS).is_file():
        return 0, 0
    try:
        return _restore(folder, _read_facts(folder, STATE_FILE), learning)
    except _Damaged as error:
        damage = error
    try:
        facts = _read_facts(folder, PREVIOUS)
    except _Damaged:
        raise IntegrityBroken(f"{damage}; delete {folder} to train this fold anew") from damage
    restored = _restore(folder, facts, learning)
    warn(
        f"warning: {damage}; the training goes on from the state before it, of step {facts['step']}"
    )
    publish_json(folder / STATE_FILE, facts)
    return restored


def _path(folder: Path, step: int) -> Path:
    return folder / f"state-{step}.safetensors"


def _read_facts(folder: Path, name: str) -> dict:
    """Read which state a file names. Raises _Damaged when this file or the state is missing or
    damaged.
    """
    try:
        facts = read_json(folder / name, SHAPE)
    except IntegrityBroken as error:
        raise _Damaged(str(error)) from error
    path = _path(folder, facts["step"])
    if not path.is_file():
        raise _Damaged(f"{path} is missing")
    if file_sha256(path) != facts["sha256"]:
        raise _Damaged(f"{path} is damaged: its hash is not the one in {name}")
    return facts


def _restore(folder: Path, facts: dict, learning: TrainingState) -> tuple[int, int]:
    """Take back the state that `facts` name."""
    path = _path(folder, facts["step"])
    tensors = load_weights(path)
    wanted = _tensors(learning)
    differ = [
        n
        for n in sorted(wanted.keys() | tensors.keys())
        if n not in wanted or n not in tensors or wanted[n].shape != tensors[n].shape
    ]
    if differ:
        raise IntegrityBroken(
            f"{path} belongs to another recipe; it differs in: {', '.join(differ[:10])}"
        )
    learning.model.load_state_dict(
        {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")},
        strict=True,
    )
    heads = {
        n.removeprefix("objectives."): t for n, t in tensors.items() if n.startswith("objectives.")
    }
    learning.objectives.load_state_dict(
        {**learning.objectives.state_dict(), **heads}, strict=True
    )  # the names are compared above
    for number, entry in enumerate(learning.optimizer.state.values()):
        for key, value in entry.items():
            value.copy_(tensors[f"optimizer.{number}.{key}"])
    for number, trick in enumerate(learning.tricks):
        prefix = f"trick.{number}."
        trick.restore(
            {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        )
    if learning.scaler.is_enabled():
        learning.scaler.load_state_dict(
            {
                **learning.scaler.state_dict(),
                "scale": float(tensors["scaler.scale"]),
                "_growth_tracker": int(tensors["scaler.growth"]),
            }
        )
    return facts["step"], facts.get("skipped", 0)


def discard_state(folder: Path) -> None:
    """Remove the state of a fold that is finished."""
    for path in [folder / PREVIOUS, folder / STATE_FILE, *folder.glob("state-*.safetensors")]:
        path.unlink(missing_ok=True)


def _tensors(learning: TrainingState) -> dict[str, Tensor]:
    model, heads = (
        part.state_dict(keep_vars=True) for part in (learning.model, learning.objectives)
    )
    owned = {
        id(t) for t in model.values()
    }  # what an objective holds of the model is saved once, as the model's
    found = {f"model.{n}": t for n, t in model.items()}
    found |= {f"objectives.{n}": t for n, t in heads.items() if id(t) not in owned}
    for number, entry in enumerate(learning.optimizer.state.values()):
        found |= {f"optimizer.{number}.{key}": value for key, value in entry.items()}
    for number, trick in enumerate(learning.tricks):
        found |= {f"trick.{number}.{name}": t for name, t in trick.state().items()}
    if learning.scaler.is_enabled():
        kept = learning.scaler.state_dict()
        found |= {
            "scaler.scale": torch.tensor(kept["scale"], dtype=torch.float64),
            "scaler.growth": torch.tensor(kept["_growth_tracker"]),
        }
    return found
