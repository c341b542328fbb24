"""The one training loop, for pretraining and fine-tuning alike."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

import torch

from wbdc.core.batch import Batch
from wbdc.core.device import CPU
from wbdc.core.ranks import Ranks
from wbdc.nets.model import VideoClassifier
from wbdc.train.distributed.replica import replicated
from wbdc.train.gradients import StepGradients
from wbdc.train.objectives import Objective
from wbdc.train.step import Step
from wbdc.train.tricks import Outcome, Trick
from wbdc.train.updates import Updates


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
    must_check: Callable[[int], bool] = lambda step: True,
    ranks: Ranks | None = None,
) -> None:
    """Train the model on the batches, once through, from step `start` on.

    accumulate: batches per optimizer step. The loss of a step is one average over all of them.
    max_grad_norm: largest norm of the gradient. before_step, after_step: called with the step's
    number, from 1. Dropout follows from (seed, the step's number), and all other randomness from
    the seeds of the videos, so training that is resumed at `start` ends with the same bits.

    A step is skipped when its loss or gradient is not finite; on_skip is called with its number and
    the ids of the videos. must_check: whether the losses are read after a step; where it returns
    False, a GPU skips such a step by itself, and it is reported after the next step, on several
    ranks at the next check. Raises Diverged when MAX_NON_FINITE_STEPS steps in a row are skipped.

    When memory runs out, the step is computed again with every batch in two parts, then four, then
    eight, and so are later steps; on_out_of_memory is called with the step's number and the parts.
    The gradient is that of the whole batch, except for dropout and for losses that compare the
    videos of a batch. Raises OutOfResources when the smallest parts do not fit either.

    ranks: those that train together, one by default. Each passes its own part of every batch;
    gradients are averaged, so that the weights are those of one process with the whole batches. The
    outcome holds the losses of this rank's shares: their sum over the ranks is the loss of the
    step. On several ranks, memory that runs out ends the training.
    """
    ranks = ranks or Ranks()
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)
    step_module = Step(model, objectives, device, precision)
    updates = Updates(optimizer, scaler, max_grad_norm, on_skip, ranks)
    hooks = [*objectives, *tricks]

    model.train()
    with replicated(step_module, ranks) as replica:
        gradients = StepGradients(step_module, replica, ranks, optimizer, tricks, scaler, seed)
        for step, step_batches in enumerate(_group(batches, accumulate), start + 1):
            before_step(step)
            for hook in hooks:
                hook.before_step(step)

            outcome = gradients.compute(step, step_batches, partial(on_out_of_memory, step))
            if updates.apply(step, gradients.part_losses, must_check(step)):
                for hook in hooks:
                    hook.after_step(step)
            after_step(step, outcome)


def _group(batches: Iterable[Batch], count: int) -> Iterator[list[Batch]]:
    """Yield `count` batches at a time; the last ones that do not fill a step are dropped."""
    iterator = iter(batches)
    while len(group := list(islice(iterator, count))) == count:
        yield group
