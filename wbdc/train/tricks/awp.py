"""AWP: train with weights that are perturbed to increase the loss (Wu et al., 2020)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.train.task import Task
from wbdc.train.trick_parts.perturbation import (
    PerturbedRows,
    perturbed_rows,
    weights_to_perturb,
)
from wbdc.train.trick_parts.separate_gradients import fresh_gradients, take_gradients
from wbdc.train.tricks import Gradients, Outcome, Trick


class AWP(Trick):
    """Adversarial weight perturbation: a step uses the gradients with each chosen weight w at
    w + alpha * |w| * g / |g|, with g its gradient in a first pass. No number moves further than
    `epsilon` times its size. This flattens the loss around the weights. A training step takes
    1 + steps times as long, and the first pass only finds the direction.

    "Adversarial Weight Perturbation Helps Robust Generalization" also perturbs the inputs. The
    bound of each number, and a late start, are those of solutions on Kaggle.

    alpha: length of a step, relative to the L2 norm of the weight. epsilon: largest relative change
    of each number. steps: of the perturbation. start: share of the training without it. on: text in
    the names of the weights to perturb; of these, the ones with at least two axes. Raises
    UsageFault when no trainable weight has it.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        alpha: float = 0.005,
        epsilon: float = 0.01,
        steps: int = 1,
        start: float = 0.0,
        on: str = "weight",
    ):
        super().__init__(model, task)
        self.check_between(0, math.inf, alpha=alpha, epsilon=epsilon)
        self.check_between(1, math.inf, steps=steps)
        self.check_between(0, 1, start=start)
        self.alpha = alpha
        self.epsilon = epsilon
        self.steps = steps
        self.on = on
        self.skipped_steps = start * task.total_steps
        self.is_active = False
        self._find_weights()

    def before_step(self, step: int) -> None:
        """Start the perturbation when it is time."""
        self.is_active = step > self.skipped_steps

    def wrap_gradients(self, gradients: Gradients) -> Gradients:
        """Return a function that computes the gradients of perturbed weights."""
        self.moved_weights = weights = (
            self._find_weights()
        )  # now, because another trick may have frozen some since

        def adversarial_gradients(batches: Sequence[Batch]) -> Outcome:
            if not self.is_active:
                return gradients(batches)

            with fresh_gradients(self.trained_weights):
                outcome = gradients(batches)
                with perturbed_rows(weights) as perturbed:
                    for _ in range(self.steps):
                        self._move(perturbed)
                        take_gradients(self.trained_weights)
                        gradients(batches)
            return outcome

        return adversarial_gradients

    def _find_weights(self) -> list[Tensor]:
        return weights_to_perturb(self.model, self.on, "awp", min_axes=2)

    def _move(self, perturbed: Sequence[PerturbedRows]) -> None:
        for rows in perturbed:
            values = rows.values + self.alpha * rows.weight_norm() * rows.direction()
            rows.write(clamp_change(values, rows.start, self.epsilon))


def clamp_change(values: Tensor, start: Tensor, epsilon: float) -> Tensor:
    """Return values that differ from `start` by at most epsilon * |start|, each."""
    bound = epsilon * start.abs()
    return torch.clamp(values, start - bound, start + bound)
