"""What the loop of a training reports of its steps."""

from collections.abc import Sequence
from typing import Protocol

from wbdc.train.tricks import Outcome


class StepEvents(Protocol):
    """Receives the events of `fit`, and may end the training after a step.

    steps: of the whole training, for the schedule of the learning rate.
    """

    steps: int

    @property
    def has_stopped_early(self) -> bool:
        """Whether the training ends before its last step."""

    def must_check(self, step: int) -> bool:
        """Return whether the losses are read after a step, for which the CPU waits for a GPU."""

    def on_skip(self, step: int, ids: Sequence[str]) -> None:
        """Act when a step is skipped. ids: of the videos whose loss is not finite."""

    def on_out_of_memory(self, step: int, parts: int) -> None:
        """Act when memory ran out. parts: into which each batch is divided from here on."""

    def after_step(self, step: int, outcome: Outcome, is_stopping: bool) -> None:
        """Act after the optimizer's step. Raises Stopped to end the training without a result.

        is_stopping: whether a stop was requested; the same on all ranks.
        """
