"""The gradients of one optimizer step: the loss of each batch, computed whole or in parts."""

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

    shares: for each objective, which share of what its loss averages the next part holds.
    """

    def __init__(
        self,
        model: VideoClassifier,
        objectives: Sequence[Objective],
        device: torch.device,
        precision: torch.dtype,
    ):
        self.model = model
        self.objectives = objectives
        self.device = device
        self.precision = precision
        self.names = distinct_names(objectives)
        self.shares = [1.0] * len(objectives)

    def __call__(self, original: Batch) -> Outcome:
        """Hide what every objective hides, run the model once, and sum the losses."""
        batch = original
        targets = []
        for objective in self.objectives:
            batch = objective.hide(replace(batch, targets=original.targets))
            targets.append(batch.targets)  # by position: one plug may be used twice

        with autocast(self.device, self.precision):
            fused = self.model(batch)
            losses = [
                objective.loss(self.model, fused, replace(batch, targets=target), original)
                for objective, target in zip(self.objectives, targets, strict=True)
            ]

        losses = [
            loss if share == 1 else loss * share
            for loss, share in zip(losses, self.shares, strict=True)
        ]
        total = sum(o.weight * loss for o, loss in zip(self.objectives, losses, strict=True))
        return Outcome(total, dict(zip(self.names, losses, strict=True)))

    def split(self, batch: Batch, parts: BatchParts) -> list[Batch]:
        """Cut a batch into parts."""
        return [batch] if parts.count == 1 else [batch.select(r) for r in parts.slices(len(batch))]

    def set_shares(self, part: Batch, batch: Batch) -> None:
        """Weight the next part by how much it holds of what each loss averages over the batch."""
        self.shares[:] = [
            1.0 if part is batch else o.count(part) / max(1, o.count(batch))
            for o in self.objectives
        ]


class StepGradients:
    """Adds up the gradients of a step's batches; computes them in parts when memory runs out.

    bad_ids: the videos of this step whose loss is not finite.
    """

    def __init__(
        self,
        batch_loss: BatchLoss,
        optimizer: torch.optim.Optimizer,
        tricks: Sequence[Trick],
        scaler: torch.amp.GradScaler,
        accumulate: int,
        seed: int,
    ):
        self.optimizer = optimizer
        self.scaler = scaler
        self.accumulate = accumulate
        self.seed = seed
        self.parts = BatchParts()
        self.bad_ids: list[str] = []
        self._batches: list[tuple[int, Batch]] = []  # of this step, to be computed again
        self._batch_loss = batch_loss

        self._loss = batch_loss
        for trick in reversed(tricks):
            self._loss = trick.wrap_loss(self._loss)
        self._gradients = self._batch_gradients
        for trick in reversed(tricks):
            self._gradients = trick.wrap_gradients(self._gradients)

    def start_step(self) -> None:
        """Forget the batches of the step before."""
        self.bad_ids.clear()
        self._batches.clear()

    def add(self, number: int, batch: Batch, on_out_of_memory: Callable[[int], None]) -> Outcome:
        """Add the gradients of batch number `number`.

        When memory runs out, the step starts again with twice as many parts; on_out_of_memory is
        called with their count. Raises OutOfResources when the smallest parts do not fit either.
        """
        self._batches.append((number, batch))
        outcome = self._try_add(self._batches[-1:])
        while outcome is None:
            self.optimizer.zero_grad(set_to_none=True)
            self.bad_ids.clear()
            self.parts.double(len(batch), OUT_OF_MEMORY_ADVICE)
            on_out_of_memory(self.parts.count)
            outcome = self._try_add(self._batches)

        return outcome

    def _try_add(self, batches: Sequence[tuple[int, Batch]]) -> Outcome | None:
        """Add the gradients of batches; return None when memory ran out.

        The caller retries after this function returned, when the traceback and the tensors that it
        references are gone.
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

    def _batch_gradients(self, batch: Batch) -> Outcome:
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

    total = sum(outcome.loss.detach() for outcome in outcomes)
    names = outcomes[0].losses
    return Outcome(total, {n: sum(o.losses[n].detach() for o in outcomes) for n in names})
