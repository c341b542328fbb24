"""The gradients of one optimizer step: the loss of each batch, whole or in parts."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from wbdc.core.batch import Batch
from wbdc.core.device import autocast
from wbdc.core.out_of_memory import BatchParts, is_out_of_memory
from wbdc.core.plug import distinct_names
from wbdc.nets.model import VideoClassifier
from wbdc.train.objectives import Objective
from wbdc.train.tricks import Outcome, Trick

OUT_OF_MEMORY_ADVICE = "lower batch in the kit, shorten text.length or take fewer vision.frames"


class BatchLoss:
    """The weighted sum of the objectives' losses of a batch.

    shares: for each objective, how much of its whole batch the next part holds.
    """

    def __init__(
        self,
        model: VideoClassifier,
        objectives: Sequence[Objective],
        device: torch.device,
        precision: torch.dtype,
    ):
        self.model, self.objectives = model, objectives
        self.device, self.precision = device, precision
        self.names = distinct_names(objectives)
        self.shares = [1.0] * len(objectives)

    def __call__(self, whole: Batch) -> Outcome:
        batch, targets = whole, []
        for objective in self.objectives:
            batch = objective.hide(replace(batch, targets=whole.targets))
            targets.append(batch.targets)  # by position: one plug may be used twice

        with autocast(self.device, self.precision):
            seen = self.model(batch)
            losses = [
                objective.loss(self.model, seen, replace(batch, targets=own), whole)
                for objective, own in zip(self.objectives, targets)
            ]
        losses = [loss * share if share != 1 else loss for loss, share in zip(losses, self.shares)]

        total = sum(o.weight * loss for o, loss in zip(self.objectives, losses))
        return Outcome(total, dict(zip(self.names, losses)))

    def split(self, batch: Batch, parts: BatchParts) -> list[Batch]:
        """Cut a batch into parts, as many as its memory needs."""
        return [batch] if parts.count == 1 else [batch.select(r) for r in parts.slices(len(batch))]

    def set_shares(self, part: Batch, whole: Batch) -> None:
        """Weigh a part by how much it holds of what each loss averages."""
        self.shares[:] = [
            1.0 if part is whole else o.count(part) / max(1, o.count(whole))
            for o in self.objectives
        ]


class StepGradients:
    """Adds the gradients of a step's batches; without memory for them, does it again in parts.

    bad_ids: the videos of this step whose loss is not finite.
    """

    def __init__(
        self,
        loss: BatchLoss,
        optimizer: torch.optim.Optimizer,
        tricks: Sequence[Trick],
        scaler: torch.amp.GradScaler,
        accumulate: int,
        seed: int,
    ):
        self.optimizer, self.scaler = optimizer, scaler
        self.accumulate, self.seed = accumulate, seed
        self.parts = BatchParts()
        self.bad_ids: list[str] = []
        self._batches: list[tuple[int, Batch]] = []  # of this step, to be done again
        self._batch_loss = self._loss = loss
        self._gradients = self._of_batch
        for trick in reversed(tricks):
            self._loss = trick.wrap_loss(self._loss)
        for trick in reversed(tricks):
            self._gradients = trick.wrap_gradients(self._gradients)

    def start_step(self) -> None:
        """Forget the batches of the step before."""
        self.bad_ids.clear()
        self._batches.clear()

    def add(self, number: int, batch: Batch, on_cut: Callable[[int], None]) -> Outcome:
        """Add the gradients of one more batch. on_cut: called with the parts, when they double.

        Raises OutOfResources when the smallest parts do not fit either.
        """
        self._batches.append((number, batch))
        outcome = self._try(self._batches[-1:])
        while outcome is None:
            self.optimizer.zero_grad(set_to_none=True)
            self.bad_ids.clear()
            self.parts.double(len(batch), OUT_OF_MEMORY_ADVICE)
            on_cut(self.parts.count)
            outcome = self._try(self._batches)

        return outcome

    def _try(self, batches: Sequence[tuple[int, Batch]]) -> Outcome | None:
        """Add the gradients of batches; None when memory ran out.

        By then the traceback, which holds tensors, is gone.
        """
        try:
            for number, batch in batches:
                torch.manual_seed((self.seed << 32) + number)
                outcome = self._gradients(batch.to(self._batch_loss.device))
            return outcome
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _of_batch(self, batch: Batch) -> Outcome:
        outcomes = []
        for part in self._batch_loss.split(batch, self.parts):
            self._batch_loss.set_shares(part, batch)
            outcome = self._loss(part)
            if outcome.loss.isfinite():
                self.scaler.scale(outcome.loss / self.accumulate).backward()
            else:
                self.bad_ids.extend(part.ids)
            outcomes.append(outcome)

        return total_losses(outcomes)


def total_losses(outcomes: Sequence[Outcome]) -> Outcome:
    """Add the outcomes of the parts of one batch."""
    if len(outcomes) == 1:
        return outcomes[0]
    parts = {name: sum(o.parts[name].detach() for o in outcomes) for name in outcomes[0].parts}
    return Outcome(sum(o.loss.detach() for o in outcomes), parts)
