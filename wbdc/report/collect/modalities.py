"""What each modality contributes: accuracy by the modalities of a video, and ablations."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from wbdc.prepare.dataset import PreparedData
from wbdc.report.collect.held_out import HeldOut, run_held_out
from wbdc.train.runs import ALL_FOLDS, Run, list_runs

FRAMES_COLUMN = "frames"
NO_MODALITY = "nothing"


def modality_names(prepared: PreparedData, ids: Sequence[str]) -> list[str]:
    """Return the modalities that each of some labeled videos has: "title+frames"."""
    fields = prepared.facts.text_fields
    table = pl.scan_parquet(prepared.table_paths(prepared.facts.labeled_split), glob=False)
    present = table.select(
        "id", *(pl.col(field).str.len_bytes() > 0 for field in fields), pl.col(FRAMES_COLUMN) > 0
    ).collect()
    names = {
        row[0]: "+".join(
            name for name, flag in zip((*fields, FRAMES_COLUMN), row[1:], strict=True) if flag
        )
        for row in present.iter_rows()
    }
    return [names[name] or NO_MODALITY for name in ids]


def accuracy_by_modalities(held_out: HeldOut, names: Sequence[str]) -> list[dict]:
    """Return the accuracy for each set of modalities, the most frequent first: [{"modalities",
    "videos", "accuracy", "members": {name: accuracy}}].
    """
    sets, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
    tables = {"": held_out.predicted, **held_out.member_predictions()}
    rows = []
    for code in np.argsort(-counts, kind="stable"):
        is_in = codes == code
        shares = {
            name: float((predicted[is_in] == held_out.truth[is_in]).mean())
            for name, predicted in tables.items()
        }
        rows.append(
            {
                "modalities": str(sets[code]),
                "videos": int(counts[code]),
                "accuracy": shares.pop(""),
                "members": shares,
            }
        )
    return rows


def ablations(work: Path, run: Run) -> list[dict]:
    """Compare a run with the runs of its kit that were trained without a modality, on the videos
    that both held out: [{"run", "without", "videos", "score", "full_score", "difference"}].
    """
    rows = []
    for other in list_runs(work):
        if not other.facts.without or not _differs_by_modality(run, other):
            continue
        scores = _shared_scores(run, other)
        if scores:
            rows.append({"run": other.name, "without": other.facts.without, **scores})
    return sorted(rows, key=lambda row: (row["difference"], row["run"]))


def _differs_by_modality(run: Run, other: Run) -> bool:
    names = ("kit", "data", "seed", "classes")
    is_same = all(getattr(run.facts, name) == getattr(other.facts, name) for name in names)
    return is_same and not run.facts.without and bool(set(other.folds()) - {ALL_FOLDS})


def _shared_scores(run: Run, other: Run) -> dict | None:
    """Score two runs on the videos that both held out; None where there are none."""
    full, ablated = run_held_out(run), run_held_out(other)
    rows = {name: row for row, name in enumerate(ablated.ids)}
    shared = [(row, rows[name]) for row, name in enumerate(full.ids) if name in rows]
    if not shared:
        return None
    full_rows, ablated_rows = map(list, zip(*shared, strict=True))
    labels = [full.labels[row] for row in full_rows]
    scores = [
        run.contest.score_probabilities(labels, p, full.classes)["mean"]
        for p in (full.probabilities[full_rows], ablated.probabilities[ablated_rows])
    ]
    return {
        "videos": len(shared),
        "score": scores[1],
        "full_score": scores[0],
        "difference": scores[1] - scores[0],
    }
