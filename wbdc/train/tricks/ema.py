"""EMA: evaluate and save a moving average of the weights (Polyak & Juditsky, 1992)."""

from contextlib import AbstractContextManager

from torch import Tensor, nn

from wbdc.train.task import Task
from wbdc.train.trick_parts.averaged_weights import AveragedWeights
from wbdc.train.tricks import Trick


class EMA(Trick):
    """After each step, average = d * average + (1 - d) * weights, with
    d = min(decay, (1 + step) / (10 + step)), so that short trainings forget their start.

    Every weight is averaged, and every buffer of floats, because running statistics belong to the
    weights.

    decay: share of the old average that each step keeps.
    """

    replaces_weights = True

    def __init__(self, model: nn.Module, task: Task, *, decay: float = 0.999):
        super().__init__(model, task)
        self.check_between(0, 1, decay=decay)
        self.decay = decay
        self.averages = AveragedWeights(model)

    def after_step(self, step: int) -> None:
        """Move the averages towards the weights."""
        self.averages.move(1 - min(self.decay, (1 + step) / (10 + step)))

    def evaluating(self) -> AbstractContextManager:
        """Put the averages into the model for the length of the context."""
        return self.averages.in_model()

    def state(self) -> dict[str, Tensor]:
        """Return the averages by the names of their weights."""
        return self.averages.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Copy averages that `state` returned."""
        self.averages.restore(state)
