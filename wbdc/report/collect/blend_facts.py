"""The blend of an ensemble: scores and weights of its members, its gain, and how they agree."""

import numpy as np

from wbdc.report.collect.held_out import HeldOut

DECISIONS = ("geometric", "bands", "class_priors")  # what `wbdc ensemble` tried beside weights


def blend_facts(report: dict) -> dict:
    """Return the scores, weights and decisions in the report of a saved ensemble.

    Returns {"members": [{"name", "weight", "score", "official", "interval", "is_dropped"}],
    "ensemble": {"score", "official", "interval"}, "best", "gain", "weighting", "decisions": {name:
    {"used", "reason", "gain"}}, "optimistic", "videos", "folds"}. weight is None for a dropped one.
    """
    dropped = {entry["name"] for entry in report["dropped"]}
    rows = [
        {
            "name": name,
            "weight": None if name in dropped else report["weights"][name],
            "is_dropped": name in dropped,
            **entry,
        }
        for name, entry in report["members"].items()
    ]
    decisions = {
        name: {
            "used": entry["used"],
            "reason": entry.get("reason"),
            "gain": entry.get("gain"),
        }
        for name in DECISIONS
        if (entry := report.get(name))
    }
    return {
        "members": sorted(rows, key=lambda row: (-row["score"]["mean"], row["name"])),
        "ensemble": report["ensemble"],
        "best": report["best"],
        "gain": report["gain"],
        "weighting": report["weighting"]["method"],
        "decisions": decisions,
        "optimistic": report.get("optimistic", []),
        "videos": report["rows"],
        "folds": report["folds"],
    }


def member_agreement(held_out: HeldOut) -> dict:
    """Compare the members pair by pair: members whose mistakes correlate less add more.

    Returns {"names", "agreement": (M, M) shares of equal predictions, "mistakes": (M, M)
    correlations of being wrong (phi coefficients), None for a member that is always or never wrong,
    "all_right", "all_wrong": shares of videos}.
    """
    tables = held_out.member_predictions()
    codes = np.stack(list(tables.values()))
    wrong = (codes != held_out.truth).astype(float)
    agreement = (codes[:, None] == codes[None]).mean(-1)
    centered = wrong - wrong.mean(1, keepdims=True)
    deviations = centered.std(1)
    products = deviations[:, None] * deviations[None]
    covariances = centered @ centered.T / wrong.shape[1]
    correlations = [
        [float(c / s) if s > 0 else None for c, s in zip(*rows, strict=True)]
        for rows in zip(covariances, products, strict=True)
    ]
    return {
        "names": list(tables),
        "agreement": agreement.tolist(),
        "mistakes": correlations,
        "all_right": float((wrong == 0).all(0).mean()),
        "all_wrong": float((wrong == 1).all(0).mean()),
    }
