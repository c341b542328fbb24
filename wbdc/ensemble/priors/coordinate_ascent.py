"""Coordinate ascent of class lifts on a contest's own score, and the family of lifts that it starts
from.
"""

import numpy as np

from wbdc.ensemble.mixture import MIN_PROBABILITY
from wbdc.ensemble.priors.fast_f1 import ClassLevel, code_scorer

# What is tried, in this order; of equals the first counts, and the very first lifts nothing.
FAMILIES = {"count": tuple(i / 20 for i in range(13)), "free": (1.0, 0.1, 0.01)}
MAX_LOG_OFFSET = 1.0  # how far a free log-lift may lie from the count family's
LOG_OFFSET_GRID = np.linspace(-MAX_LOG_OFFSET, MAX_LOG_OFFSET, 21)
MAX_PASSES = 5


class CoordinateAscent:
    """Coordinate ascent from the best lifts of the count family: a class's whole grid is scored at
    once, and exactly.

    As a class's lift grows, rows turn to it one after another, each from its rival, the best of the
    other classes. So tallies of
    these turns, summed along the grid, are the tallies of all grid points.
    """

    def __init__(self, logs: np.ndarray, truth: np.ndarray, found: list[ClassLevel]):
        self.logs, self.truth, self.found = logs, truth, found
        self.start = best_count_multipliers(logs, truth, found)
        z = logs + self.start.astype(np.float32)
        near = (
            z >= z.max(axis=1, keepdims=True) - 2 * MAX_LOG_OFFSET - 1e-3
        )  # elsewhere the class wins under no lifts of the grid
        self.rows = [np.flatnonzero(column) for column in np.ascontiguousarray(near.T)]

    def fit(self, strength: float) -> np.ndarray:
        """Return log-lifts (C,)."""
        self.at = np.full(len(self.start), len(LOG_OFFSET_GRID) // 2)
        self.z = self.logs + self.start.astype(np.float32)
        self.tallies = [
            _tally(level.groups, self.truth, self.z.argmax(axis=1)) for level in self.found
        ]
        cost = strength * LOG_OFFSET_GRID**2 / len(self.start)
        for _ in range(MAX_PASSES):
            if not sum([self._move(label, cost) for label in range(len(self.start))]):
                break
        return self.start + LOG_OFFSET_GRID[self.at]

    def _move(self, label: int, cost: np.ndarray) -> bool:
        rival, turn = self._turns(label)
        truth, now = self.truth[self.rows[label]], self.at[label]
        grids = []
        for level, (hit, both) in zip(self.found, self.tallies):
            more_hit, more_both = _changes(level.groups, label, truth, rival, turn)
            grids.append(
                (
                    hit + more_hit - more_hit[:, now, None],
                    both + more_both - more_both[:, now, None],
                )
            )
        goal = sum(level.f1(*grid) for level, grid in zip(self.found, grids)) - cost
        best = int(goal.argmax())
        if goal[best] <= goal[now] + 1e-12:
            return False
        self.at[label], self.tallies = (
            best,
            [(hit[:, best, None], both[:, best, None]) for hit, both in grids],
        )
        self.z[self.rows[label], label] = self._own(label)[:, best]
        return True

    def _own(self, label: int) -> np.ndarray:
        return self.logs[self.rows[label], label, None] + (
            self.start[label] + LOG_OFFSET_GRID
        ).astype(np.float32)

    def _turns(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Return each near row's rival and the grid point from which it says the class; len(GRID):
        never.
        """
        others = self.z[self.rows[label]]
        others[:, label] = -np.inf
        rival = others.argmax(axis=1)
        high, own = others[np.arange(len(rival)), rival, None], self._own(label)
        says = (own > high) | (
            (own == high) & (label < rival)[:, None]
        )  # of equals argmax takes the first
        return rival, len(LOG_OFFSET_GRID) - says.sum(axis=1)


def _changes(
    groups: np.ndarray, label: int, truth: np.ndarray, rival: np.ndarray, turn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much hits, and truths + answers, of each group change up to each grid point:
    (groups, GRID) twice.
    """
    to, of, real = groups[label], groups[rival], groups[truth]
    shape = (groups.max() + 1, len(LOG_OFFSET_GRID) + 1)
    out = []
    for gained, lost in ((real == to, real == of), (np.ones(len(of)), np.ones(len(of)))):
        change = -np.bincount(of * shape[1] + turn, lost, shape[0] * shape[1]).reshape(shape)
        change[to] += np.bincount(turn, gained, shape[1])
        out.append(change.cumsum(axis=1)[:, :-1])
    return out[0], out[1]


def _tally(
    groups: np.ndarray, truth: np.ndarray, said: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Count hits, and truths + answers, of each group: (groups, 1) float twice."""
    of, real, size = groups[said], groups[truth], groups.max() + 1
    hit = np.bincount(real, real == of, size)
    return hit[:, None], (
        np.bincount(real, minlength=size) + np.bincount(of, minlength=size)
    ).astype(np.float64)[:, None]


def best_count_multipliers(
    logs: np.ndarray, truth: np.ndarray, found: list[ClassLevel]
) -> np.ndarray:
    """Return the log-lifts (C,) of the count family that score best. logs: (n, C); truth: (n,) int."""
    tried = [count_multipliers(truth, logs.shape[1], strength) for strength in FAMILIES["count"]]
    rows = np.arange(len(truth))
    return max(
        tried,
        key=lambda lifts: code_scorer(
            found, truth, (logs + lifts.astype(np.float32)).argmax(axis=1)
        )(rows),
    )


def count_multipliers(truth: np.ndarray, size: int, strength: float) -> np.ndarray:
    """Return the count family's log-lifts (size,)."""
    return center_logarithms(-strength * np.log(np.maximum(np.bincount(truth, minlength=size), 1)))


def center_logarithms(logs: np.ndarray) -> np.ndarray:
    """Shift log-lifts so that their mean is 0: lifts of geometric mean 1."""
    return logs - logs.mean()


def safe_log(p: np.ndarray) -> np.ndarray:
    """Return log-probabilities, (n, C) float32, none below that of FLOOR."""
    return np.log(np.maximum(p, MIN_PROBABILITY), dtype=np.float32)
