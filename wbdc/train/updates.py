"""The optimizer's steps, and the steps that are skipped because they are not finite."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from wbdc.core.device_copies import HostCopy
from wbdc.core.errors import Diverged
from wbdc.core.ranks import Ranks
from wbdc.train.distributed.shards import clip_gradient
from wbdc.train.gradients import PartLoss

MAX_NON_FINITE_STEPS = 3  # in a row; then the training ends
MAX_BAD_VIDEOS = 5


class _UncheckedStep(NamedTuple):
    """A step whose losses were not read yet.

    parts: the ids of the videos of each part. is_finite: of each part's loss, and last of the norm
    of the gradient: (parts + 1,) bool, on its way to the CPU.
    """

    step: int
    parts: Sequence[tuple[str, ...]]
    is_finite: HostCopy


class Updates:
    """Applies the optimizer's steps; skips a step whose loss or gradient is not finite.

    skipped: number of skipped steps in a row.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        max_grad_norm: float,
        on_skip: Callable[[int, Sequence[str]], None],
        ranks: Ranks,
    ):
        self.skipped = 0
        self._optimizer = optimizer
        self._scaler = scaler
        self._max_grad_norm = max_grad_norm
        self._on_skip = on_skip
        self._ranks = ranks
        self._unchecked: list[_UncheckedStep] = []

    def apply(self, step: int, losses: Sequence[PartLoss], must_check: bool) -> bool:
        """Update the weights, or skip the step; return False when it is known to be skipped.

        losses: of the step's parts. must_check: read them now, which waits for the GPU. Otherwise
        the optimizer skips a step that is not finite on the device, and its losses are read one
        step later, when the GPU has work to do; several ranks, which would wait for each other,
        read them when they must. Raises Diverged.
        """
        norm = self._clip_gradient()
        is_finite = torch.stack([*(loss.loss.isfinite() for loss in losses), norm.isfinite()])
        parts = [loss.ids for loss in losses]
        self._unchecked.append(_UncheckedStep(step, parts, HostCopy(is_finite)))
        is_updated = True
        if must_check:
            is_updated = self._check(len(self._unchecked))
        elif self._ranks.size == 1:
            self._check(len(self._unchecked) - 1)
        if self._scaler.is_enabled():
            if is_updated:
                self._scaler.step(self._optimizer)
            self._scaler.update()
        elif is_updated:
            # a fused optimizer changes neither weights nor its state when this is 1
            self._optimizer.found_inf = None if must_check else (~norm.isfinite()).float()
            self._optimizer.step()

        self._optimizer.zero_grad(set_to_none=True)
        return is_updated

    def _clip_gradient(self) -> Tensor:
        """Clip the gradient and return its norm."""
        self._scaler.unscale_(self._optimizer)
        weights = [p for group in self._optimizer.param_groups for p in group["params"]]
        return clip_gradient(weights, self._max_grad_norm)

    def _check(self, count: int) -> bool:
        """Read the losses of the first `count` steps that were not checked; return whether the last
        of them may update the weights. Raises Diverged after MAX_NON_FINITE_STEPS bad steps in a
        row.
        """
        checked = self._unchecked[:count]
        flags = [unchecked.is_finite.wait().tolist() for unchecked in checked]
        non_finite = self._add_ranks(
            [_non_finite_videos(*pair) for pair in zip(checked, flags, strict=True)]
        )
        is_updated = True
        for unchecked, bad_ids, step_flags in zip(checked, non_finite, flags, strict=True):
            if not bad_ids and not step_flags[-1] and not self._scaler.is_enabled():
                # a scaler skips a step whose gradient overflowed, and lowers its scale
                (bad_ids,) = self._add_ranks([[name for ids in unchecked.parts for name in ids]])
            is_updated = not bad_ids
            self._count(unchecked.step, bad_ids)

        del self._unchecked[:count]
        return is_updated

    def _add_ranks(self, names: list[list[str]]) -> list[list[str]]:
        """Add the videos of the other ranks to those of each step, so that all ranks skip it."""
        if self._ranks.size == 1 or not self._ranks.is_any(any(names)):
            return names
        tables = self._ranks.gather(names)
        return [[name for ids in steps for name in ids] for steps in zip(*tables, strict=True)]

    def _count(self, step: int, bad_ids: Sequence[str]) -> None:
        """Count a skipped step, or start to count anew. Raises Diverged."""
        if not bad_ids:
            self.skipped = 0
            return

        ids = list(dict.fromkeys(bad_ids))
        self._on_skip(step, ids)
        self.skipped += 1
        if self.skipped == MAX_NON_FINITE_STEPS:
            error = Diverged(
                f"the loss was not finite {MAX_NON_FINITE_STEPS} times in a row, "
                f"last for videos {', '.join(ids[:MAX_BAD_VIDEOS])}; "
                "lower the learning rates, or set precision to bf16 or fp32"
            )
            error.is_echo = not self._ranks.is_main
            raise error


def _non_finite_videos(unchecked: _UncheckedStep, flags: Sequence[bool]) -> list[str]:
    """Return the videos of the parts whose loss is not finite."""
    parts = zip(unchecked.parts, flags[:-1], strict=True)
    return [name for ids, is_finite in parts if not is_finite for name in ids]
