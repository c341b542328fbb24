"""Work between the steps of training: report, log, validate, save the state, and stop when
requested.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from wbdc.core.errors import Stopped
from wbdc.core.ranks import Ranks
from wbdc.train.distributed.gather import sum_over_ranks
from wbdc.train.learning_rate import current_rates
from wbdc.train.metrics import MESSAGES, MetricsLog, Throughput
from wbdc.train.monitor.alarms import Alarm
from wbdc.train.monitor.loss_monitor import LossMonitor
from wbdc.train.monitor.probe import describe_probe
from wbdc.train.reporter import Reporter
from wbdc.train.state import TrainingState, gather_state, save_state
from wbdc.train.tricks import Outcome
from wbdc.train.updates import MAX_BAD_VIDEOS

LOG_EVERY_STEPS = 10


class StepMonitor:
    """Receives the `StepEvents` of one fold.

    folder: of the fold. task: the name of the training in progress reports. steps, epochs: of the
    whole training. videos_per_step: for the throughput. save_every: steps between saved states.
    skipped: steps skipped before a resume. ranks: those that train together; the first one writes.
    last_losses: the last logged value of each loss, by name. Losses are read only when they are
    logged, since reading waits for the device.
    """

    def __init__(
        self,
        folder: Path,
        task: str,
        steps: int,
        epochs: int,
        videos_per_step: int,
        save_every: int,
        skipped: int,
        training: TrainingState,
        metrics: MetricsLog,
        reporter: Reporter,
        ranks: Ranks,
    ):
        self.folder = folder
        self.task = task
        self.steps = steps
        self.epochs = epochs
        self.save_every = save_every
        self.skipped = skipped
        self.training = training
        self.metrics = metrics
        self.reporter = reporter
        self.ranks = ranks
        self.last_losses: dict[str, float] = {}
        self.throughput = Throughput(videos_per_step)

    @property
    def loss_monitor(self) -> LossMonitor:
        """The losses beside their chance levels."""
        return self.training.loss_monitor

    @property
    def has_stopped_early(self) -> bool:
        """Whether early stopping ends the training after this step."""
        validation = self.training.validation
        return validation is not None and validation.is_exhausted

    def must_check(self, step: int) -> bool:
        """Return whether the losses are read after a step: on a CPU always; on a GPU, which would
        wait, only where they are logged or the state is saved.
        """
        is_on_cpu = next(self.training.model.parameters()).device.type == "cpu"
        return is_on_cpu or self._is_logged(step) or step % self.save_every == 0

    def on_skip(self, step: int, ids: Sequence[str]) -> None:
        """Report a skipped step and the videos whose loss is not finite."""
        self.skipped += 1
        named = ", ".join(ids[:MAX_BAD_VIDEOS])
        self.reporter.log(
            f"step {step} is skipped: the loss of videos {named} is not finite; "
            f"{self.skipped} skipped so far"
        )

    def on_out_of_memory(self, step: int, parts: int) -> None:
        """Report that batches are computed in more parts."""
        self.reporter.log(
            f"memory ran out at step {step}: each batch is computed in {parts} parts from here on; "
            "a resumed run starts with whole batches again"
        )

    def after_step(self, step: int, outcome: Outcome, is_stopping: bool) -> None:
        """Report, validate and save when it is time. Raises Stopped when a stop was requested.

        is_stopping: the same on all ranks.
        """
        self.throughput.count_step()
        if self._is_logged(step):
            self._report(step, outcome)

        with self.throughput.paused():
            if self._is_validated(step):
                self._validate(step)
            if self._is_probed(step):
                self.measure_embeddings(step)
            self._save_or_stop(step, is_stopping)

    def _is_logged(self, step: int) -> bool:
        # a validated step is logged first, so that no work of the device is left to its time
        is_regular = step % LOG_EVERY_STEPS == 0 or step == self.steps
        return is_regular or self._is_validated(step) or self._is_probed(step)

    def _is_validated(self, step: int) -> bool:
        validation = self.training.validation
        return validation is not None and validation.is_due(step)

    def _is_probed(self, step: int) -> bool:
        probe = self.training.probe
        return probe is not None and probe.is_due(step)

    def measure_embeddings(self, step: int) -> None:
        """Measure and report the embeddings of the probe; step 0 is before training."""
        probe = self.training.probe
        alarms = probe.alarms
        numbers = probe.numbers(probe.measure(step))
        finite = {name: value for name, value in numbers.items() if value is not None}
        self._write_metrics(step, {"probe": finite})
        self.reporter.log(f"step {step} of {self.steps}: {describe_probe(numbers)}")
        self._report_alarms(step, [alarm for alarm in probe.alarms if alarm not in alarms])

    def _save_or_stop(self, step: int, is_stopping: bool) -> None:
        is_last = step == self.steps or self.has_stopped_early
        if is_stopping or (step % self.save_every == 0 and not is_last):
            tensors = gather_state(self.training)
            self.ranks.on_main(lambda: save_state(self.folder, step, tensors, self.skipped))
        if is_stopping and not is_last:
            error = Stopped(
                f"stopped after step {step} of {self.steps}; the same command resumes from there"
            )
            error.is_echo = not self.ranks.is_main
            raise error

    def _report(self, step: int, outcome: Outcome) -> None:
        # a rank's losses are weighted by its share of the step, so their sum is that of the step
        own_losses = torch.stack([loss.detach().float() for loss in outcome.losses.values()])
        values = sum_over_ranks(own_losses).tolist()
        losses = {
            name: round(value, 5)
            for name, value in zip(outcome.losses, values, strict=True)
            if math.isfinite(value)
        }
        self.last_losses |= losses
        alarms = self.loss_monitor.add(step, losses)
        self.reporter.progress(self.task, step, self.steps, self._note())
        self._write_metrics(
            step,
            self.last_losses
            | {
                "running_mean": rounded(self.loss_monitor.means()),
                "chance": rounded(self.loss_monitor.chances()),
                "learning_rate": current_rates(self.training.optimizer),
                "videos_per_second": round(self.throughput.read(), 2),
            },
        )
        self._report_alarms(step, alarms)

    def _note(self) -> str:
        chances = self.loss_monitor.chances()
        return "  ".join(
            f"{name} {value:.3f}" + (f" (chance {chances[name]:.3f})" if name in chances else "")
            for name, value in self.last_losses.items()
        )

    def _report_alarms(self, step: int, alarms: Sequence[Alarm]) -> None:
        """Warn of the alarms that began, and log those that ended."""
        for alarm in alarms:
            key = f"{alarm.name} {alarm.kind}"
            if alarm.ended_step:
                self.reporter.log(alarm.end_message())
                self._write_metrics(step, {"ended_alarms": {key: alarm.step}})
            else:
                self.reporter.warn(f"warning: {alarm.message}")
                values = {"alarms": {key: round(alarm.value, 5)}, MESSAGES: {key: alarm.message}}
                self._write_metrics(step, values)

    def _write_metrics(self, step: int, entry: dict) -> None:
        if not self.ranks.is_main:
            return
        seconds = round(self.throughput.elapsed(), 2)
        counters = {"step": step, "steps": self.steps, "epochs": self.epochs}
        self.metrics.write({**counters, **entry, "seconds": seconds})

    def _validate(self, step: int) -> None:
        """Score the held-out videos; report the score, and whether training stops early."""
        validation = self.training.validation
        components = validation.validate(step)
        finite = {name: value for name, value in components.items() if math.isfinite(value)}
        self._write_metrics(step, {"validation": finite})
        self.reporter.log(f"step {step} of {self.steps}: validation score {components['mean']:.4f}")
        self.reporter.validated(step, self.steps, components["mean"])

        if self.has_stopped_early and step < self.steps:
            best = validation.best
            patience = validation.patience
            count = "1 validation" if patience == 1 else f"{patience} validations"
            self.reporter.progress(self.task, step, step, self._note())
            self.reporter.log(
                f"training stops early after step {step} of {self.steps}: "
                f"{count} without a higher score than {best.score:.4f}, "
                f"that of step {best.step}"
            )


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Round numbers to the digits of the metrics."""
    return {name: round(value, 5) for name, value in values.items()}
