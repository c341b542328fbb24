"""Fits whose functions are evaluated together: their rounds, their results, and their errors."""

import numpy as np
import pytest

from wbdc.ensemble.joint_fits import Function, JointFits


def descend(steps: int, function: Function) -> float:
    """Halve the gradient so many times from 1: the last value."""
    point = np.ones(1)
    for _ in range(steps):
        value, gradient = function(point)
        point = point - gradient / 2
    return value


def test_every_round_evaluates_all_fits_that_have_not_ended():
    rounds = []

    def evaluate(points):
        rounds.append(list(points))
        return {number: (float(point[0] * number), point) for number, point in points.items()}

    fits = [lambda function, steps=steps: descend(steps, function) for steps in (3, 1, 2)]
    assert JointFits(3, evaluate).run(fits) == [0.0, 1.0, 1.0]
    assert rounds == [[0, 1, 2], [0, 2], [0]]


@pytest.mark.parametrize("place", ["fit", "evaluation"])
def test_an_error_ends_all_fits_and_is_raised(place):
    def evaluate(points):
        if place == "evaluation":
            raise ArithmeticError(place)
        return {number: (0.0, point) for number, point in points.items()}

    def fail(function):
        raise ArithmeticError(place)

    fits = [lambda function: descend(50, function)] * 2
    with pytest.raises(ArithmeticError, match=place):
        JointFits(3, evaluate).run([*fits, fail if place == "fit" else fits[0]])
