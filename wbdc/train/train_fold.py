"""The training of one fold: its steps, optimizer and saved state around `fit`, then the export."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice, takewhile
from pathlib import Path

import torch
from torch import nn

from wbdc.core.device import find_training_precision, precision_name
from wbdc.core.flatten import flatten_table
from wbdc.core.plug import plug_name
from wbdc.nets.model import VideoClassifier
from wbdc.train import state
from wbdc.train.distributed.shards import shards_like
from wbdc.train.evaluated_weights import copy_weights, evaluating
from wbdc.train.export import export_fold
from wbdc.train.external_loggers import ExternalLoggers
from wbdc.train.fit import fit
from wbdc.train.hardware import Hardware
from wbdc.train.initial_model import InitialModel
from wbdc.train.kit_schema import Stage
from wbdc.train.learning_rate import learning_rate_factor, set_rates
from wbdc.train.metrics import MetricsLog
from wbdc.train.monitor.alarms import Alarm
from wbdc.train.optimizer import named_parameters
from wbdc.train.repeated_layers import checkpointed_layers, compiled_layers
from wbdc.train.reporter import Reporter
from wbdc.train.signals import stop_on_signal
from wbdc.train.stage_plan import StagePlan
from wbdc.train.state import TrainingState
from wbdc.train.step_events import StepEvents
from wbdc.train.training_log import StepMonitor, rounded
from wbdc.train.training_setup import (
    FoldVideos,
    ParameterGroups,
    TrainingSetup,
    set_up_training,
)
from wbdc.train.validation import Validation
from wbdc.train.weight_names import shorten_names


def train_fold(
    plan: StagePlan,
    folder: Path,
    initial: InitialModel,
    videos: FoldVideos,
    hardware: Hardware,
    reporter: Reporter,
) -> dict:
    """Train the model, and export the weights that are evaluated; these are also left in the model.

    Resumes from the last saved state. Returns the facts of the training. Raises UsageFault for too
    few videos, Stopped when a stop is requested, and what `fit` raises.
    """
    precision = find_training_precision(plan.stage.precision, hardware.device)
    ranks = hardware.ranks
    setup = set_up_training(plan, initial, videos, hardware, precision, reporter)
    training = setup.state
    _report_groups(setup.groups, training, reporter)
    for trick in training.tricks:
        if summary := trick.summary():
            reporter.log(f"trick {plug_name(trick)}: {summary}")
    start, skipped = ranks.main_first(lambda: state.restore_state(folder, training, reporter.warn))
    if start:
        reporter.log(f"resumes after step {start} of {setup.steps}")

    start_time = time.monotonic()
    loggers = _open_loggers(plan, folder, hardware, reporter)
    monitor = StepMonitor(
        folder,
        task=f"{plan.run.facts.stage} {folder.name}",
        steps=setup.steps,
        epochs=plan.stage.epochs,
        videos_per_step=min(plan.stage.batch, len(setup.sampler)) * plan.stage.accumulate,
        save_every=hardware.save_every or setup.epoch_steps,
        skipped=skipped,
        training=training,
        metrics=MetricsLog(folder, loggers, reporter),
        reporter=reporter,
        ranks=ranks,
    )
    head = _copy_head(training.model)
    with closing(loggers):
        if training.probe and not training.probe.records:
            monitor.measure_embeddings(0)
        train_steps(plan, setup, videos, start, monitor, hardware, precision)

    alarms = _training_alarms(plan, setup, head, start)
    for alarm in alarms:
        reporter.warn(alarm.message)
    weights = _weights_to_export(training)
    initial.model.load_state_dict(shards_like(initial.model, weights), strict=True)
    ranks.on_main(lambda: export_fold(folder, initial, plan, weights))
    return {
        "steps": setup.steps,
        "skipped": monitor.skipped,
        "seconds": round(time.monotonic() - start_time, 3),
        "device": str(hardware.device),
        "threads": hardware.threads,
        "ranks": ranks.size,
        "precision": precision_name(precision),
        "weights": initial.weights,
        "pretrained": initial.pretrained,
        "trained": {part: [name for name, _ in named] for part, named in setup.groups.items()},
        "last": monitor.last_losses,
        "chance": {
            name: track.levels.chance for name, track in training.loss_monitor.tracks.items()
        },
        "running_mean": rounded(training.loss_monitor.means()),
        **_monitor_facts(training, alarms),
        **_validation_facts(training.validation, reporter),
    }


def _open_loggers(
    plan: StagePlan, folder: Path, hardware: Hardware, reporter: Reporter
) -> ExternalLoggers:
    settings = flatten_table({**plan.saved_kit.tables, "seed": plan.run.facts.seed})
    name = f"{plan.run.name} {folder.name}"
    return ExternalLoggers(hardware.loggers, folder, name, settings, reporter.warn)


def _copy_head(model: VideoClassifier) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in model.head.parameters()]


def _training_alarms(
    plan: StagePlan, setup: TrainingSetup, head_before: list[torch.Tensor], start: int
) -> list[Alarm]:
    """Return an alarm when the steps of a fine-tuning have not changed the head of the classes.

    start: the step that the training resumed after; without steps there is no alarm.
    """
    head = setup.state.model.head.parameters()
    is_same = all(torch.equal(a, b) for a, b in zip(head, head_before, strict=True))
    if plan.run.facts.stage != "train" or start == setup.steps or not is_same:
        return []
    message = (
        "the head of the classes was not trained, so predictions are random: no objective of "
        '[train] uses it; add one, for example { use = "classify" }'
    )
    return [Alarm("untrained", "head", setup.steps, 0.0, 0.0, message)]


def _monitor_facts(training: TrainingState, alarms: Sequence[Alarm]) -> dict:
    """Return what a fold records of its alarms and of its probe."""
    probe = training.probe
    alarms = [*training.loss_monitor.alarms, *(probe.alarms if probe else []), *alarms]
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


def _report_groups(groups: ParameterGroups, training: TrainingState, reporter: Reporter) -> None:
    """Report the size of each part, its learning rate, or the range of those of its layers, and
    the names of its weights.
    """
    all_names = [name for name, _ in named_parameters(training.model, training.objectives)]
    options = training.optimizer.param_groups
    rates = {id(p): group["base"] for group in options for p in group["params"]}
    for part, named in groups.items():
        size = sum(weight.numel() for _, weight in named)
        numbers = sorted({rates[id(weight)] for _, weight in named})
        note = f", learning rate {numbers[0]:g}" if numbers else ""
        if len(numbers) > 1:
            note = f", learning rates {numbers[0]:g} to {numbers[-1]:g}"
        names = ", ".join(shorten_names([name for name, _ in named], all_names))
        note += f": {names}" if names not in ("", part) else ""
        reporter.log(f"trains {part}: {len(named)} tensors, {size:,} parameters{note}")


def train_steps(
    plan: StagePlan,
    setup: TrainingSetup,
    videos: FoldVideos,
    start: int,
    events: StepEvents,
    hardware: Hardware,
    precision: torch.dtype,
) -> None:
    """Run the steps after `start`, until the last one, an early stop, or a requested stop.

    events: receives those of `fit`, and its `has_stopped_early` ends the training.
    """
    stage = plan.stage
    seed = plan.run.facts.seed
    training = setup.state
    schedule = plan.build_schedule()
    batches = videos.dataset.train_batches(
        videos.training,
        setup.sampler,
        stage.batch,
        seed,
        stage.epochs,
        start * stage.accumulate,
        rank=hardware.ranks.rank,
        ranks=hardware.ranks.size,
        threads=hardware.threads,
        step_batches=stage.accumulate,
        pinned=hardware.device.type == "cuda",
    )
    remaining = (events.steps - start) * stage.accumulate

    with stop_on_signal() as is_stopping, _prepared_layers(stage, training.model, hardware.device):
        fit(
            training.model,
            training.objectives,
            takewhile(lambda _: not events.has_stopped_early, islice(batches, remaining)),
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
                learning_rate_factor(schedule, step, events.steps, stage.warmup),
            ),
            after_step=lambda step, outcome: events.after_step(
                step, outcome, hardware.ranks.is_any(is_stopping())
            ),
            on_skip=events.on_skip,
            on_out_of_memory=events.on_out_of_memory,
            must_check=events.must_check,
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
