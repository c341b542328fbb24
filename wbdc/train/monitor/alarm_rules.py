"""When a loss raises an alarm: inert, at its chance level, or leaking, near zero too soon."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

MAX_WINDOW_VALUES = 20  # of the running mean
MIN_WINDOW_VALUES = 5
MIN_INERT_STEPS = 50  # shorter trainings are not judged
INERT_AFTER_STEPS = 100
INERT_AFTER_SHARE = 0.2  # of the steps: twice the usual warmup
INERT_MARGIN = 0.01  # of the way from chance to the lowest possible loss
INERT_ERRORS = 2  # standard errors; one check in 44 misses a loss at chance
ENDED_ERRORS = 4  # more, so that noise does not end an alarm
LEAK_VALUES = 3
LEAK_SHARE = 0.02  # of the way from the lowest possible loss to chance
LEAK_UNTIL_STEPS = 30  # when LEAK_VALUES values are logged
LEAK_UNTIL_SHARE = 0.1  # of the steps
HIGH_LOSS = 1.05  # times chance


class LossLevels(NamedTuple):
    """The loss of a uniform prediction, None if unknown, and the lowest possible loss."""

    chance: float | None
    floor: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether a loss can be compared with them."""
        return self.chance is not None and self.chance > self.floor


def window_size(count: int) -> int:
    """Return how many of the last values the running mean covers, after `count` values.

    It is their later half, because the first losses are above chance and would hide that a model
    learns.
    """
    return max(MIN_WINDOW_VALUES, min(MAX_WINDOW_VALUES, count // 2))


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean, from the differences between neighbors.

    The variance is half the mean of their squares (von Neumann, 1941, "Distribution of the Ratio of
    the Mean Square Successive Difference to the Variance"). A falling loss hardly changes it.
    """
    squares = [(b - a) ** 2 for a, b in pairwise(values)]
    return math.sqrt(fmean(squares) / 2 / len(values)) if squares else 0.0


def is_at_chance(values: Sequence[float], levels: LossLevels, errors: float = INERT_ERRORS) -> bool:
    """Return whether the mean is above chance or not clearly below it: by less than INERT_MARGIN,
    or by less than `errors` standard errors.
    """
    margin = INERT_MARGIN * (levels.chance - levels.floor)
    return fmean(values) > levels.chance - max(margin, errors * standard_error(values))


def is_near_floor(values: Sequence[float], levels: LossLevels) -> bool:
    """Return whether the mean is within LEAK_SHARE of the lowest possible loss."""
    return fmean(values) - levels.floor < LEAK_SHARE * (levels.chance - levels.floor)


def inert_from_step(steps: int) -> int:
    """Return the step from which on a loss at chance is inert, in a training of so many steps."""
    enough = max(INERT_AFTER_STEPS, math.ceil(INERT_AFTER_SHARE * steps))
    return max(MIN_INERT_STEPS, min(steps, enough))


def leaking_until_step(steps: int) -> int:
    """Return the last step after which a loss near zero comes too soon."""
    return max(LEAK_UNTIL_STEPS, int(LEAK_UNTIL_SHARE * steps))


def inert_message(name: str, step: int, loss: float, chance: float) -> str:
    """Return the sentence about an inert loss."""
    measured = f"{name} is inert: its mean loss is {loss:.4f} after step {step}"
    if loss > HIGH_LOSS * chance:
        return (
            f"{measured}, above its chance level of {chance:.4f}; either the learning rate is too "
            "high or the warmup too short, or the weights are not trained (a learning rate of 0, "
            "frozen parts)"
        )
    return (
        f"{measured}, and its chance level is {chance:.4f}, so the model has not learned anything "
        "from it yet; train for more steps, raise its weight, the learning rate or the batch size, "
        "check that the parts of the model that it needs are not frozen, or remove it"
    )


def leaking_message(name: str, step: int, loss: float, chance: float) -> str:
    """Return the sentence about a leaking loss."""
    if loss == 0:
        return (
            f"{name} is leaking or has nothing to learn from: its loss was exactly 0 up to step "
            f"{step}; check that the videos have what it reads (frames, texts, labels), and that "
            "the model does not see what it must predict"
        )
    return (
        f"{name} is leaking: its mean loss is already {loss:.4f} after step {step}, and its chance "
        f"level is {chance:.4f}; either the model sees what it must predict (check what is hidden, "
        "and repeated videos or texts), or there is little to predict (check labels and shares)"
    )
