"""Near-duplicate groups of labeled videos, and the labels that contradict each other in them."""

import numpy as np

from wbdc.prepare.dataset import PreparedData
from wbdc.prepare.describe.duplicates import duplicate_groups

PAIR_CODES = {"frames": "duplicate.frames", "text": "duplicate.text"}
PAIR_SEPARATOR = " ~ "


def near_duplicate_groups(prepared: PreparedData) -> list[dict]:
    """Return the groups of labeled videos that nearly repeat each other: those with several labels
    first, then the largest.

    Each is {"ids", "labels": of the ids, "by": ["frames", "text"] that repeat, "has_conflict"}.
    They come from the findings of `wbdc prepare`, which lists the first 100,000 pairs of each kind.
    """
    table = prepared.read_split(prepared.facts.labeled_split, ["id", "label"])
    ids, labels = table["id"].to_list(), table["label"].to_list()
    row_of = {name: row for row, name in enumerate(ids)}
    findings = prepared.read_findings()
    pairs_by = {
        modality: _labeled_pairs(findings.get(code, {}).get("places", []), row_of)
        for modality, code in PAIR_CODES.items()
    }
    pairs = np.array([pair for some in pairs_by.values() for pair in some], np.int64)
    first_rows = duplicate_groups(len(ids), pairs.reshape(-1, 2))

    members: dict[int, list[int]] = {}
    for row in sorted({row for pair in pairs.tolist() for row in pair}):
        members.setdefault(int(first_rows[row]), []).append(row)
    repeated = {
        modality: {int(first_rows[first]) for first, _ in some}
        for modality, some in pairs_by.items()
    }
    groups = [
        {
            "ids": [ids[row] for row in rows],
            "labels": [labels[row] for row in rows],
            "by": [modality for modality, firsts in repeated.items() if first in firsts],
            "has_conflict": len({labels[row] for row in rows}) > 1,
        }
        for first, rows in members.items()
    ]
    return sorted(groups, key=lambda one: (not one["has_conflict"], -len(one["ids"]), one["ids"]))


def _labeled_pairs(places: list[str], row_of: dict[str, int]) -> list[tuple[int, int]]:
    """Return the pairs of rows of which both are labeled videos. places: "ID ~ ID"."""
    pairs = []
    for pair in places:
        first, _, second = pair.partition(PAIR_SEPARATOR)
        if first in row_of and second in row_of:
            pairs.append((row_of[first], row_of[second]))
    return pairs
