"""Work between the steps of training: report, log, save the state, and stop when requested."""

import json
from collections.abc import Sequence
from pathlib import Path

from wbdc.core.errors import Stopped
from wbdc.core.files import append_line
from wbdc.train.reporter import Reporter
from wbdc.train.state import TrainingState, save_state
from wbdc.train.tricks import Outcome

LOG_EVERY_STEPS = 10
METRICS_FILE = "metrics.jsonl"


class StepMonitor:
    """Receives the events of `fit` for one fold.

    folder: of the fold. task: the name of the training in progress reports. steps: of the whole
    training. save_every: steps between saved states. skipped: steps skipped before a resume.
    last_losses: the last logged value of each loss, by name.
    """

    def __init__(
        self,
        folder: Path,
        task: str,
        steps: int,
        save_every: int,
        skipped: int,
        training: TrainingState,
        reporter: Reporter,
    ):
        self.folder = folder
        self.task = task
        self.steps = steps
        self.save_every = save_every
        self.skipped = skipped
        self.training = training
        self.reporter = reporter
        self.last_losses: dict[str, float] = {}
        self._can_log = True

    def on_skip(self, step: int, ids: Sequence[str]) -> None:
        """Report a skipped step and the videos whose loss is not finite."""
        self.skipped += 1
        self.reporter.log(
            f"step {step} is skipped: the loss of videos {', '.join(ids[:5])} is not finite; "
            f"{self.skipped} skipped so far"
        )

    def on_out_of_memory(self, step: int, parts: int) -> None:
        """Report that batches are computed in more parts."""
        self.reporter.log(
            f"memory ran out at step {step}: each batch is computed in {parts} parts from here on; "
            "a resumed run starts with whole batches again"
        )

    def after_step(self, step: int, outcome: Outcome, is_stopping: bool) -> None:
        """Report and save when it is time. Raises Stopped when a stop was requested."""
        if step % LOG_EVERY_STEPS == 0 or step == self.steps:
            self._report(step, outcome)

        is_last = step == self.steps
        if is_stopping or (step % self.save_every == 0 and not is_last):
            save_state(self.folder, step, self.training, self.skipped)
        if is_stopping and not is_last:
            raise Stopped(
                f"stopped after step {step} of {self.steps}; the same command resumes from there"
            )

    def _report(self, step: int, outcome: Outcome) -> None:
        self.last_losses |= {
            name: round(float(loss.detach()), 5)
            for name, loss in outcome.losses.items()
            if loss.isfinite()
        }
        note = "  ".join(f"{name} {value:.3f}" for name, value in self.last_losses.items())
        self.reporter.progress(self.task, step, self.steps, note)
        if self._can_log:
            self._log_metrics({"step": step, "steps": self.steps, **self.last_losses})

    def _log_metrics(self, entry: dict) -> None:
        """Add a line to the log; when that fails, training continues without a log."""
        path = self.folder / METRICS_FILE
        try:
            append_line(path, json.dumps(entry))
        except OSError as error:
            self._can_log = False
            self.reporter.log(
                f"{path} cannot be written: {error.strerror}; training continues without it"
            )
