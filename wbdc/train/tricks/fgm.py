"""FGM: also train on word embeddings, perturbed to increase the loss (Miyato et al., 2017)."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.train.distributed.shards import is_sharded
from wbdc.train.task import Task
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
        self.weights = [p for name, p in model.named_parameters() if on in name and p.requires_grad]
        if not self.weights:
            raise UsageFault(
                f"trick 'fgm': no trainable weight has {on!r} in its name; "
                "set `on` to a part of a weight's name"
            )

    def wrap_gradients(self, gradients: Gradients) -> Gradients:
        """Return a function that adds the gradients of both passes."""

        def adversarial_gradients(batches: Sequence[Batch]) -> Outcome:
            outcome = gradients(batches)
            with perturbed_weights(self.weights, self.epsilon):
                gradients(batches)
            return outcome

        return adversarial_gradients


@contextmanager
def perturbed_weights(weights: list[Tensor], epsilon: float) -> Iterator[None]:
    """Hold each weight w at w + epsilon * g / |g| in a block, then restore it bit for bit, also
    after an exception.

    g is the weight's gradient, and |g| its L2 norm. Rows without a gradient stay: of an embedding
    table of 21,000 words, those outside the batch. A weight stays when its gradient is missing,
    zero or not finite. Nothing here waits for a GPU.
    """
    saved = []
    try:
        with torch.no_grad():
            for weight in weights:
                if weight.grad is None:
                    continue
                norm = weight.grad.norm()
                can_move = norm.isfinite() & (norm > 0)
                rows = _rows_to_move(weight)
                saved.append((weight, rows, weight[rows].clone()))
                weight[rows] += torch.where(can_move, epsilon * weight.grad[rows] / norm, 0.0)
        yield
    finally:
        with torch.no_grad():
            for weight, rows, values in saved:
                weight[rows] = values


def _rows_to_move(weight: Tensor) -> Tensor | slice:
    """Return which rows have a gradient, (n,) bool, so that no others are copied; all rows on a
    GPU, where the CPU would wait for the answer, and of a sharded weight.
    """
    if weight.dim() < 2 or weight.device.type != "cpu" or is_sharded(weight):
        return slice(None)
    return weight.grad.flatten(1).any(1)
