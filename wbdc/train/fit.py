"""The one training loop, for pretraining and fine-tuning alike."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from wbdc.core.batch import Batch
from wbdc.core.device import autocast
from wbdc.core.errors import Diverged
from wbdc.core.out_of_memory import Parts, is_out_of_memory
from wbdc.core.plug import distinct_names
from wbdc.nets.model import VideoClassifier
from wbdc.train.objectives import Objective
from wbdc.train.tricks import Outcome, Trick

ADVICE = "lower batch in the kit, shorten text.length or take fewer vision.frames"
PATIENCE = 3  # steps in a row whose loss may be not finite


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
    on_skip: Callable[[int, Sequence[str]], None] = lambda step, ids: None,
    on_cut: Callable[[int, int], None] = lambda step, parts: None,
) -> None:
    """Train the model on the batches, once through, from step `start` on.

    accumulate: batches per optimizer step; clip: longest gradient; before_step, after_step: called with the step's number, from 1.
    All randomness of a batch comes from (seed, its number), so a run that starts at `start` equals one that got there.
    A step is skipped when the loss of any of its batches, or the gradient, is not finite; on_skip: called with its number and
    the ids of those videos. Raises Diverged when that happens PATIENCE times in a row.

    When memory runs out, the step is done again with every batch in two parts, then four, then eight, and later steps too;
    on_cut: called with the step's number and the parts. A part counts as much as it holds of what each loss averages, so the
    gradient is that of the whole batch, but what is drawn at random (masks, dropout), and losses that compare the videos of
    a batch, differ. Raises OutOfResources when the parts do not fit either.
    """
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=False)
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    names, bad_ids = distinct_names(objectives), []
    cuts, shares = Parts(), [1.0] * len(objectives)  # shares: of its batch that a part is, for each objective

    def loss(whole: Batch) -> Outcome:
        batch, targets = whole, []
        for objective in objectives:
            batch = objective.hide(replace(batch, targets=whole.targets))
            targets.append(batch.targets)  # by position: one plug may be used twice
        with autocast(device, precision):
            seen = model(batch)
            parts = [o.loss(model, seen, replace(batch, targets=own), whole) for o, own in zip(objectives, targets)]
        parts = [part * share if share != 1 else part for part, share in zip(parts, shares)]
        return Outcome(sum(o.weight * part for o, part in zip(objectives, parts)), dict(zip(names, parts)))

    for trick in reversed(tricks):
        loss = trick.wrap_loss(loss)

    def gradients(batch: Batch) -> Outcome:
        outcomes = []
        for part in (batch.rows(rows) for rows in cuts.slices(len(batch))) if cuts.count > 1 else [batch]:
            shares[:] = [o.count(part) / max(1, o.count(batch)) if cuts.count > 1 else 1.0 for o in objectives]
            outcome = loss(part)
            if outcome.loss.isfinite():
                scaler.scale(outcome.loss / accumulate).backward()
            else:
                bad_ids.extend(part.ids)
            outcomes.append(outcome)
        return total(outcomes)

    for trick in reversed(tricks):
        gradients = trick.wrap_gradients(gradients)

    def attempt(numbered: Sequence[tuple[int, Batch]]) -> Outcome | None:
        """Add the gradients of batches; None when memory ran out, once the traceback that holds tensors is gone."""
        try:
            for number, batch in numbered:
                torch.manual_seed((seed << 32) + number)
                outcome = gradients(batch.to(device))
            return outcome
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    model.train()
    skipped, held = 0, []  # held: the batches of a step, to be done again
    for number, batch in enumerate(batches, start * accumulate + 1):
        step, rest = divmod(number - 1, accumulate)
        if rest == 0:
            before_step(step + 1)
            bad_ids.clear()
            held.clear()
        held.append((number, batch))
        outcome = attempt(held[-1:])
        while outcome is None:
            optimizer.zero_grad(set_to_none=True)
            bad_ids.clear()
            cuts.double(len(batch), ADVICE)
            on_cut(step + 1, cuts.count)
            outcome = attempt(held)
        if rest + 1 < accumulate:
            continue
        if not bad_ids:
            scaler.unscale_(optimizer)
            length = nn.utils.clip_grad_norm_(weights, clip)
            if not scaler.is_enabled() and not length.isfinite():  # a scaler skips such a step itself
                bad_ids.extend(batch.ids)
        if not bad_ids:
            scaler.step(optimizer)
            scaler.update()
            for trick in tricks:
                trick.after_step(step + 1)
        skipped = skipped + 1 if bad_ids else 0
        if bad_ids:
            on_skip(step + 1, list(dict.fromkeys(bad_ids)))
        if skipped == PATIENCE:
            last = ", ".join(list(dict.fromkeys(bad_ids))[:5])
            raise Diverged(
                f"the loss was not finite {PATIENCE} times in a row, last for videos {last}; "
                "lower the rates, or use precision bf16 or fp32"
            )
        optimizer.zero_grad(set_to_none=True)
        after_step(step + 1, outcome)


def total(outcomes: Sequence[Outcome]) -> Outcome:
    """Add the outcomes of the parts of one batch."""
    if len(outcomes) == 1:
        return outcomes[0]
    parts = {name: sum(o.parts[name].detach() for o in outcomes) for name in outcomes[0].parts}
    return Outcome(sum(o.loss.detach() for o in outcomes), parts)
