"""The rows and classes that a search scores its subsets on: of many, a part, so that thousands of
subsets of 100,000 videos take seconds.
"""

from typing import NamedTuple

import numpy as np

from wbdc.ensemble.row_samples import spread_rows

MAX_FITTED_ROWS = 1000  # per fold whose weights are learned
MAX_SCORED_ROWS = 5000
MAX_BLENDED_CLASSES = 16  # of a row: the true class, and those that some member finds most probable


class SearchRows(NamedTuple):
    """rows: (n,) positions of the rows. classes: (n, K) codes, rising, of the classes that a blend
    may predict. probabilities: (n, M, K) float32 of M members. truth: (n,) int, the column of the
    true class.
    """

    rows: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    truth: np.ndarray


def choose_search_rows(members: np.ndarray, truth: np.ndarray) -> SearchRows:
    """Choose the rows and classes of a search. members: (M, n, C) float; truth: (n,) class codes.

    All of them, where there are no more than the limits above.
    """
    rows = spread_rows(np.arange(len(truth)), MAX_SCORED_ROWS)
    if len(rows) < len(truth):
        members = members[:, rows]
    true_classes = truth[rows][:, None]
    highest = members.max(axis=0)
    np.put_along_axis(highest, true_classes, np.inf, axis=1)
    count = min(MAX_BLENDED_CLASSES, highest.shape[1])
    classes = np.sort(np.argpartition(-highest, count - 1, axis=1)[:, :count], axis=1)
    chosen = np.take_along_axis(members, classes[None], axis=2)
    # (n, M, K): one blend is one product
    probabilities = np.ascontiguousarray(chosen.transpose(1, 0, 2), dtype=np.float32)
    return SearchRows(rows, classes, probabilities, (classes == true_classes).argmax(axis=1))
