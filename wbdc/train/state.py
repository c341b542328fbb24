"""The state of a training that was stopped or killed: saved whole, taken back bit for bit."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wbdc.core.errors import IntegrityBroken
from wbdc.core.files import publish, publish_json, read_json, sha256
from wbdc.train.tricks import Trick

NAME = "state.json"


def save(folder: Path, step: int, model: nn.Module, objectives: nn.Module, optimizer: torch.optim.Optimizer, tricks: Sequence[Trick], scaler: torch.amp.GradScaler) -> None:
    """Publish the state after `step`; the state before it goes only when this one stands."""
    tensors = {name: t.detach().contiguous() for name, t in _tensors(model, objectives, optimizer, tricks, scaler).items()}
    path = folder / f"state-{step}.safetensors"
    publish(path, lambda temporary: save_file(tensors, temporary))
    publish_json(folder / NAME, {"step": step, "sha256": sha256(path)})
    for old in set(folder.glob("state-*.safetensors")) - {path}:
        old.unlink()


def restore(folder: Path, model: nn.Module, objectives: nn.Module, optimizer: torch.optim.Optimizer, tricks: Sequence[Trick], scaler: torch.amp.GradScaler) -> int:
    """Take back the last state and return its step; 0 when there is none.

    Raises IntegrityBroken when it is damaged or belongs to another recipe.
    """
    if not (folder / NAME).is_file():
        return 0
    facts = read_json(folder / NAME)
    path = folder / f"state-{facts['step']}.safetensors"
    if not path.is_file() or sha256(path) != facts["sha256"]:
        raise IntegrityBroken(f"{path} is missing or damaged; delete {folder} to train this fold anew")
    tensors = load_file(path)
    wanted = _tensors(model, objectives, optimizer, tricks, scaler)
    differ = [n for n in sorted(wanted.keys() | tensors.keys()) if n not in wanted or n not in tensors or wanted[n].shape != tensors[n].shape]
    if differ:
        raise IntegrityBroken(f"{path} belongs to another recipe; it differs in: {', '.join(differ[:10])}")
    model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}, strict=True)
    objectives.load_state_dict({n.removeprefix("objectives."): t for n, t in tensors.items() if n.startswith("objectives.")}, strict=True)
    for number, entry in enumerate(optimizer.state.values()):
        for key, value in entry.items():
            value.copy_(tensors[f"optimizer.{number}.{key}"])
    for number, trick in enumerate(tricks):
        prefix = f"trick.{number}."
        trick.restore({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    if scaler.is_enabled():
        scaler.load_state_dict({**scaler.state_dict(), "scale": float(tensors["scaler.scale"]), "_growth_tracker": int(tensors["scaler.growth"])})
    return facts["step"]


def discard(folder: Path) -> None:
    """Remove the state of a fold that is finished."""
    for path in [folder / NAME, *folder.glob("state-*.safetensors")]:
        path.unlink(missing_ok=True)


def _tensors(model: nn.Module, objectives: nn.Module, optimizer: torch.optim.Optimizer, tricks: Sequence[Trick], scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
    found = {f"model.{n}": t for n, t in model.state_dict().items()} | {f"objectives.{n}": t for n, t in objectives.state_dict().items()}
    for number, entry in enumerate(optimizer.state.values()):
        found |= {f"optimizer.{number}.{key}": value for key, value in entry.items()}
    for number, trick in enumerate(tricks):
        found |= {f"trick.{number}.{name}": t for name, t in trick.state().items()}
    if scaler.is_enabled():
        kept = scaler.state_dict()
        found |= {"scaler.scale": torch.tensor(kept["scale"], dtype=torch.float64), "scaler.growth": torch.tensor(kept["_growth_tracker"])}
    return found

