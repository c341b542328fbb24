"""The one training loop, for pretraining and fine-tuning alike."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import nn

from wbdc.core.batch import Batch
from wbdc.core.device import CPU
from wbdc.core.errors import Diverged
from wbdc.nets.model import VideoClassifier
from wbdc.train.gradients import BatchLoss, StepGradients
from wbdc.train.objectives import Objective
from wbdc.train.tricks import Outcome, Trick

MAX_NON_FINITE_STEPS = 3  # in a row; then the training ends


def fit(
    model: VideoClassifier,
    objectives: Sequence[Objective],
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    tricks: Sequence[Trick] = (),
    *,
    device: torch.device = CPU,
    precision: torch.dtype = torch.float32,
    scaler: torch.amp.GradScaler | None = None,
    accumulate: int = 1,
    max_grad_norm: float = 1.0,
    seed: int = 0,
    start: int = 0,
    before_step: Callable[[int], None] = lambda step: None,
    after_step: Callable[[int, Outcome], None] = lambda step, outcome: None,
    on_skip: Callable[[int, Sequence[str]], None] = lambda step, ids: None,
    on_out_of_memory: Callable[[int, int], None] = lambda step, parts: None,
) -> None:
    """Train the model on the batches, once through, from step `start` on.

    accumulate: batches per optimizer step. max_grad_norm: largest L2 norm of the gradient.
    before_step, after_step: called with the step's number, from 1. All randomness of a batch
    follows from (seed, its number), so training that is resumed at `start` ends with the same bits.

    A step is skipped when the gradient or the loss of any of its batches is not finite; on_skip is
    called with its number and the ids of those videos. Raises Diverged when MAX_NON_FINITE_STEPS
    steps in a row are skipped.

    When memory runs out, the step is computed again with every batch in two parts, then four, then
    eight, and so are later steps; on_out_of_memory is called with the step's number and the parts.
    Each part is weighted by how much it holds of what each loss averages, so the gradient is that
    of the whole batch, except for what is drawn at random (masks, dropout) and for losses that
    compare the videos of a batch. Raises OutOfResources when the smallest parts do not fit either.
    """
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)
    batch_loss = BatchLoss(model, objectives, device, precision)
    gradients = StepGradients(batch_loss, optimizer, tricks, scaler, accumulate, seed)
    updates = Updates(optimizer, tricks, scaler, max_grad_norm, on_skip)

    model.train()
    for number, batch in enumerate(batches, start * accumulate + 1):
        step = (number - 1) // accumulate + 1
        if (number - 1) % accumulate == 0:
            before_step(step)
            gradients.start_step()

        outcome = gradients.add(number, batch, partial(on_out_of_memory, step))
        if number % accumulate == 0:
            updates.apply(step, gradients.bad_ids, batch)
            after_step(step, outcome)


class Updates:
    """Applies the optimizer's steps; skips a step whose loss or gradient is not finite.

    skipped: number of skipped steps in a row.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        tricks: Sequence[Trick],
        scaler: torch.amp.GradScaler,
        max_grad_norm: float,
        on_skip: Callable[[int, Sequence[str]], None],
    ):
        self.optimizer = optimizer
        self.tricks = tricks
        self.scaler = scaler
        self.max_grad_norm = max_grad_norm
        self.on_skip = on_skip
        self.skipped = 0

    def apply(self, step: int, bad_ids: Sequence[str], last_batch: Batch) -> None:
        """Update the weights, or skip the step when `bad_ids` is not empty. Raises Diverged."""
        bad_ids = bad_ids or self._clip_gradient(last_batch)
        if bad_ids:
            self._skip(step, list(dict.fromkeys(bad_ids)))
        else:
            self._update_weights(step)

        self.optimizer.zero_grad(set_to_none=True)

    def _clip_gradient(self, last_batch: Batch) -> Sequence[str]:
        """Clip the gradient; return the videos of the last batch when it is not finite."""
        self.scaler.unscale_(self.optimizer)
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(weights, self.max_grad_norm)
        if self.scaler.is_enabled() or norm.isfinite():  # a scaler skips such a step itself
            return []
        return last_batch.ids

    def _update_weights(self, step: int) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for trick in self.tricks:
            trick.after_step(step)

        self.skipped = 0

    def _skip(self, step: int, bad_ids: Sequence[str]) -> None:
        """Count a skipped step. Raises Diverged after MAX_NON_FINITE_STEPS of them in a row."""
        self.on_skip(step, bad_ids)
        self.skipped += 1
        if self.skipped == MAX_NON_FINITE_STEPS:
            raise Diverged(
                f"the loss was not finite {MAX_NON_FINITE_STEPS} times in a row, "
                f"last for videos {', '.join(bad_ids[:5])}; "
                "lower the learning rates, or set precision to bf16 or fp32"
            )
