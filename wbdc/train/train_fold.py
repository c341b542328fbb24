"""The training of one fold: its steps, optimizer and saved state around `fit`, then the export."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wbdc.core.device import find_precision, precision_name
from wbdc.core.errors import UsageFault
from wbdc.core.flatten import flatten_table
from wbdc.data.loader import epoch_batches
from wbdc.data.text import list_tokens
from wbdc.train import state
from wbdc.train.dataset import Dataset
from wbdc.train.evaluated_weights import copy_weights, evaluating
from wbdc.train.export import export_fold, score_held_out
from wbdc.train.external_loggers import ExternalLoggers
from wbdc.train.fit import fit
from wbdc.train.hardware import Hardware
from wbdc.train.initial_model import InitialModel
from wbdc.train.kit_schema import Stage
from wbdc.train.layer_decay import layer_rate_factors
from wbdc.train.learning_rate import learning_rate_factor, set_rates
from wbdc.train.metrics import MetricsLog
from wbdc.train.monitor.embeddings import embed_videos
from wbdc.train.monitor.loss_monitor import build_loss_monitor
from wbdc.train.monitor.probe import MIN_PROBE_VIDEOS, Probe, choose_probe_videos
from wbdc.train.optimizer import build_adamw, named_parameters, parameter_groups
from wbdc.train.repeated_layers import checkpointed_layers, compiled_layers
from wbdc.train.reporter import Reporter
from wbdc.train.samplers import Sampler
from wbdc.train.signals import stop_on_signal
from wbdc.train.stage_plan import StagePlan, build_task
from wbdc.train.state import TrainingState
from wbdc.train.task import Task
from wbdc.train.training_log import StepMonitor, rounded
from wbdc.train.validation import Validation

ParameterGroups = dict[str, list[tuple[str, nn.Parameter]]]


def train_fold(
    plan: StagePlan,
    folder: Path,
    initial: InitialModel,
    dataset: Dataset,
    positions: np.ndarray,
    held_out: np.ndarray,
    hardware: Hardware,
    reporter: Reporter,
) -> dict:
    """Train the model on the videos at `positions`, and export the weights that are evaluated;
    these are also left in the model.

    held_out: positions of the videos on which the stage validates the model, if it does.

    Resumes from the last saved state. Returns the facts of the training. Raises UsageFault for too
    few videos, Stopped when a stop is requested, and what `fit` raises.
    """
    stage = plan.stage
    sampler = _build_sampler(plan, dataset, positions)
    steps = _count_steps(len(sampler), stage)
    precision = find_precision(stage.precision, hardware.device)
    task = build_task(
        plan,
        dataset.labels[positions],
        steps,
        ids=[dataset.ids[i] for i in positions],
        vocabulary=list_tokens(initial.input_spec.text.tokenizer),
    )
    training, groups = _build_training(plan, initial, task, hardware.device, precision)
    _report_groups(groups, training.optimizer, reporter)
    if stage.validate_every:
        score = partial(score_held_out, plan, initial.model, dataset, held_out, hardware)
        validation = _build_validation(stage, training, score, steps, len(sampler))
        training = training._replace(validation=validation)

    training = training._replace(loss_monitor=build_loss_monitor(training.objectives, steps))
    if plan.run.facts.stage == "pretrain" and stage.probe_every:
        every = _steps_of_epochs(stage.probe_every, stage, len(sampler))
        probe = _build_probe(plan, training, dataset, positions, hardware, steps, every, reporter)
        training = training._replace(probe=probe)
    ranks = hardware.ranks
    start, skipped = ranks.main_first(lambda: state.restore_state(folder, training, reporter.warn))
    if start:
        reporter.log(f"resumes after step {start} of {steps}")

    start_time = time.monotonic()
    loggers = _open_loggers(plan, folder, hardware, reporter)
    monitor = StepMonitor(
        folder,
        task=f"{plan.run.facts.stage} {folder.name}",
        steps=steps,
        videos_per_step=min(stage.batch, len(sampler)) * stage.accumulate,
        save_every=hardware.save_every or _epoch_steps(len(sampler), stage),
        skipped=skipped,
        training=training,
        metrics=MetricsLog(folder, loggers, reporter),
        reporter=reporter,
        ranks=ranks,
    )
    with closing(loggers):
        if training.probe and not training.probe.records:
            monitor.measure_embeddings(0)
        _run_steps(plan, training, dataset, positions, sampler, start, monitor, hardware, precision)

    weights = _weights_to_export(training)
    initial.model.load_state_dict(weights, strict=True)
    ranks.on_main(lambda: export_fold(folder, initial, plan, weights))
    return {
        "steps": steps,
        "skipped": monitor.skipped,
        "seconds": round(time.monotonic() - start_time, 1),
        "device": str(hardware.device),
        "threads": hardware.threads,
        "ranks": ranks.size,
        "precision": precision_name(precision),
        "weights": initial.weights,
        "pretrained": initial.pretrained,
        "trained": {part: [name for name, _ in named] for part, named in groups.items()},
        "last": monitor.last_losses,
        "chance": {
            name: track.levels.chance for name, track in training.loss_monitor.tracks.items()
        },
        "running_mean": rounded(training.loss_monitor.means()),
        **_probe_facts(training),
        **_validation_facts(training.validation, reporter),
    }


def _build_sampler(plan: StagePlan, dataset: Dataset, positions: np.ndarray) -> Sampler:
    """Build the sampler of the videos at `positions`. Its task has no number of steps yet."""
    labels = dataset.labels[positions]
    return plan.build_sampler(labels, dataset.text_lengths(positions), build_task(plan, labels, 0))


def _epoch_steps(videos: int, stage: Stage) -> int:
    return max(1, epoch_batches(videos, stage.batch) // stage.accumulate)


def _count_steps(videos: int, stage: Stage) -> int:
    """Return the number of steps, at which the schedule ends. Raises UsageFault when it is 0."""
    batches = epoch_batches(videos, stage.batch) * stage.epochs
    steps = batches // stage.accumulate
    if not steps:
        raise UsageFault(
            f"{videos} videos make {batches} batches of {stage.batch}, too few for one step of "
            f"{stage.accumulate}; lower batch or accumulate"
        )
    return steps


def _build_training(
    plan: StagePlan,
    initial: InitialModel,
    task: Task,
    device: torch.device,
    precision: torch.dtype,
) -> tuple[TrainingState, ParameterGroups]:
    """Build everything that changes during training, and the weights of each part."""
    torch.manual_seed(plan.run.facts.seed)  # new heads are a function of the seed
    model = initial.model.to(device)
    objectives = plan.build_objectives(model, task).to(device)
    tricks = plan.build_tricks(model, task)

    stage = plan.stage
    groups = parameter_groups(model, objectives, stage.learning_rate)
    names = [name for name, _ in named_parameters(model, objectives)]
    factors = layer_rate_factors(names, stage.learning_rate, stage.layer_decay or {})
    optimizer = build_adamw(groups, stage.learning_rate, stage.weight_decay, factors)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    return TrainingState(model, objectives, optimizer, tricks, scaler), groups


def _open_loggers(
    plan: StagePlan, folder: Path, hardware: Hardware, reporter: Reporter
) -> ExternalLoggers:
    settings = flatten_table({**plan.saved_kit.tables, "seed": plan.run.facts.seed})
    name = f"{plan.run.name} {folder.name}"
    return ExternalLoggers(hardware.loggers, folder, name, settings, reporter.warn)


def _build_validation(
    stage: Stage,
    training: TrainingState,
    score: Callable[[], dict[str, float]],
    steps: int,
    videos: int,
) -> Validation:
    """Build the validation of a stage. videos: of an epoch."""
    return Validation(
        training.model,
        training.tricks,
        score,
        steps=steps,
        every=_steps_of_epochs(stage.validate_every, stage, videos),
        patience=stage.patience,
        keeps_best=stage.keep == "best",
        device=next(training.model.parameters()).device,
    )


def _steps_of_epochs(epochs: float, stage: Stage, videos: int) -> int:
    """Return the number of steps of some epochs, at least 1. videos: of an epoch."""
    return max(1, round(epochs * epoch_batches(videos, stage.batch) / stage.accumulate))


def _build_probe(
    plan: StagePlan,
    training: TrainingState,
    dataset: Dataset,
    positions: np.ndarray,
    hardware: Hardware,
    steps: int,
    every: int,
    reporter: Reporter,
) -> Probe | None:
    """Build the probe of a pretraining, or report why there is none."""
    chosen = positions[choose_probe_videos(dataset.labels[positions], plan.run.facts.seed)]
    if not len(chosen):
        reporter.log(
            f"the probe of the embeddings is skipped: fewer than {MIN_PROBE_VIDEOS} of the videos "
            "have a label"
        )
        return None
    embed = partial(embed_videos, training.model, dataset, chosen, plan.serve, hardware)
    return Probe(
        training.model,
        training.tricks,
        embed,
        dataset.labels[chosen],
        steps=steps,
        every=every,
        device=hardware.device,
    )


def _probe_facts(training: TrainingState) -> dict:
    probe = training.probe
    alarms = [*training.loss_monitor.alarms, *(probe.alarms if probe else [])]
    probes = {"probes": probe.facts()} if probe else {}
    return {"alarms": [alarm._asdict() for alarm in alarms], **probes}


def _weights_to_export(training: TrainingState) -> dict[str, torch.Tensor]:
    """Return the weights of the best validation, or else the last ones."""
    if training.validation and training.validation.best_weights:
        return training.validation.best_weights
    with evaluating(training.tricks):
        return copy_weights(training.model)


def _validation_facts(validation: Validation | None, reporter: Reporter) -> dict:
    if validation is None:
        return {}

    if validation.is_selecting:
        reporter.log(
            "the held-out fold also selected the weights, so its out-of-fold scores are optimistic"
        )
    return validation.facts()


def _report_groups(
    groups: ParameterGroups, optimizer: torch.optim.Optimizer, reporter: Reporter
) -> None:
    """Report the size of each part, and its learning rate, or the range of those of its layers."""
    rates = {id(p): group["base"] for group in optimizer.param_groups for p in group["params"]}
    for part, named in groups.items():
        size = sum(weight.numel() for _, weight in named)
        numbers = sorted({rates[id(weight)] for _, weight in named})
        note = f", learning rate {numbers[0]:g}" if numbers else ""
        if len(numbers) > 1:
            note = f", learning rates {numbers[0]:g} to {numbers[-1]:g}"
        reporter.log(f"trains {part}: {len(named)} tensors, {size:,} parameters{note}")


def _run_steps(
    plan: StagePlan,
    training: TrainingState,
    dataset: Dataset,
    positions: np.ndarray,
    sampler: Sampler,
    start: int,
    monitor: StepMonitor,
    hardware: Hardware,
    precision: torch.dtype,
) -> None:
    """Run the steps after `start`, until the last one, an early stop, or a requested stop."""
    stage = plan.stage
    seed = plan.run.facts.seed
    schedule = plan.build_schedule()
    batches = dataset.train_batches(
        positions,
        sampler,
        stage.batch,
        seed,
        stage.epochs,
        start * stage.accumulate,
        rank=hardware.ranks.rank,
        ranks=hardware.ranks.size,
    )
    remaining = (monitor.steps - start) * stage.accumulate

    with stop_on_signal() as is_stopping, _prepared_layers(stage, training.model, hardware.device):
        fit(
            training.model,
            training.objectives,
            takewhile(lambda _: not monitor.has_stopped_early, islice(batches, remaining)),
            training.optimizer,
            training.tricks,
            device=hardware.device,
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
            after_step=lambda step, outcome: monitor.after_step(
                step, outcome, hardware.ranks.is_any(is_stopping())
            ),
            on_skip=monitor.on_skip,
            on_out_of_memory=monitor.on_out_of_memory,
            must_check=monitor.must_check,
            ranks=hardware.ranks,
        )


@contextmanager
def _prepared_layers(stage: Stage, model: nn.Module, device: torch.device) -> Iterator[None]:
    """Recompute or compile the layers of a model in a block, as the stage sets."""
    with ExitStack() as stack:
        if stage.compile:
            stack.enter_context(compiled_layers(model, device))
        if stage.activation_checkpointing:  # recomputes what is compiled
            stack.enter_context(checkpointed_layers(model))
        yield
