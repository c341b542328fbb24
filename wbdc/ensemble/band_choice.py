"""The choice whether the members of an ensemble have weights by class support."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from wbdc.competitions import Competition
from wbdc.ensemble.band_weights import (
    band_names,
    fit_bands,
    learn_band_weights,
    support_bands,
)
from wbdc.ensemble.blend_weights import fit_arithmetic
from wbdc.ensemble.geometric_bands import fit_geometric_bands, learn_geometric_bands
from wbdc.ensemble.geometric_weights import fit_geometric
from wbdc.ensemble.nested_blend import BlendFit, nested_blend
from wbdc.ensemble.report_entries import Evaluation, dropped_entries, ensemble_entries


def evaluate_bands(
    report: dict,
    names: Sequence[str],
    members: np.ndarray,
    truth: np.ndarray,
    folds: np.ndarray,
    classes: Sequence[str],
    competition: Competition,
    *,
    bounds: Sequence[int],
    draws: int = 1000,
    seed: int = 0,
) -> tuple[dict, np.ndarray | None]:
    """Learn weights by class support, and use them if nested predictions score better with them.

    report: from `evaluate_ensemble` or `evaluate_geometric`, with the same other arguments, whose
    mean stays; bounds: of the bands, as in `support_bands`.
    Returns (report, weights of each member for each class (M, C), or None when they are not used).
    The report gains
      bands  {used, bounds, names, classes, videos: of each band, weights: {name: [per band]}, gain}
             or {used: False, reason}; gain compares nested predictions of the members that remain,
             with weights by band and without, in score's mean
    and where they are used, its weights, dropped, ensemble, gain and support are theirs, and so is
    the sharpness of a geometric mean.
    """
    is_geometric = report["geometric"]["used"]
    reason = _reason_without_bands(members, truth, folds, classes, bounds)
    if reason:
        return report | {"bands": {"used": False, "reason": reason}}, None
    evaluation = Evaluation(competition, truth, classes, draws, seed)
    learn = learn_geometric_bands if is_geometric else learn_band_weights
    fitted = learn(members, truth, bounds)
    remaining = members[fitted.members]
    blended = nested_blend(remaining, truth, folds, _band_fit(is_geometric, bounds))
    plain = nested_blend(remaining, truth, folds, _plain_fit(is_geometric))
    gain = evaluation.gain(blended, plain)

    counts = np.bincount(truth, minlength=len(classes))
    videos = np.bincount(fitted.bands, counts, minlength=len(bounds) + 1)
    bands = {
        "used": gain.verdict == "better",
        "bounds": list(bounds),
        "names": band_names(bounds),
        "classes": np.bincount(fitted.bands, minlength=len(bounds) + 1).tolist(),
        "videos": videos.astype(int).tolist(),
        "weights": dict(zip(names, fitted.values.tolist(), strict=True)),
        "gain": gain.to_dict(),
    }
    if not bands["used"]:
        return report | {"bands": bands}, None

    mean_weights = (fitted.values @ videos / videos.sum()).tolist()
    changed = {
        "bands": bands,
        "weights": dict(zip(names, mean_weights, strict=True)),
        "dropped": dropped_entries(names, fitted.dropped, " in every band"),
        **ensemble_entries(report, names, members, blended, evaluation),
    }
    if is_geometric:
        changed["geometric"] = report["geometric"] | {"sharpness": fitted.sharpness}
    unchanged = {key: value for key, value in report.items() if key != "score_without_dropped"}
    return unchanged | changed, fitted.by_class


def report_fit(report: dict) -> BlendFit:
    """Return what learns the blend of a report of `evaluate_bands`, for `nested_blend`."""
    is_geometric = report["geometric"]["used"]
    if report["bands"]["used"]:
        return _band_fit(is_geometric, report["bands"]["bounds"])
    return _plain_fit(is_geometric)


def _band_fit(is_geometric: bool, bounds: Sequence[int]) -> BlendFit:
    """Return what learns weights by class support for a mean."""
    return partial(fit_geometric_bands if is_geometric else fit_bands, bounds=bounds)


def _plain_fit(is_geometric: bool) -> BlendFit:
    """Return what learns one weight for each member of a mean."""
    return fit_geometric if is_geometric else fit_arithmetic


def _reason_without_bands(
    members: np.ndarray,
    truth: np.ndarray,
    folds: np.ndarray,
    classes: Sequence[str],
    bounds: Sequence[int],
) -> str | None:
    """Return why weights by class support cannot be learned, if so."""
    if not bounds:
        return "not requested"
    if len(members) < 2:
        return "there is one member"
    if len(set(folds.tolist())) < 2:
        return "they need 2 folds or more"
    counts = np.bincount(truth, minlength=len(classes))
    present = set(support_bands(counts, bounds)[counts > 0].tolist())
    if len(present) < 2:
        return f"all classes have {band_names(bounds)[present.pop()]} videos"
    return None
