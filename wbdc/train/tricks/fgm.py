"""FGM: train also on words nudged towards a larger loss (Miyato et al., 2017)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.errors import UsageFault
from wbdc.train.tricks import Gradients, Outcome, Trick


class FGM(Trick):
    """epsilon: length of the nudge; on: the weights whose name holds this. Raises UsageFault when
    none does.
    """

    def __init__(self, model: nn.Module, *, epsilon: float = 1.0, on: str = "word_embeddings"):
        super().__init__(model)
        self.epsilon = epsilon
        self.weights = [p for name, p in model.named_parameters() if on in name and p.requires_grad]
        if not self.weights:
            raise UsageFault(
                f"trick 'fgm': no trainable weight has {on!r} in its name; see the names with `wbdc kits NAME`"
            )

    def wrap_gradients(self, gradients: Gradients) -> Gradients:
        def attacked(batch: Batch) -> Outcome:
            outcome = gradients(batch)
            with perturbed_weights(self.weights, self.epsilon):
                gradients(batch)
            return outcome

        return attacked


@contextmanager
def perturbed_weights(weights: list[Tensor], epsilon: float) -> Iterator[None]:
    """Hold each weight w at w + epsilon · g / |g| for a block, then restore it bit for bit, also
    after an exception.

    Only rows with a gradient move: of a word table of 21,000 rows those of the batch. A weight
    without a gradient, or with
    one that is zero or not finite, stays.
    """
    kept = []
    try:
        with torch.no_grad():
            for weight in weights:
                length = torch.zeros(()) if weight.grad is None else weight.grad.norm()
                if torch.isfinite(length) and length > 0:
                    rows = weight.grad.flatten(1).any(1) if weight.dim() > 1 else slice(None)
                    kept.append((weight, rows, weight[rows].clone()))
                    weight[rows] += epsilon * weight.grad[rows] / length
        yield
    finally:
        with torch.no_grad():
            for weight, rows, value in kept:
                weight[rows] = value
