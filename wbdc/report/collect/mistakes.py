"""The error browser: held-out videos that are classified wrongly, with what is known about each."""

from typing import NamedTuple

import numpy as np
import polars as pl

from wbdc.prepare.dataset import PreparedData
from wbdc.report.collect.held_out import HeldOut
from wbdc.report.collect.lost_points import costly_mistakes
from wbdc.report.collect.modalities import FRAMES_COLUMN

TOP_CLASSES = 5
MAX_SHOWN_CHARACTERS = 1500  # of a field; the page tells how many follow
ALL_NAME = "all"  # the run or the blend, beside the members


class VideoContext(NamedTuple):
    """What is known about labeled videos beside predictions.

    groups: {id: number of its group of near-duplicates}; suspects: {id: suggested class} of likely
    label errors.
    """

    groups: dict[str, int]
    suspects: dict[str, str]


def collect_mistakes(
    held_out: HeldOut, prepared: PreparedData, context: VideoContext, count: int
) -> dict:
    """Return the mistakes that cost most points.

    Returns {"total": all mistakes, "members": names, "videos": [...]}. Each video is {"id", "fold",
    "true", "predicted", "confidence", "points": lost by it alone, "top": {name: [[class,
    probability], ...] of five classes}, "wrong_members", "missing": modalities, "texts": {field:
    its beginning}, "lengths": {field: characters}, "frames", "group", "suggested": class, if its
    label is likely wrong}.
    """
    costly = costly_mistakes(held_out, count)
    texts = _read_texts(prepared, [held_out.ids[row] for row, _ in costly])
    predictions = held_out.member_predictions()
    tables = {ALL_NAME: held_out.probabilities, **held_out.members}
    videos = [
        {
            "id": (name := held_out.ids[row]),
            "fold": str(held_out.folds[row]),
            "true": held_out.classes[held_out.truth[row]],
            "predicted": held_out.classes[held_out.predicted[row]],
            "confidence": float(held_out.probabilities[row].max()),
            "points": points,
            "top": {key: ranked_classes(p[row], held_out.classes) for key, p in tables.items()},
            "wrong_members": [
                key for key, codes in predictions.items() if codes[row] != held_out.truth[row]
            ],
            **texts[name],
            "group": context.groups.get(name),
            "suggested": context.suspects.get(name),
        }
        for row, points in costly
    ]
    return {"total": len(held_out.mistakes), "members": list(predictions), "videos": videos}


def ranked_classes(probabilities: np.ndarray, classes: list[str]) -> list[list]:
    """Return the most probable classes of a video: [[class, probability], ...]."""
    codes = np.argsort(-probabilities, kind="stable")[:TOP_CLASSES]
    return [[classes[code], float(probabilities[code])] for code in codes]


def _read_texts(prepared: PreparedData, ids: list[str]) -> dict[str, dict]:
    """Return {id: {"texts", "lengths", "missing", "frames"}} of some labeled videos."""
    fields = prepared.facts.text_fields
    table = pl.scan_parquet(prepared.table_paths(prepared.facts.labeled_split), glob=False)
    rows = table.select("id", *fields, FRAMES_COLUMN).filter(pl.col("id").is_in(ids)).collect()
    return {row["id"]: _describe_row(row, fields) for row in rows.iter_rows(named=True)}


def _describe_row(row: dict, fields: list[str]) -> dict:
    texts = {field: row[field] or "" for field in fields}
    present = {**texts, FRAMES_COLUMN: row[FRAMES_COLUMN]}
    return {
        "texts": {field: text[:MAX_SHOWN_CHARACTERS] for field, text in texts.items()},
        "lengths": {field: len(text) for field, text in texts.items()},
        "missing": [name for name, value in present.items() if not value],
        "frames": row[FRAMES_COLUMN],
    }
