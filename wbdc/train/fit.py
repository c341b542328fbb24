"""The one training loop, for pretraining and fine-tuning alike."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from wbdc.core.batch import Batch
from wbdc.core.device import autocast
from wbdc.core.errors import Diverged
from wbdc.core.plug import called
from wbdc.nets.model import VideoClassifier
from wbdc.train.objectives import Objective
from wbdc.train.tricks import Outcome, Trick

PATIENCE = 3  # batches in a row whose loss may be not finite


def fit(
    model: VideoClassifier,
    objectives: Sequence[Objective],
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    tricks: Sequence[Trick] = (),
    *,
    device: torch.device = torch.device("cpu"),
    precision: torch.dtype = torch.float32,
    scaler: torch.amp.GradScaler | None = None,
    accumulate: int = 1,
    clip: float = 1.0,
    seed: int = 0,
    start: int = 0,
    before_step: Callable[[int], None] = lambda step: None,
    after_step: Callable[[int, Outcome], None] = lambda step, outcome: None,
) -> None:
    """Train the model on the batches, once through, from step `start` on.

    accumulate: batches per optimizer step; clip: longest gradient; before_step, after_step: called with the step's number, from 1.
    All randomness of a batch comes from (seed, its number), so a run that starts at `start` equals one that got there.
    Raises Diverged when the loss is not finite PATIENCE times in a row.
    """
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)
    weights = [p for group in optimizer.param_groups for p in group["params"]]

    def loss(whole: Batch) -> Outcome:
        batch = whole
        for objective in objectives:
            batch = objective.hide(batch)
        with autocast(device, precision):
            seen = model(batch)
            parts = {called(o): o.loss(model, seen, batch, whole) for o in objectives}
        return Outcome(sum(o.weight * part for o, part in zip(objectives, parts.values())), parts)

    for trick in reversed(tricks):
        loss = trick.wrap_loss(loss)

    def gradients(batch: Batch) -> Outcome:
        outcome = loss(batch)
        if outcome.loss.isfinite():
            scaler.scale(outcome.loss / accumulate).backward()
        return outcome

    for trick in reversed(tricks):
        gradients = trick.wrap_gradients(gradients)

    model.train()
    bad = 0
    for number, batch in enumerate(batches, start * accumulate + 1):
        torch.manual_seed((seed << 32) + number)
        step, rest = divmod(number - 1, accumulate)
        if rest == 0:
            before_step(step + 1)
        outcome = gradients(batch.to(device))
        bad = 0 if outcome.loss.isfinite() else bad + 1
        if bad == PATIENCE:
            last = ", ".join(batch.ids[:5])
            raise Diverged(f"the loss was not finite {PATIENCE} times in a row, last for videos {last}; lower the rates, or use precision bf16 or fp32")
        if rest + 1 < accumulate:
            continue
        if not bad:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(weights, clip)
            scaler.step(optimizer)
            scaler.update()
            for trick in tricks:
                trick.after_step(step + 1)
        optimizer.zero_grad(set_to_none=True)
        after_step(step + 1, outcome)

