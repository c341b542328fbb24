"""FGM: also train on word embeddings, perturbed to increase the loss (Miyato et al., 2017)."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.train.task import Task
from wbdc.train.trick_parts.perturbation import perturbed_rows, weights_to_perturb
from wbdc.train.trick_parts.separate_gradients import fresh_gradients
from wbdc.train.tricks import Gradients, Outcome, Trick


class FGM(Trick):
    """Fast gradient method: adds the gradients of a second pass, in which each chosen weight w is
    w + epsilon * g / |g|, with g its gradient in the first pass. It doubles the time of a step.

    "Adversarial Training Methods for Semi-Supervised Text Classification" perturbs the embedded
    words of each text; as usual in competitions, this perturbs the embedding table instead.

    epsilon: length of the perturbation, as an L2 norm. on: text in the names of the weights to
    perturb. Raises UsageFault when no trainable weight has it.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        epsilon: float = 1.0,
        on: str = "word_embeddings",
    ):
        super().__init__(model, task)
        self.check_between(0, math.inf, epsilon=epsilon)
        self.epsilon = epsilon
        self.on = on
        weights_to_perturb(model, on, "fgm")

    def wrap_gradients(self, gradients: Gradients) -> Gradients:
        """Return a function that adds the gradients of both passes."""
        # now, because another trick may have frozen weights since
        self.moved_weights = weights = weights_to_perturb(self.model, self.on, "fgm")

        def adversarial_gradients(batches: Sequence[Batch]) -> Outcome:
            with fresh_gradients(self.trained_weights):
                outcome = gradients(batches)
                with perturbed_weights(weights, self.epsilon):
                    gradients(batches)
            return outcome

        return adversarial_gradients


@contextmanager
def perturbed_weights(weights: list[Tensor], epsilon: float) -> Iterator[None]:
    """Hold each weight w at w + epsilon * g / |g| in a block, then restore it bit for bit, also
    after an exception.

    g is the weight's gradient, and |g| its L2 norm. A weight stays when its gradient is missing,
    zero or not finite.
    """
    with perturbed_rows(weights) as perturbed:
        for rows in perturbed:
            rows.add(rows.direction().mul_(epsilon))
        yield
