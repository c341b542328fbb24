"""PGD: also train on word embeddings, perturbed in several steps to increase the loss (Madry et
al., 2018).
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.train.task import Task
from wbdc.train.trick_parts.perturbation import (
    PerturbedRows,
    perturbed_rows,
    weights_to_perturb,
)
from wbdc.train.trick_parts.separate_gradients import (
    add_gradients,
    fresh_gradients,
    take_gradients,
)
from wbdc.train.tricks import Gradients, Outcome, Trick


class PGD(Trick):
    """Projected gradient descent: each chosen weight takes `steps` steps w + alpha * g / |g|, each
    along the gradient g at the point that it has reached, and stays within `epsilon` of its start.
    The gradients at the last point are added to those of the ordinary pass. A training step takes
    1 + steps times as long.

    "Towards Deep Learning Models Resistant to Adversarial Attacks" perturbs the inputs; as usual in
    competitions, this perturbs the embedding table.

    epsilon: largest distance from the start, as an L2 norm. alpha: length of a step. steps: their
    number. on: text in the names of the weights to perturb. Raises UsageFault when no trainable
    weight has it.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        epsilon: float = 1.0,
        alpha: float = 0.3,
        steps: int = 3,
        on: str = "word_embeddings",
    ):
        super().__init__(model, task)
        self.check_between(0, math.inf, epsilon=epsilon, alpha=alpha)
        self.check_between(1, math.inf, steps=steps)
        self.epsilon = epsilon
        self.alpha = alpha
        self.steps = steps
        self.on = on
        weights_to_perturb(model, on, "pgd")

    def wrap_gradients(self, gradients: Gradients) -> Gradients:
        """Return a function that adds the gradients at the last point to those of the first."""
        # now, because another trick may have frozen weights since
        self.moved_weights = weights = weights_to_perturb(self.model, self.on, "pgd")

        def adversarial_gradients(batches: Sequence[Batch]) -> Outcome:
            with fresh_gradients(self.trained_weights):
                outcome = gradients(batches)
                with perturbed_rows(weights) as perturbed:
                    self._move(perturbed)
                    first = take_gradients(self.trained_weights)
                    for _ in range(self.steps - 1):
                        gradients(batches)
                        self._move(perturbed)
                        take_gradients(self.trained_weights)
                    gradients(batches)
                add_gradients(self.trained_weights, first)
            return outcome

        return adversarial_gradients

    def _move(self, perturbed: Sequence[PerturbedRows]) -> None:
        for rows in perturbed:
            step = self.alpha * rows.direction()
            offset = rows.values + step - rows.start
            rows.write(rows.start + project_to_ball(offset, rows.norm(offset), self.epsilon))


def project_to_ball(offset: Tensor, norm: Tensor, radius: float) -> Tensor:
    """Return the nearest point to `offset` whose L2 norm is at most `radius`.

    norm: of the whole offset, of which a rank may hold a part; scalar.
    """
    return offset * (radius / norm.clamp(min=1e-12)).clamp(max=1)
