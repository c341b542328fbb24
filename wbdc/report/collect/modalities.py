"""What each modality contributes: accuracy by the modalities of a video, and ablations."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from wbdc.ensemble.shared_rows import shared_predictions
from wbdc.prepare.dataset import PreparedData
from wbdc.report.collect.held_out import HeldOut
from wbdc.train.runs import ALL_FOLDS, Run, list_runs

FRAMES_COLUMN = "frames"
NO_MODALITY = "nothing"


def modality_names(prepared: PreparedData, ids: Sequence[str]) -> list[str]:
    """Return the modalities that each of some labeled videos has: "title+frames"."""
    fields = prepared.facts.text_fields
    counted = (FRAMES_COLUMN, *prepared.contest.modalities)
    table = pl.scan_parquet(prepared.table_paths(prepared.facts.labeled_split), glob=False)
    present = table.select(
        "id",
        *(pl.col(field).str.len_bytes() > 0 for field in fields),
        *(pl.col(name) > 0 for name in counted),
    ).collect()
    names = {
        row[0]: "+".join(
            name for name, flag in zip((*fields, *counted), row[1:], strict=True) if flag
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
        if other.facts.without and _differs_by_modality(run, other):
            scores = _shared_scores(run, other)
            rows.append({"run": other.name, "without": other.facts.without, **scores})
    return sorted(rows, key=lambda row: (row["difference"], row["run"]))


def _differs_by_modality(run: Run, other: Run) -> bool:
    """Return whether two runs differ by a modality alone, and held out a fold in common."""
    names = ("kit", "data", "seed", "classes")
    is_same = all(getattr(run.facts, name) == getattr(other.facts, name) for name in names)
    has_shared_fold = bool(set(run.folds()) & set(other.folds()) - {ALL_FOLDS})
    return is_same and not run.facts.without and has_shared_fold


def _shared_scores(run: Run, other: Run) -> dict:
    """Score two runs on the videos that both held out."""
    shared = shared_predictions([run, other])
    labels = [run.facts.classes[code] for code in shared.truth]
    full_score, score = (
        run.contest.score_probabilities(labels, p, run.facts.classes)["mean"]
        for p in shared.members
    )
    return {
        "videos": len(labels),
        "score": score,
        "full_score": full_score,
        "difference": score - full_score,
    }
