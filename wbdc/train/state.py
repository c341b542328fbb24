"""The state of an unfinished training: saved as a whole, restored bit for bit.

A fold keeps its last two states. `state.json` names the last one; `state-previous.json` names the
one before it, which is restored when the last one is damaged.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wbdc.core.errors import IntegrityFault
from wbdc.core.files import file_sha256, publish_file, publish_json, read_json
from wbdc.core.weights import load_weights
from wbdc.train.distributed.shards import gather_on_main, shard_like, shards_like
from wbdc.train.monitor.loss_monitor import LossMonitor
from wbdc.train.monitor.probe import Probe
from wbdc.train.tricks import Trick
from wbdc.train.validation import Validation

STATE_FILE = "state.json"
PREVIOUS_STATE_FILE = "state-previous.json"
STATE_SHAPE = {"step": int, "skipped?": int, "sha256": str}


class _Damaged(IntegrityFault):
    """A state that cannot be read, unlike a readable state of other settings."""


class TrainingState(NamedTuple):
    """Everything that changes during training. validation: None when there is none, and so on."""

    model: nn.Module
    objectives: nn.Module
    optimizer: torch.optim.Optimizer
    tricks: Sequence[Trick]
    scaler: torch.amp.GradScaler
    validation: Validation | None = None
    loss_monitor: LossMonitor | None = None
    probe: Probe | None = None

    def records(self) -> dict[str, Validation | LossMonitor | Probe]:
        """Return what is recorded about the training, by the name in the file."""
        records = {
            "validation": self.validation,
            "loss_monitor": self.loss_monitor,
            "probe": self.probe,
        }
        return {name: record for name, record in records.items() if record is not None}


def gather_state(training: TrainingState) -> dict[str, Tensor]:
    """Return every tensor of a state by its name in the file. Sharded ones are gathered from all
    ranks, which must all call this; only the first one gets them.
    """
    return {name: gather_on_main(t).detach() for name, t in _named_tensors(training).items()}


def save_state(folder: Path, step: int, tensors: dict[str, Tensor], skipped: int = 0) -> None:
    """Publish the state after `step`, and keep the state before it.

    tensors: of `gather_state`. skipped: how many of the steps changed nothing. The disk never holds
    more than two states, not even while this one is written.
    """
    path = _tensors_path(folder, step)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    previous = None
    with contextlib.suppress(IntegrityFault):
        previous = read_json(folder / STATE_FILE, STATE_SHAPE)

    needed = {path, _tensors_path(folder, previous["step"])} if previous else {path}
    for old in set(folder.glob("state-*.safetensors")) - needed:
        old.unlink()
    publish_file(path, lambda temporary: save_file(contiguous, temporary))
    if previous and previous["step"] != step:
        publish_json(folder / PREVIOUS_STATE_FILE, previous)
    facts = {"step": step, "skipped": skipped, "sha256": file_sha256(path)}
    publish_json(folder / STATE_FILE, facts)


def restore_state(
    folder: Path, training: TrainingState, warn: Callable[[str], None] = lambda message: None
) -> tuple[int, int]:
    """Restore the last state; return its step and how many steps were skipped, or zeros if there
    is no state.

    When the last state is damaged, restores the one before it and calls `warn` with the reason.
    Raises IntegrityFault when both are damaged, or when a state belongs to other settings.
    """
    if not (folder / STATE_FILE).is_file() and not (folder / PREVIOUS_STATE_FILE).is_file():
        return 0, 0

    try:
        return _restore(folder, _read_facts(folder, STATE_FILE), training)
    except _Damaged as error:
        damage = error

    try:
        facts = _read_facts(folder, PREVIOUS_STATE_FILE)
    except _Damaged:
        raise IntegrityFault(f"{damage}; delete {folder} to train this fold again") from damage

    step_and_skipped = _restore(folder, facts, training)
    warn(
        f"warning: {damage}; training resumes from the state before it, saved after step "
        f"{facts['step']}"
    )
    publish_json(folder / STATE_FILE, facts)
    return step_and_skipped


def discard_state(folder: Path) -> None:
    """Remove the states of a finished fold."""
    tensors = folder.glob("state-*.safetensors")
    for path in [folder / PREVIOUS_STATE_FILE, folder / STATE_FILE, *tensors]:
        path.unlink(missing_ok=True)


def _tensors_path(folder: Path, step: int) -> Path:
    return folder / f"state-{step}.safetensors"


def _read_facts(folder: Path, name: str) -> dict:
    """Read the step and hash of a state. Raises _Damaged when that file or the state is missing or
    damaged.
    """
    try:
        facts = read_json(folder / name, STATE_SHAPE)
    except IntegrityFault as error:
        raise _Damaged(str(error)) from error

    path = _tensors_path(folder, facts["step"])
    if not path.is_file():
        raise _Damaged(f"{path} is missing")
    if file_sha256(path) != facts["sha256"]:
        raise _Damaged(f"{path} is damaged: its hash is not the one in {name}")
    return facts


def _restore(folder: Path, facts: dict, training: TrainingState) -> tuple[int, int]:
    """Copy a saved state into a training. Raises IntegrityFault if it is of other settings."""
    path = _tensors_path(folder, facts["step"])
    tensors = load_weights(path)
    _check_same_tensors(path, tensors, _named_tensors(training))

    model, objectives = training.model, training.objectives
    model.load_state_dict(shards_like(model, _tensors_below("model.", tensors)), strict=True)
    heads = shards_like(objectives, _tensors_below("objectives.", tensors))
    # complete: an objective's references to the model are saved as the model's tensors only
    objectives.load_state_dict({**objectives.state_dict(), **heads}, strict=True)
    for number, moments in enumerate(training.optimizer.state.values()):
        for key, value in moments.items():
            value.copy_(shard_like(value, tensors[f"optimizer.{number}.{key}"]))
    for number, trick in enumerate(training.tricks):
        trick.restore(_tensors_below(f"trick.{number}.", tensors))
    for name, record in training.records().items():
        record.restore(_tensors_below(f"{name}.", tensors))
    if training.scaler.is_enabled():
        scale = {
            "scale": float(tensors["scaler.scale"]),
            "_growth_tracker": int(tensors["scaler.growth"]),
        }
        training.scaler.load_state_dict({**training.scaler.state_dict(), **scale})

    return facts["step"], facts.get("skipped", 0)


def _tensors_below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _check_same_tensors(path: Path, saved: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    different = [
        name
        for name in sorted(expected.keys() | saved.keys())
        if name not in expected or name not in saved or expected[name].shape != saved[name].shape
    ]
    if different:
        raise IntegrityFault(
            f"{path} belongs to a training with other settings; it differs in:"
            f" {', '.join(different[:10])}"
        )


def _named_tensors(training: TrainingState) -> dict[str, Tensor]:
    """Return every tensor of a state by its name in the file."""
    model = training.model.state_dict(keep_vars=True)
    objectives = training.objectives.state_dict(keep_vars=True)
    model_tensors = {id(t) for t in model.values()}

    tensors = {f"model.{n}": t for n, t in model.items()}
    # an objective may refer to a part of the model, which is saved once, as the model's
    tensors |= {f"objectives.{n}": t for n, t in objectives.items() if id(t) not in model_tensors}
    for number, moments in enumerate(training.optimizer.state.values()):
        tensors |= {f"optimizer.{number}.{key}": value for key, value in moments.items()}
    for number, trick in enumerate(training.tricks):
        tensors |= {f"trick.{number}.{name}": t for name, t in trick.state().items()}
    for name, record in training.records().items():
        tensors |= {f"{name}.{key}": t for key, t in record.state().items()}
    if training.scaler.is_enabled():
        scaler = training.scaler.state_dict()
        tensors |= {
            "scaler.scale": torch.tensor(scaler["scale"], dtype=torch.float64),
            "scaler.growth": torch.tensor(scaler["_growth_tracker"]),
        }
    return tensors
