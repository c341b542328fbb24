"""Optimizers that run side by side, whose functions are evaluated together."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")
ValueAndGradient = tuple[float, np.ndarray]
Function = Callable[[np.ndarray], ValueAndGradient]  # of a point (M,)


class JointFits:
    """Fits that wait for each other: a round evaluates the next points of all that have not ended.

    evaluate: takes {fit: point} and returns {fit: value and gradient}, each of which may not depend
    on the other points. So the results do not depend on which thread is faster.
    """

    def __init__(
        self, count: int, evaluate: Callable[[dict[int, np.ndarray]], dict[int, ValueAndGradient]]
    ):
        self.evaluate = evaluate
        self.points: dict[int, np.ndarray] = {}
        self.values: dict[int, ValueAndGradient] = {}
        self.has_ended = False
        self.rounds = Barrier(count, action=self._evaluate_round)

    def run(self, fits: Sequence[Callable[[Function], Result]]) -> list[Result]:
        """Run `count` fits, each of which takes its function. Raises what a fit or `evaluate`
        raises.
        """
        with ThreadPoolExecutor(len(fits)) as pool:
            futures = [pool.submit(self._run_one, *item) for item in enumerate(fits)]
        errors = [future.exception() for future in futures]
        for error in errors:
            if error and not isinstance(error, BrokenBarrierError):
                raise error
        return [future.result() for future in futures]

    def _run_one(self, number: int, fit: Callable[[Function], Result]) -> Result:
        def function(point: np.ndarray) -> ValueAndGradient:
            self.points[number] = point
            self.rounds.wait()
            return self.values[number]

        try:
            result = fit(function)
            self.points.pop(number, None)
            while not self.has_ended:
                self.rounds.wait()
        except BaseException:
            self.rounds.abort()
            raise
        return result

    def _evaluate_round(self) -> None:
        """Evaluate the points of a round, or end when no fit has one; all threads wait."""
        self.has_ended = not self.points
        if self.points:
            self.values = self.evaluate(dict(sorted(self.points.items())))
