"""The state of a training that was stopped or killed: saved whole, taken back bit for bit."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wbdc.core.errors import IntegrityBroken
from wbdc.core.files import publish, publish_json, read_json, sha256
from wbdc.train.tricks import Trick

NAME = "state.json"


class Learning(NamedTuple):
    """All that changes while a model learns."""

    model: nn.Module
    objectives: nn.Module
    optimizer: torch.optim.Optimizer
    tricks: Sequence[Trick]
    scaler: torch.amp.GradScaler


def save(folder: Path, step: int, learning: Learning, skipped: int = 0) -> None:
    """Publish the state after `step`, of which `skipped` steps changed nothing; the state before it goes only when this one stands."""
    tensors = {name: t.detach().contiguous() for name, t in _tensors(learning).items()}
    path = folder / f"state-{step}.safetensors"
    publish(path, lambda temporary: save_file(tensors, temporary))
    publish_json(folder / NAME, {"step": step, "skipped": skipped, "sha256": sha256(path)})
    for old in set(folder.glob("state-*.safetensors")) - {path}:
        old.unlink()


def restore(folder: Path, learning: Learning) -> tuple[int, int]:
    """Take back the last state and return its step and how many were skipped; zeros when there is none.

    Raises IntegrityBroken when it is damaged or belongs to another recipe.
    """
    if not (folder / NAME).is_file():
        return 0, 0
    try:
        facts = read_json(folder / NAME, {"step": int, "skipped?": int, "sha256": str})
    except IntegrityBroken as error:
        raise IntegrityBroken(f"{error}; delete {folder} to train this fold anew") from error
    path = folder / f"state-{facts['step']}.safetensors"
    if not path.is_file() or sha256(path) != facts["sha256"]:
        raise IntegrityBroken(f"{path} is missing or damaged; delete {folder} to train this fold anew")
    tensors = load_file(path)
    wanted = _tensors(learning)
    differ = [n for n in sorted(wanted.keys() | tensors.keys()) if n not in wanted or n not in tensors or wanted[n].shape != tensors[n].shape]
    if differ:
        raise IntegrityBroken(f"{path} belongs to another recipe; it differs in: {', '.join(differ[:10])}")
    learning.model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}, strict=True)
    heads = {n.removeprefix("objectives."): t for n, t in tensors.items() if n.startswith("objectives.")}
    learning.objectives.load_state_dict({**learning.objectives.state_dict(), **heads}, strict=True)  # the names are compared above
    for number, entry in enumerate(learning.optimizer.state.values()):
        for key, value in entry.items():
            value.copy_(tensors[f"optimizer.{number}.{key}"])
    for number, trick in enumerate(learning.tricks):
        prefix = f"trick.{number}."
        trick.restore({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    if learning.scaler.is_enabled():
        learning.scaler.load_state_dict({**learning.scaler.state_dict(), "scale": float(tensors["scaler.scale"]), "_growth_tracker": int(tensors["scaler.growth"])})
    return facts["step"], facts.get("skipped", 0)


def discard(folder: Path) -> None:
    """Remove the state of a fold that is finished."""
    for path in [folder / NAME, *folder.glob("state-*.safetensors")]:
        path.unlink(missing_ok=True)


def _tensors(learning: Learning) -> dict[str, Tensor]:
    model, heads = (part.state_dict(keep_vars=True) for part in (learning.model, learning.objectives))
    owned = {id(t) for t in model.values()}  # what an objective holds of the model is saved once, as the model's
    found = {f"model.{n}": t for n, t in model.items()}
    found |= {f"objectives.{n}": t for n, t in heads.items() if id(t) not in owned}
    for number, entry in enumerate(learning.optimizer.state.values()):
        found |= {f"optimizer.{number}.{key}": value for key, value in entry.items()}
    for number, trick in enumerate(learning.tricks):
        found |= {f"trick.{number}.{name}": t for name, t in trick.state().items()}
    if learning.scaler.is_enabled():
        kept = learning.scaler.state_dict()
        found |= {"scaler.scale": torch.tensor(kept["scale"], dtype=torch.float64), "scaler.growth": torch.tensor(kept["_growth_tracker"])}
    return found

