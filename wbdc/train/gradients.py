"""The gradients of one optimizer step: the losses of its batches, computed whole or in parts."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from wbdc.core.batch import Batch
from wbdc.core.device_copies import BatchCopier
from wbdc.core.errors import OutOfResources
from wbdc.core.out_of_memory import BatchParts, is_out_of_memory
from wbdc.core.ranks import Ranks
from wbdc.train.distributed.gather import sum_over_ranks
from wbdc.train.distributed.replica import averaging
from wbdc.train.shared_features import frames_encoded_once, passes_share_features
from wbdc.train.step import Step
from wbdc.train.tricks import Outcome, Trick

OUT_OF_MEMORY_ADVICE = "lower batch in the kit, shorten text.length or take fewer vision.frames"


class PartLoss(NamedTuple):
    """The loss of one part of a step. ids: of its videos. loss: scalar, on the device."""

    ids: tuple[str, ...]
    loss: Tensor


class StepGradients:
    """Adds up the gradients of a step's batches; computes them in parts when memory runs out.

    replica: of `replicated`; it computes what `step` does. part_losses: of the last pass over the
    step on this rank, to find videos whose loss is not finite.
    """

    def __init__(
        self,
        step: Step,
        replica: nn.Module,
        ranks: Ranks,
        optimizer: torch.optim.Optimizer,
        tricks: Sequence[Trick],
        scaler: torch.amp.GradScaler,
        seed: int,
    ):
        self.part_losses: list[PartLoss] = []
        self._step = step
        self._optimizer = optimizer
        self._tricks = tricks
        self._scaler = scaler
        self._seed = seed
        self._parts = BatchParts()
        self._copier = BatchCopier(step.device)
        self._replica = replica
        self._ranks = ranks

        # one list for all tricks: the features that their passes share are added to it
        self._trained = [p for group in optimizer.param_groups for p in group["params"]]
        for trick in tricks:
            trick.trained_weights = self._trained
        self._loss = replica
        for trick in reversed(tricks):
            self._loss = trick.wrap_loss(self._loss)
        self._gradients = self._add_gradients
        for trick in reversed(tricks):
            self._gradients = trick.wrap_gradients(self._gradients)
        # torch's DDP wraps the tower with all else, and averages its gradients in each pass
        self._shares_features = ranks.size == 1 and passes_share_features(step.model, tricks)

    def compute(
        self, number: int, batches: Sequence[Batch], on_out_of_memory: Callable[[int], None]
    ) -> Outcome:
        """Add the gradients of step `number`, and return its losses.

        When memory runs out, the step starts again with twice as many parts; on_out_of_memory is
        called with their count. Raises OutOfResources when the smallest parts do not fit either,
        and on several ranks, because the others cannot start the step again.
        """
        outcome = self._try_compute(number, batches)
        while outcome is None:
            if self._ranks.size > 1:
                raise OutOfResources(
                    f"memory ran out on rank {self._ranks.rank}: its {len(batches[0])} videos of a "
                    f"batch do not fit; {OUT_OF_MEMORY_ADVICE}, or raise accumulate"
                )
            self._optimizer.zero_grad(set_to_none=True)
            self._parts.double(len(batches[0]), OUT_OF_MEMORY_ADVICE)
            on_out_of_memory(self._parts.count)
            outcome = self._try_compute(number, batches)

        return outcome

    def _try_compute(self, number: int, batches: Sequence[Batch]) -> Outcome | None:
        """Add the gradients of a step; return None when memory ran out.

        The caller retries after this function returned, when the traceback and the tensors that it
        references are gone.
        """
        self.part_losses = []
        # of dropout, the only randomness that differs between ranks
        _seed_generators((self._seed << 32) + number * self._ranks.size + self._ranks.rank)
        try:
            return self._add_passes([part for batch in batches for part in self._prepare(batch)])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _add_passes(self, parts: Sequence[Batch]) -> Outcome:
        """Run all passes of a step. With several parts, each pass encodes the frames of each: the
        tower's activations of all of them would not fit into memory together.
        """
        if not self._shares_features or len(parts) > 1 or parts[0].frames.is_floating_point():
            return self._gradients(parts)
        with frames_encoded_once(self._step, parts[0], self._trained) as batch:
            return self._gradients([batch])

    def _prepare(self, batch: Batch) -> list[Batch]:
        """Copy a batch to the device in parts, and let the tricks change each part.

        The CPU is ahead of a GPU by a step, which the GPU computes during the copy.
        """
        parts = [batch.select(rows) for rows in self._parts.slices(len(batch))]
        parts = [self._copier.copy(part) for part in (parts if len(parts) > 1 else [batch])]
        for trick in self._tricks:
            parts = [trick.change_batch(part) for part in parts]
        return parts

    def _add_gradients(self, parts: Sequence[Batch]) -> Outcome:
        """Run the forward and backward pass of each part of a step."""
        shares = self._shares(parts)
        outcomes = []
        for part, share in zip(parts, shares, strict=True):
            self._step.shares = share
            with averaging(self._replica, is_last=part is parts[-1]):
                outcome = self._loss(part)
                # the ranks' gradients are averaged, and the losses of their shares are to be added
                self._scaler.scale(outcome.loss * self._ranks.size).backward()
            self.part_losses.append(PartLoss(part.ids, outcome.loss.detach()))
            outcomes.append(outcome)

        return sum_outcomes(outcomes)

    def _shares(self, parts: Sequence[Batch]) -> Sequence[Tensor | None]:
        """Return which share of what each objective averages lies in each part, of all parts on
        all ranks.
        """
        if len(parts) == 1 and self._ranks.size == 1:
            return [None]

        counts = torch.stack([self._step.counts(part) for part in parts])
        return list(counts / sum_over_ranks(counts.sum(0)).clamp(min=1))


def sum_outcomes(outcomes: Sequence[Outcome]) -> Outcome:
    """Add the outcomes of the parts of one step, whose losses are weighted by their shares."""
    total = sum(outcome.loss.detach() for outcome in outcomes)
    names = outcomes[0].losses
    return Outcome(total, {n: sum(o.losses[n].detach() for o in outcomes) for n in names})


def _seed_generators(seed: int) -> None:
    """Seed the generator of the CPU and those of the GPUs that this process uses.

    `torch.manual_seed` formats its call stack for GPUs that are never used, in every step.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
