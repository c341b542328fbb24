"""Validation during training: scores of the held-out videos, early stopping, the best weights."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wbdc.core.device import CPU
from wbdc.train.evaluated_weights import copy_weights, evaluating, preserving_training
from wbdc.train.tricks import Trick

HELD_OUT_FOLD = "held-out fold"


class ValidationScore(NamedTuple):
    """The mean of the contest's score on the held-out videos after a step."""

    step: int
    score: float


class Validation:
    """Scores the model after every `every` steps and after the last one, and decides when training
    stops early.

    score: returns the components of the contest's score on the held-out videos, and their "mean".
    steps: of the whole training. patience: validations without improvement after which training
    stops (Prechelt, 1998, "Early Stopping - But When?"); 0: never. keeps_best: whether the weights
    of the best validation are copied, to be exported; otherwise the last weights are exported.
    records: the validations, in order. A score improves only when it is higher than all before.
    """

    def __init__(
        self,
        model: nn.Module,
        tricks: Sequence[Trick],
        score: Callable[[], dict[str, float]],
        *,
        steps: int,
        every: int,
        patience: int = 0,
        keeps_best: bool = False,
        device: torch.device = CPU,
    ):
        self.model = model
        self.tricks = tricks
        self.score = score
        self.steps = steps
        self.every = every
        self.patience = patience
        self.device = device
        self.records: list[ValidationScore] = []
        # filled from the start, so that a saved state has the same tensors at every step
        self.best_weights = copy_weights(model) if keeps_best else {}

    def is_due(self, step: int) -> bool:
        """Return whether the model is validated after `step`."""
        return step % self.every == 0 or step == self.steps

    def validate(self, step: int) -> dict[str, float]:
        """Score the weights that would be exported now; return the components of the score.

        Changes neither the weights nor the random numbers of the training.
        """
        with preserving_training(self.model, self.device), evaluating(self.tricks):
            components = self.score()
            self.records.append(ValidationScore(step, components["mean"]))
            if self.best_weights and self.best is self.records[-1]:
                self.best_weights = copy_weights(self.model)
        return components

    @property
    def best(self) -> ValidationScore:
        """The best validation; the first of equal ones. Scores that are NaN count as the lowest."""
        return max(self.records, key=lambda record: _comparable(record.score))

    @property
    def is_exhausted(self) -> bool:
        """Whether the last `patience` validations did not improve the score."""
        if not self.patience or not self.records:
            return False
        return len(self.records) - 1 - self.records.index(self.best) >= self.patience

    @property
    def is_selecting(self) -> bool:
        """Whether the held-out videos decide which weights are exported."""
        return bool(self.patience or self.best_weights)

    def facts(self) -> dict:
        """Return what a finished fold records of its validations."""
        last_step = self.records[-1].step
        facts = {
            "validations": [
                {"step": step, "score": score if math.isfinite(score) else None}
                for step, score in self.records
            ],
            "stop_step": last_step,
            "weights_step": self.best.step if self.best_weights else last_step,
        }
        return facts | ({"selected_on": HELD_OUT_FOLD} if self.is_selecting else {})

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed training needs, as tensors whose shapes never change."""
        padding = [ValidationScore(0, 0.0)] * (-(-self.steps // self.every) - len(self.records))
        steps, scores = zip(*self.records, *padding, strict=True)
        weights = {f"best.{name}": tensor for name, tensor in self.best_weights.items()}
        return {
            "steps": torch.tensor(steps, dtype=torch.int64),
            "scores": torch.tensor(scores, dtype=torch.float64),
            **weights,
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        pairs = zip(state["steps"].tolist(), state["scores"].tolist(), strict=True)
        self.records = [ValidationScore(step, score) for step, score in pairs if step]
        self.best_weights = {name: state[f"best.{name}"].clone() for name in self.best_weights}


def _comparable(score: float) -> float:
    return -math.inf if math.isnan(score) else score
