"""What trains a fold: sampler, steps, model, optimizer, validation, monitor and probe."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from wbdc.core.errors import UsageFault
from wbdc.data.loader import epoch_batches
from wbdc.data.text import list_tokens
from wbdc.nets.model import VideoClassifier
from wbdc.train.compatible_plugs import check_compatible
from wbdc.train.dataset import Dataset
from wbdc.train.distributed.sharded_layers import check_shardable, shard_layers, whole_weights
from wbdc.train.export import score_held_out
from wbdc.train.hardware import Hardware
from wbdc.train.initial_model import InitialModel
from wbdc.train.kit_schema import Stage
from wbdc.train.layer_decay import layer_rate_factors
from wbdc.train.monitor.embeddings import embed_videos
from wbdc.train.monitor.loss_monitor import build_loss_monitor
from wbdc.train.monitor.probe import MIN_PROBE_VIDEOS, Probe, choose_probe_videos
from wbdc.train.optimizer import build_adamw, named_parameters, parameter_groups
from wbdc.train.reporter import Reporter
from wbdc.train.runs import ALL_FOLDS
from wbdc.train.samplers import Sampler
from wbdc.train.stage_plan import StagePlan, build_task
from wbdc.train.state import TrainingState
from wbdc.train.task import Task
from wbdc.train.training_pass import run_training_videos
from wbdc.train.validation import Validation

ParameterGroups = dict[str, list[tuple[str, nn.Parameter]]]


class FoldVideos(NamedTuple):
    """The videos of a fold, as positions in a dataset, both sorted.

    training: those to train on. held_out: those to evaluate the model on; empty for fold "all".
    fold: its name.
    """

    dataset: Dataset
    training: np.ndarray
    held_out: np.ndarray
    fold: str = ALL_FOLDS

    @property
    def labels(self) -> np.ndarray:
        """The class codes of the training videos; -1 for a video without a label."""
        return self.dataset.labels[self.training]


class TrainingSetup(NamedTuple):
    """A training that is ready to start or to resume.

    groups: the weights of each part. steps: of the whole training; epoch_steps: of an epoch.
    """

    state: TrainingState
    groups: ParameterGroups
    sampler: Sampler
    steps: int
    epoch_steps: int


def set_up_training(
    plan: StagePlan,
    initial: InitialModel,
    videos: FoldVideos,
    hardware: Hardware,
    precision: torch.dtype,
    reporter: Reporter,
) -> TrainingSetup:
    """Build everything that trains a fold. An error of one rank is raised on all ranks.

    Raises UsageFault for too few videos, and for settings that do not fit the model or the data.
    """
    stage, ranks = plan.stage, hardware.ranks
    with ranks.failing_together():
        sampler = _build_sampler(plan, videos)
        steps = _count_steps(len(sampler), stage)
        task = _build_task(plan, initial, videos, steps)
        model, objectives = _build_modules(plan, initial, task, hardware.device)
        if stage.fully_shard:
            check_shardable(model, precision)
    if stage.fully_shard and ranks.size > 1:
        shard_layers(model, objectives, hardware.device)
    elif stage.fully_shard:
        reporter.log("fully_shard has no effect on a single rank: start several with torchrun")
    with ranks.failing_together():
        training, groups = _build_training(plan, model, objectives, task, precision)
    for trick in training.tricks:
        trick.run_training_videos = partial(
            run_training_videos,
            model=model,
            dataset=videos.dataset,
            positions=videos.training,
            batch_size=stage.batch,
            seed=plan.run.facts.seed,
            precision=precision,
            hardware=hardware,
        )

    if stage.validate_every:
        every = _steps_of_epochs(stage.validate_every, stage, len(sampler))
        score = partial(
            score_held_out, plan, initial.model, videos.dataset, videos.held_out, hardware
        )
        validation = _build_validation(stage, training, score, steps, every)
        training = training._replace(validation=validation)
    training = training._replace(loss_monitor=build_loss_monitor(training.objectives, steps))
    if plan.run.facts.stage == "pretrain" and stage.probe_every:
        every = _steps_of_epochs(stage.probe_every, stage, len(sampler))
        probe = _build_probe(plan, training, videos, hardware, steps, every, reporter)
        training = training._replace(probe=probe)

    return TrainingSetup(training, groups, sampler, steps, _epoch_steps(len(sampler), stage))


def _build_task(plan: StagePlan, initial: InitialModel, videos: FoldVideos, steps: int) -> Task:
    return build_task(
        plan,
        videos.labels,
        steps,
        ids=[videos.dataset.ids[i] for i in videos.training],
        vocabulary=list_tokens(initial.input_spec.text.tokenizer),
        fold=videos.fold,
    )


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


def _steps_of_epochs(epochs: float, stage: Stage, videos: int) -> int:
    """Return the number of steps of some epochs, at least 1. videos: of an epoch."""
    return max(1, round(epochs * epoch_batches(videos, stage.batch) / stage.accumulate))


def _build_sampler(plan: StagePlan, videos: FoldVideos) -> Sampler:
    """Build the sampler of the training videos. Its task has no number of steps yet."""
    lengths = videos.dataset.text_lengths(videos.training)
    return plan.build_sampler(videos.labels, lengths, build_task(plan, videos.labels, 0))


def _build_modules(
    plan: StagePlan, initial: InitialModel, task: Task, device: torch.device
) -> tuple[VideoClassifier, nn.ModuleList]:
    """Move the model to the device, and build the objectives there."""
    torch.manual_seed(plan.run.facts.seed)  # new heads are a function of the seed
    model = initial.model.to(device)
    return model, plan.build_objectives(model, task).to(device)


def _build_training(
    plan: StagePlan,
    model: VideoClassifier,
    objectives: nn.ModuleList,
    task: Task,
    precision: torch.dtype,
) -> tuple[TrainingState, ParameterGroups]:
    """Build everything that changes during training, and the weights of each part."""
    tricks = plan.build_tricks(model, task)
    stage = plan.stage
    check_compatible(objectives, tricks, has_pseudo_labels=bool(stage.pseudo))
    groups = parameter_groups(model, objectives, stage.learning_rate)
    names = [name for name, _ in named_parameters(model, objectives)]
    factors = layer_rate_factors(names, stage.learning_rate, stage.layer_decay or {})
    optimizer = build_adamw(groups, stage.learning_rate, stage.weight_decay, factors)
    device_type = next(model.parameters()).device.type
    scaler = torch.amp.GradScaler(device_type, enabled=precision == torch.float16)
    return TrainingState(model, objectives, optimizer, tricks, scaler), groups


def _build_validation(
    stage: Stage,
    training: TrainingState,
    score: Callable[[], dict[str, float]],
    steps: int,
    every: int,
) -> Validation:
    """Build the validation of a stage, after every `every` steps."""
    return Validation(
        training.model,
        training.tricks,
        score,
        steps=steps,
        every=every,
        patience=stage.patience,
        keeps_best=stage.keep == "best",
        device=next(training.model.parameters()).device,
    )


def _build_probe(
    plan: StagePlan,
    training: TrainingState,
    videos: FoldVideos,
    hardware: Hardware,
    steps: int,
    every: int,
    reporter: Reporter,
) -> Probe | None:
    """Build the probe of a pretraining, or report why there is none."""
    chosen = videos.training[choose_probe_videos(videos.labels, plan.run.facts.seed)]
    if not len(chosen):
        reporter.log(
            f"the probe of the embeddings is skipped: fewer than {MIN_PROBE_VIDEOS} of the videos "
            "have a label"
        )
        return None

    def embed() -> np.ndarray:
        with whole_weights(training.model):
            return embed_videos(training.model, videos.dataset, chosen, plan.serve, hardware)

    return Probe(
        training.model,
        training.tricks,
        embed,
        videos.dataset.labels[chosen],
        steps=steps,
        every=every,
        device=hardware.device,
    )
