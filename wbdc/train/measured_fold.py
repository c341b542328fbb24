"""What a fold would cost, measured by a few real training steps that leave nothing behind."""

from collections.abc import Sequence
from math import ceil
from time import perf_counter
from typing import NamedTuple

import torch

from wbdc.core.device import find_training_precision, use_threads
from wbdc.core.errors import Stopped
from wbdc.prepare.view_sample import sample_view
from wbdc.train.dataset import Dataset
from wbdc.train.export import score_held_out
from wbdc.train.hardware import Hardware
from wbdc.train.kit_schema import Stage
from wbdc.train.reporter import Reporter
from wbdc.train.run_fold import add_pseudo_labels, join_splits, split_videos
from wbdc.train.stage_plan import StagePlan
from wbdc.train.train_fold import train_steps
from wbdc.train.training_setup import FoldVideos, set_up_training
from wbdc.train.tricks import Outcome
from wbdc.train.views import training_inputs

MAX_MEASURED_STEPS = 10
MAX_WARMUP_STEPS = 2  # before the clock starts: allocations, and the first batches are read
MAX_MEASURED_SECONDS = 60.0  # no step starts after them


class MeasuredFold(NamedTuple):
    """Estimated seconds of a fold by part, without the start of the process. views: reading the
    data once, 0 where that was done; training: all steps; evaluation: of the held-out videos, after
    the training and between epochs. bytes: of the weights; view_bytes: of the views. steps: that
    were measured.
    """

    views: float
    training: float
    evaluation: float
    bytes: int
    view_bytes: int
    steps: int


class StepClock:
    """Receives `StepEvents` instead of a `StepMonitor`, and times the steps.

    steps: of the whole training, for the schedule.
    """

    def __init__(self, steps: int, device: torch.device):
        self.steps = steps
        self.device = device
        self.ends = [perf_counter()]  # of the steps; the first one is the start

    @property
    def has_stopped_early(self) -> bool:
        """Whether enough steps are measured."""
        count = len(self.ends) - 1
        return count >= MAX_MEASURED_STEPS or self.ends[-1] - self.ends[0] > MAX_MEASURED_SECONDS

    def must_check(self, step: int) -> bool:
        """Return True: the losses are read after each step, as the end of a step is waited for."""
        return True

    def on_skip(self, step: int, ids: Sequence[str]) -> None:
        """Ignore a skipped step: it takes as long as another one."""

    def on_out_of_memory(self, step: int, parts: int) -> None:
        """Ignore it: the following steps are as slow in the training."""

    def after_step(self, step: int, outcome: Outcome, is_stopping: bool) -> None:
        """Record the end of a step. Raises Stopped."""
        if is_stopping:
            raise Stopped("stopped while steps were measured; nothing was written")
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.ends.append(perf_counter())

    def seconds_per_step(self) -> float:
        """Return the mean seconds of the steps after the warmup."""
        first = min(MAX_WARMUP_STEPS, len(self.ends) - 2)
        return (self.ends[-1] - self.ends[first]) / (len(self.ends) - 1 - first)


def measure_fold(
    plan: StagePlan, fold: str, hardware: Hardware, reporter: Reporter
) -> MeasuredFold:
    """Train the first steps of a fold on a sample of its videos, and estimate what the fold costs.

    At most MAX_MEASURED_STEPS steps, of which none starts after MAX_MEASURED_SECONDS. The model has
    its full size and starts from its own first weights, since those of a pretrained run take as
    long. Writes nothing. Raises what `train_fold` raises.
    """
    use_threads(hardware.threads)
    initial = plan.build_model()
    inputs = training_inputs(initial, plan.needs_pixels, hardware.device)
    samples = [
        sample_view(plan.prepared, inputs, split, store=hardware.store, threads=hardware.threads)
        for split in plan.splits
    ]
    dataset = join_splits(plan, [sample.view for sample in samples])
    videos = add_pseudo_labels(plan, split_videos(plan, dataset, fold), fold, Reporter())
    precision = find_training_precision(plan.stage.precision, hardware.device)
    setup = set_up_training(plan, initial, videos, hardware, precision, Reporter())

    reporter.log(
        f"measures at most {MAX_MEASURED_STEPS} steps of {setup.steps:,} on {hardware.device}, and "
        "writes nothing"
    )
    clock = StepClock(setup.steps, hardware.device)
    train_steps(plan, setup, videos, 0, clock, hardware, precision)
    model = initial.model
    return MeasuredFold(
        views=sum(sample.seconds for sample in samples),
        training=clock.seconds_per_step() * setup.steps,
        evaluation=_evaluation_seconds(plan, model, dataset, videos, hardware),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()),
        view_bytes=sum(sample.bytes for sample in samples),
        steps=len(clock.ends) - 1,
    )


def _evaluation_seconds(
    plan: StagePlan,
    model: torch.nn.Module,
    dataset: Dataset,
    videos: FoldVideos,
    hardware: Hardware,
) -> float:
    """Estimate the seconds of all evaluations from one on some batches of held-out videos."""
    sample = videos.held_out[: 2 * plan.serve.batch]
    if not len(sample):
        return 0.0
    start = perf_counter()
    score_held_out(plan, model, dataset, sample, hardware)
    seconds = (perf_counter() - start) * len(videos.held_out) / len(sample)
    return seconds * (1 + _validation_count(plan.stage))


def _validation_count(stage: Stage) -> int:
    """Return how often a stage validates during its epochs."""
    return ceil(stage.epochs / stage.validate_every) if stage.validate_every else 0
