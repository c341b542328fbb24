"""The labeled data: classes, modalities, lengths, shift to the test split, findings."""

from collections import Counter

import numpy as np
import polars as pl

from wbdc.prepare.dataset import PreparedData
from wbdc.prepare.describe.finding_codes import FINDING_CODES
from wbdc.report.collect.modalities import FRAMES_COLUMN, modality_names

HISTOGRAM_BINS = 20
SEVERITY_ORDER = ("error", "warning", "note")
MAX_LISTED_GROUPS = 100


def dataset_facts(prepared: PreparedData) -> dict:
    """Return what identifies a dataset."""
    facts = prepared.facts
    return {
        "competition": facts.competition,
        "folds": facts.fold_count,
        "seed": facts.seed,
        "groups": facts.groups,
        "corrected labels": facts.corrected_labels or None,
        **{f"videos of {split}": count for split, count in facts.video_counts.items()},
        **{f"frames of {split}": count for split, count in facts.frame_counts.items()},
        "command": facts.command,
    }


def dataset_summary(prepared: PreparedData, groups: list[dict]) -> dict:
    """Describe a prepared dataset by its labeled split and by numbers about whole splits.

    groups: from `near_duplicate_groups`. Returns {"classes": from `class_counts`, "modalities":
    [{"modalities", "videos"}], "lengths": {name: {"mean", "median", "p95", "max", "bins": [[low,
    high, videos], ...]}}, "shifts": as
    `wbdc prepare` found them, "findings": [{"code", "severity", "count", "what", "consequence",
    "fix"}], "duplicates": {"groups": [...], "total", "conflicts", "videos"}}.
    """
    facts = prepared.facts
    rows = pl.scan_parquet(prepared.table_paths(facts.labeled_split), glob=False)
    texts = [pl.col(field).str.len_chars() for field in facts.text_fields]
    table = rows.select("id", "label", *texts, FRAMES_COLUMN).collect()
    return {
        "classes": class_counts(prepared, table["label"].to_list()),
        "modalities": [
            {"modalities": name, "videos": count}
            for name, count in Counter(
                modality_names(prepared, table["id"].to_list())
            ).most_common()
        ],
        "lengths": {
            **{f"characters of {field}": _histogram(table[field]) for field in facts.text_fields},
            "frames": _histogram(table[FRAMES_COLUMN]),
        },
        "shifts": facts.shifts or [],
        "findings": finding_rows(facts.findings),
        "duplicates": {
            "total": len(groups),
            "videos": sum(len(group["ids"]) for group in groups),
            "conflicts": sum(group["has_conflict"] for group in groups),
            "groups": groups[:MAX_LISTED_GROUPS],
        },
    }


def class_counts(prepared: PreparedData, labels: list[str]) -> list[dict]:
    """Return the labeled videos of each class, the most frequent first: [{"class", "videos",
    "published"}].

    published: as many as the contest states for its own labeled split; None where it states none.
    Classes that the contest knows and the data lack have 0 videos.
    """
    counts = Counter(labels)
    published = prepared.contest.class_counts()
    names = dict.fromkeys([*prepared.facts.known_classes, *counts])
    rows = [
        {"class": name, "videos": counts[name], "published": published.get(name)} for name in names
    ]
    return sorted(rows, key=lambda row: (-row["videos"], row["class"]))


def finding_rows(findings: dict[str, dict]) -> list[dict]:
    """Return the findings of `wbdc prepare`, the most severe first, without their places, which may
    be test videos.
    """
    rows = [
        {"code": code, "count": entry["count"], **FINDING_CODES[code]._asdict()}
        for code, entry in findings.items()
    ]
    return sorted(rows, key=lambda row: (SEVERITY_ORDER.index(row["severity"]), row["code"]))


def _histogram(values: pl.Series) -> dict:
    """Summarize the values above 0: a video without the modality has no length."""
    numbers = values.to_numpy()
    numbers = numbers[numbers > 0]
    if not len(numbers):
        return {"mean": None, "median": None, "p95": None, "max": None, "bins": []}
    counts, edges = np.histogram(numbers, min(HISTOGRAM_BINS, len(np.unique(numbers))))
    return {
        "mean": float(numbers.mean()),
        "median": float(np.median(numbers)),
        "p95": float(np.quantile(numbers, 0.95)),
        "max": int(numbers.max()),
        "bins": [
            [float(low), float(high), int(count)]
            for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
        ],
    }
