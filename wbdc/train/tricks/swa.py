"""SWA: evaluate and save the mean of the weights at several steps (Izmailov et al., 2018)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wbdc.train.task import Task
from wbdc.train.trick_parts.averaged_weights import AveragedWeights
from wbdc.train.trick_parts.batch_norm_statistics import recomputed_statistics, tracking_norms
from wbdc.train.tricks import Trick


class SWA(Trick):
    """Stochastic weight averaging: the mean of the weights after several steps of the later part of
    the training, which are equally far apart; the last one is its last step.

    The members are trained weights only: the mean never enters itself. The running statistics of
    batch norms belong to none of them: as in the paper, they are computed anew for the mean, in a
    pass over the training videos as they are served, when the mean is evaluated after a new member.
    A model whose batch norms are all frozen, or that has none, takes no such pass. Other buffers of
    floats are averaged. A member whose step was skipped is taken after the next step. A training
    that stops early uses the members that it has reached, and without any its last weights. The
    paper also keeps a high learning rate, as `schedule = { use = "constant" }` does.

    start: share of the training before the first interval. members: number of weights to average;
    fewer in a training of fewer steps. With 5 epochs, start = 0.4 and members = 3 are the ends of
    the last 3 epochs.
    """

    replaces_weights = True

    def __init__(self, model: nn.Module, task: Task, *, start: float = 0.5, members: int = 5):
        super().__init__(model, task)
        self.check_between(0, 1, start=start)
        self.check_between(1, math.inf, members=members)
        self.steps = member_steps(task.total_steps, start, members)
        self.averages = AveragedWeights(model)
        self.reached = 0  # steps of members that have passed
        self.members = 0  # in the mean; fewer when steps in a row were skipped
        self.norms = tracking_norms(model)
        self.is_trained = [False] * len(self.norms)  # whether the last member trained each of them
        self.has_statistics = False  # of the present mean

    def summary(self) -> str:
        """Name the steps whose weights are averaged."""
        return f"averages the weights after steps {', '.join(map(str, self.steps))}"

    def after_step(self, step: int) -> None:
        """Add the weights to the mean when they are a member."""
        reached = sum(member <= step for member in self.steps)
        if reached > self.reached:
            self.reached = reached
            self.members += 1
            self.averages.move(1 / self.members)
            self.is_trained = [norm.training for norm in self.norms]
            self.has_statistics = False

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the mean into the model for the length of the context, once it has a member."""
        if not self.members:
            yield
            return
        with self.averages.in_model():
            if any(self.is_trained) and not self.has_statistics:
                self._compute_statistics()
            yield

    def state(self) -> dict[str, Tensor]:
        """Return the mean by the names of its weights, and the numbers of its members."""
        means = {f"mean.{name}": mean for name, mean in self.averages.state().items()}
        norms = {"is_trained": torch.tensor(self.is_trained)} if self.norms else {}
        return {"members": torch.tensor([self.reached, self.members]), **norms, **means}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned. The statistics of batch norms are computed again, to the
        same bits, since they follow from the mean.
        """
        self.reached, self.members = state["members"].tolist()
        self.is_trained = state["is_trained"].tolist() if self.norms else []
        self.has_statistics = False
        means = {name.removeprefix("mean."): mean for name, mean in state.items()}
        self.averages.restore(means)

    def _compute_statistics(self) -> None:
        """Compute the running statistics of the trained batch norms for the mean in the model."""
        pairs = zip(self.norms, self.is_trained, strict=True)
        norms = [norm for norm, is_trained in pairs if is_trained]
        in_tower = set(norms) <= set(self.model.vision.modules())
        with recomputed_statistics(norms):
            self.run_training_videos(self.model.encode if in_tower else self.model.logits)
        self.has_statistics = True


def member_steps(steps: int, start: float, members: int) -> list[int]:
    """Return the steps whose weights are averaged: the last ones of `members` equal intervals of
    what follows the share `start` of all steps. Each step occurs once.
    """
    shares = [start + (1 - start) * number / members for number in range(1, members + 1)]
    return sorted({max(1, round(steps * share)) for share in shares})
