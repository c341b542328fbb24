"""Coordinate ascent of class multipliers on a contest's score, from the best count multipliers."""

import numpy as np

from wbdc.ensemble.priors.count_multipliers import best_count_multipliers
from wbdc.ensemble.priors.fast_f1 import ClassLevel

FREE_STRENGTHS = (1.0, 0.1, 0.01)  # of the penalty on the distance from the count family
MAX_LOG_OFFSET = 1.0  # of a free log multiplier from that of the count family
LOG_OFFSET_GRID = np.linspace(-MAX_LOG_OFFSET, MAX_LOG_OFFSET, 21)
MAX_PASSES = 5

Counts = tuple[np.ndarray, np.ndarray]  # hits, and true plus predicted rows, of each group


class CoordinateAscent:
    """Coordinate ascent from the best multipliers of the count family.

    The whole grid of one class is scored at once, and exactly: as a class's multiplier grows, rows
    switch to it one after another, each from its rival, the best of the other classes. So the
    counts of these switches, summed along the grid, are the counts of all grid points.
    """

    def __init__(self, log_probabilities: np.ndarray, truth: np.ndarray, levels: list[ClassLevel]):
        self.log_probabilities = log_probabilities
        self.truth = truth
        self.levels = levels
        self.start = best_count_multipliers(log_probabilities, truth, levels)
        scores = log_probabilities + self.start.astype(np.float32)
        # in other rows the class is never predicted, whatever multipliers of the grid are used
        lowest = scores.max(axis=1, keepdims=True) - 2 * MAX_LOG_OFFSET - 1e-3
        reachable = scores >= lowest
        self.rows = [np.flatnonzero(column) for column in np.ascontiguousarray(reachable.T)]

    def fit(self, strength: float) -> np.ndarray:
        """Return log multipliers (C,). strength: of the penalty on squared offsets."""
        classes = len(self.start)
        self.grid_positions = np.full(classes, len(LOG_OFFSET_GRID) // 2)
        self.scores = self.log_probabilities + self.start.astype(np.float32)
        predictions = self.scores.argmax(axis=1)
        self.counts = [_count(level.groups, self.truth, predictions) for level in self.levels]
        penalty = strength * LOG_OFFSET_GRID**2 / classes

        for _ in range(MAX_PASSES):
            if not sum([self._move(code, penalty) for code in range(classes)]):
                break

        return self.start + LOG_OFFSET_GRID[self.grid_positions]

    def _move(self, code: int, penalty: np.ndarray) -> bool:
        """Move one class to the best point of its grid; return whether it moved."""
        rivals, switch_points = self._switches(code)
        truth, position = self.truth[self.rows[code]], self.grid_positions[code]

        grids = []
        for level, (hits, totals) in zip(self.levels, self.counts, strict=True):
            hit_changes, total_changes = _changes(level.groups, code, truth, rivals, switch_points)
            grids.append(
                (
                    hits + hit_changes - hit_changes[:, position, None],
                    totals + total_changes - total_changes[:, position, None],
                )
            )

        goal = (
            sum(level.f1(*grid) for level, grid in zip(self.levels, grids, strict=True)) - penalty
        )
        best = int(goal.argmax())
        if goal[best] <= goal[position] + 1e-12:
            return False

        self.grid_positions[code] = best
        self.counts = [(hits[:, best, None], totals[:, best, None]) for hits, totals in grids]
        self.scores[self.rows[code], code] = self._grid_scores(code)[:, best]
        return True

    def _grid_scores(self, code: int) -> np.ndarray:
        """Return a class's score in its reachable rows at each grid point: (rows, GRID)."""
        log_multipliers = (self.start[code] + LOG_OFFSET_GRID).astype(np.float32)
        return self.log_probabilities[self.rows[code], code, None] + log_multipliers

    def _switches(self, code: int) -> Counts:
        """Return each reachable row's rival, and the grid point from which the row predicts `code`.

        The grid point is len(LOG_OFFSET_GRID) where the row never does.
        """
        other_scores = self.scores[self.rows[code]]
        other_scores[:, code] = -np.inf
        rivals = other_scores.argmax(axis=1)
        rival_scores = other_scores[np.arange(len(rivals)), rivals, None]
        grid_scores = self._grid_scores(code)
        # argmax takes the first of equal scores
        wins_tie = (grid_scores == rival_scores) & (code < rivals)[:, None]
        predicted = (grid_scores > rival_scores) | wins_tie
        return rivals, len(LOG_OFFSET_GRID) - predicted.sum(axis=1)


def _changes(
    groups: np.ndarray, code: int, truth: np.ndarray, rivals: np.ndarray, switch_points: np.ndarray
) -> Counts:
    """Return the change of each group's hits and totals up to each grid point: (groups, GRID)."""
    new_group = groups[code]
    old_groups = groups[rivals]
    true_groups = groups[truth]
    shape = (groups.max() + 1, len(LOG_OFFSET_GRID) + 1)
    ones = np.ones(len(old_groups))
    hits = (true_groups == new_group, true_groups == old_groups)

    changes = []
    for gained, lost in (hits, (ones, ones)):
        cells = old_groups * shape[1] + switch_points
        change = -np.bincount(cells, lost, shape[0] * shape[1]).reshape(shape)
        change[new_group] += np.bincount(switch_points, gained, shape[1])
        changes.append(change.cumsum(axis=1)[:, :-1])
    return changes[0], changes[1]


def _count(groups: np.ndarray, truth: np.ndarray, predictions: np.ndarray) -> Counts:
    """Count hits, and true plus predicted rows, of each group: (groups, 1) float twice."""
    predicted_groups = groups[predictions]
    true_groups = groups[truth]
    size = groups.max() + 1
    hits = np.bincount(true_groups, true_groups == predicted_groups, size)
    totals = np.bincount(true_groups, minlength=size) + np.bincount(
        predicted_groups, minlength=size
    )
    return hits[:, None], totals.astype(np.float64)[:, None]
