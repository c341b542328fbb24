"""The training of one fold: its steps, optimizer and saved state around `fit`, then the export."""

import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wbdc.core.device import find_precision, precision_name
from wbdc.core.errors import UsageFault
from wbdc.core.plug import distinct_names
from wbdc.train import state
from wbdc.train.dataset import Dataset
from wbdc.train.export import export_fold
from wbdc.train.fit import fit
from wbdc.train.hardware import Hardware
from wbdc.train.initial_model import InitialModel
from wbdc.train.kit_schema import Stage
from wbdc.train.learning_rate import learning_rate_factor, set_rates
from wbdc.train.optimizer import build_adamw, parameter_groups
from wbdc.train.reporter import Reporter
from wbdc.train.signals import stop_on_signal
from wbdc.train.stage_plan import StagePlan
from wbdc.train.state import TrainingState
from wbdc.train.training_log import StepMonitor

ParameterGroups = dict[str, list[tuple[str, nn.Parameter]]]


def train_fold(
    plan: StagePlan,
    folder: Path,
    initial: InitialModel,
    dataset: Dataset,
    positions: np.ndarray,
    hardware: Hardware,
    reporter: Reporter,
) -> dict:
    """Train the model on the videos at `positions`, and export the weights that are evaluated;
    these are also left in the model.

    Resumes from the last saved state. Returns the facts of the training. Raises UsageFault for too
    few videos, Stopped when a stop is requested, and what `fit` raises.
    """
    stage = plan.stage
    steps = _count_steps(len(positions), stage)
    precision = find_precision(stage.precision, hardware.device)
    training, groups = _build_training(plan, initial, hardware.device, precision)
    _report_groups(groups, stage.learning_rate, reporter)

    start, skipped = state.restore_state(folder, training, reporter.warn)
    if start:
        reporter.log(f"resumes after step {start} of {steps}")

    start_time = time.monotonic()
    monitor = StepMonitor(
        folder,
        task=f"{plan.run.facts.stage} {folder.name}",
        steps=steps,
        save_every=hardware.save_every or _epoch_steps(len(positions), stage),
        skipped=skipped,
        training=training,
        reporter=reporter,
    )
    _run_steps(plan, training, dataset, positions, start, monitor, hardware.device, precision)

    export_fold(folder, initial, plan, training.tricks)
    chances = [objective.chance for objective in training.objectives]
    return {
        "steps": steps,
        "skipped": monitor.skipped,
        "seconds": round(time.monotonic() - start_time, 1),
        "device": str(hardware.device),
        "threads": hardware.threads,
        "precision": precision_name(precision),
        "weights": initial.weights,
        "pretrained": initial.pretrained,
        "trained": {part: [name for name, _ in named] for part, named in groups.items()},
        "last": monitor.last_losses,
        "chance": dict(zip(distinct_names(training.objectives), chances, strict=True)),
    }


def _epoch_batches(videos: int, stage: Stage) -> int:
    return max(1, videos // stage.batch)


def _epoch_steps(videos: int, stage: Stage) -> int:
    return max(1, _epoch_batches(videos, stage) // stage.accumulate)


def _count_steps(videos: int, stage: Stage) -> int:
    """Return the number of steps, at which the schedule ends. Raises UsageFault when it is 0."""
    batches = _epoch_batches(videos, stage) * stage.epochs
    steps = batches // stage.accumulate
    if not steps:
        raise UsageFault(
            f"{videos} videos make {batches} batches of {stage.batch}, too few for one step of "
            f"{stage.accumulate}; lower batch or accumulate"
        )
    return steps


def _build_training(
    plan: StagePlan, initial: InitialModel, device: torch.device, precision: torch.dtype
) -> tuple[TrainingState, ParameterGroups]:
    """Build everything that changes during training, and the weights of each part."""
    torch.manual_seed(plan.run.facts.seed)  # new heads are a function of the seed
    model = initial.model.to(device)
    objectives = plan.build_objectives(model).to(device)
    tricks = plan.build_tricks(model)

    groups = parameter_groups(model, objectives, plan.stage.learning_rate)
    optimizer = build_adamw(groups, plan.stage.learning_rate, plan.stage.weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    return TrainingState(model, objectives, optimizer, tricks, scaler), groups


def _report_groups(groups: ParameterGroups, rates: dict[str, float], reporter: Reporter) -> None:
    for part, named in groups.items():
        size = sum(weight.numel() for _, weight in named)
        reporter.log(
            f"trains {part}: {len(named)} tensors, {size:,} parameters, "
            f"learning rate {rates[part]:g}"
        )


def _run_steps(
    plan: StagePlan,
    training: TrainingState,
    dataset: Dataset,
    positions: np.ndarray,
    start: int,
    monitor: StepMonitor,
    device: torch.device,
    precision: torch.dtype,
) -> None:
    """Run the steps after `start`, until the last one or until a stop is requested."""
    stage = plan.stage
    seed = plan.run.facts.seed
    schedule = plan.build_schedule()
    batches = dataset.train_batches(
        positions, stage.batch, seed, stage.epochs, start * stage.accumulate
    )
    remaining = (monitor.steps - start) * stage.accumulate

    with stop_on_signal() as is_stopping:
        fit(
            training.model,
            training.objectives,
            islice(batches, remaining),
            training.optimizer,
            training.tricks,
            device=device,
            precision=precision,
            scaler=training.scaler,
            accumulate=stage.accumulate,
            max_grad_norm=stage.max_grad_norm,
            seed=seed,
            start=start,
            before_step=lambda step: set_rates(
                training.optimizer,
                learning_rate_factor(schedule, step, monitor.steps, stage.warmup),
            ),
            after_step=lambda step, outcome: monitor.after_step(step, outcome, is_stopping()),
            on_skip=monitor.on_skip,
            on_out_of_memory=monitor.on_out_of_memory,
        )
