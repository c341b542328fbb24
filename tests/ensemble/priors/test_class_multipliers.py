"""Class multipliers: learned without the labels they are evaluated on, used when they help."""

import json
from collections import Counter
from functools import partial

import numpy as np
import pytest

from wbdc.competitions import Competition
from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import IntegrityFault, UsageFault
from wbdc.core.scores import f1_scores
from wbdc.ensemble.band_weights import fit_bands
from wbdc.ensemble.blend_weights import fit_arithmetic
from wbdc.ensemble.priors.class_multipliers import (
    MULTIPLIER_FAMILIES,
    MULTIPLIER_OPTIONS,
    evaluate_multipliers,
    learn_multipliers,
    nested_predictions,
)
from wbdc.ensemble.priors.coordinate_ascent import LOG_OFFSET_GRID, CoordinateAscent
from wbdc.ensemble.priors.fast_f1 import class_levels
from wbdc.serve.apply_multipliers import apply_multipliers

CLASSES = ["0000", "0001", "0002", "0100", "0101", "0203", "0204", "0300"]
SHARES = np.array([40, 20, 12, 10, 8, 5, 3, 2]) / 100
CONTEST = WeChat2022()


class Flat(Competition):
    """A contest without levels: macro F1 alone."""

    def score(self, truth, predictions, classes=None):
        macro = f1_scores(
            truth, predictions, sorted({*truth, *predictions}) if classes is None else classes
        ).macro
        return {"macro": macro, "mean": macro}


def problem(
    n: int = 400, shift: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posteriors (n, 8) of Gaussian evidence, truth (n,) and folds (n,). shift: by which power of
    the shares rare classes are predicted too rarely.
    """
    random = np.random.default_rng(seed)
    truth = random.choice(len(CLASSES), n, p=SHARES)
    evidence = random.normal(size=(n, len(CLASSES)))
    evidence[np.arange(n), truth] += 2
    p = np.exp(2 * evidence) * SHARES ** (1 + shift)
    return (
        (p / p.sum(1, keepdims=True)).astype(np.float32),
        truth,
        random.choice(["fold-0", "fold-1", "fold-2"], n),
    )


def ids(codes: np.ndarray, classes: list[str] = CLASSES) -> list[str]:
    return [classes[i] for i in codes]


def test_count_multipliers_are_counts_to_a_power():
    p, truth, _ = problem()
    truth[truth == 7] = 0
    counts = Counter(truth.tolist())
    assert 7 not in counts
    longhand = np.array([max(counts[i], 1) ** -0.3 for i in range(8)])
    multipliers = learn_multipliers(p, truth, CLASSES, CONTEST, family="count", strength=0.3)
    assert multipliers == pytest.approx(longhand / longhand.prod() ** (1 / 8))
    assert np.array_equal(
        learn_multipliers(p, truth, CLASSES, CONTEST, family="count", strength=0.0), np.ones(8)
    )


@pytest.mark.parametrize("contest", [CONTEST, Flat()])
@pytest.mark.parametrize("strength", [0.01, 0.3])
def test_no_single_free_multiplier_could_be_better(contest, strength):
    """Longhand: every class at every point of the grid, scored by the competition."""
    p, truth, _ = problem(200, shift=0.5)
    logs = np.log(p)
    ascent = CoordinateAscent(logs, truth, class_levels(CLASSES, contest))
    fitted = ascent.fit(strength)
    assert np.any(fitted != ascent.start)

    def goal(multipliers: np.ndarray) -> float:
        predictions = (logs + multipliers.astype(np.float32)).argmax(1)
        return (
            contest.score(ids(truth), ids(predictions), CLASSES)["mean"]
            - strength * ((multipliers - ascent.start) ** 2).mean()
        )

    neighbors = [
        np.where(np.arange(8) == label, ascent.start[label] + step, fitted)
        for label in range(8)
        for step in LOG_OFFSET_GRID
    ]
    assert max(map(goal, neighbors)) <= goal(fitted) + 1e-9
    assert goal(fitted) > goal(ascent.start)


def test_free_multipliers_start_from_the_best_of_the_count_family():
    p, truth, _ = problem(shift=0.5)
    logs = np.log(p)
    tried = {
        s: learn_multipliers(p, truth, CLASSES, CONTEST, family="count", strength=s)
        for s in MULTIPLIER_FAMILIES["count"]
    }
    best = max(
        tried,
        key=lambda s: CONTEST.score(
            ids(truth), ids((logs + np.log(tried[s]).astype(np.float32)).argmax(1)), CLASSES
        )["mean"],
    )
    assert best > 0
    assert learn_multipliers(
        p, truth, CLASSES, CONTEST, family="free", strength=1e9
    ) == pytest.approx(tried[best])


def test_rows_with_equal_probabilities_are_counted_as_argmax_does():
    p, truth, _ = problem(100)
    p[:60] = 1 / 8
    logs = np.log(p)
    ascent = CoordinateAscent(logs, truth, levels := class_levels(CLASSES, CONTEST))
    predictions = (logs + ascent.fit(0.01).astype(np.float32)).argmax(1)
    score = sum(level.f1(*counts)[0] for level, counts in zip(levels, ascent.counts, strict=True))
    assert score == pytest.approx(
        CONTEST.score(ids(truth), ids(predictions), CLASSES)["mean"], abs=1e-12
    )


@pytest.mark.parametrize("family", MULTIPLIER_FAMILIES)
def test_multipliers_are_deterministic_with_geometric_mean_1(family):
    p, truth, _ = problem(shift=0.5)
    first, second = (
        learn_multipliers(p, truth, CLASSES, CONTEST, family=family, strength=0.1) for _ in range(2)
    )
    assert first.dtype == np.float64
    assert np.array_equal(first, second)
    assert len(set(first)) > 1
    assert np.log(first).mean() == pytest.approx(0, abs=1e-12)


def test_nested_predictions_equal_the_longhand():
    """For each fold, every option is scored on the other folds, each with what the rest teach."""
    p, truth, folds = problem(200, shift=0.3)
    predictions, names = nested_predictions(p, truth, folds, CLASSES, CONTEST), np.unique(folds)
    assert predictions.dtype == np.float32
    assert not np.array_equal(predictions.argmax(1), p.argmax(1))

    def multiplied(fold: str, other_folds: list[str], family: str, strength: float) -> np.ndarray:
        rows = np.isin(folds, other_folds)
        return apply_multipliers(
            p[folds == fold],
            learn_multipliers(
                p[rows], truth[rows], CLASSES, CONTEST, family=family, strength=strength
            ),
        )

    for fold in names:
        other_folds, scores = [name for name in names if name != fold], {}
        for choice in MULTIPLIER_OPTIONS:
            inner = np.concatenate(
                [
                    multiplied(o, [x for x in other_folds if x != o], *choice).argmax(1)
                    for o in other_folds
                ]
            )
            true = np.concatenate([truth[folds == o] for o in other_folds])
            scores[choice] = CONTEST.score(ids(true), ids(inner), CLASSES)["mean"]
        assert np.array_equal(
            predictions[folds == fold], multiplied(fold, other_folds, *max(scores, key=scores.get))
        )


@pytest.mark.parametrize("fold", ["fold-0", "fold-1", "fold-2"])
def test_nested_predictions_do_not_depend_on_their_own_labels(fold):
    p, truth, folds = problem(200, shift=0.3)
    held_out = folds == fold
    before, after = (
        nested_predictions(p, t, folds, CLASSES, CONTEST)
        for t in (truth, np.where(held_out, 7 - truth, truth))
    )
    assert np.array_equal(before[held_out], after[held_out])
    assert not np.array_equal(before[~held_out], after[~held_out])


@pytest.mark.slow
def test_a_class_prior_that_is_too_strong_is_corrected():
    p, truth, folds = problem(2000, shift=0.5)
    report = evaluate_multipliers(p, truth, folds, CLASSES, CONTEST, draws=200)
    plain = CONTEST.score(ids(truth), ids(p.argmax(1)), CLASSES)["mean"]
    assert report["used"]
    assert report["gain"]["verdict"] == "better"
    assert report["gain"]["difference"] == pytest.approx(report["score"]["mean"] - plain)
    assert report["gain"]["difference"] > 0.02
    assert report["score"] == CONTEST.score(
        ids(truth), ids(nested_predictions(p, truth, folds, CLASSES, CONTEST).argmax(1)), CLASSES
    )
    multipliers = list(report["multipliers"].values())
    assert (
        multipliers
        == learn_multipliers(
            p, truth, CLASSES, CONTEST, family=report["family"], strength=report["strength"]
        ).tolist()
    )
    assert multipliers[7] > 1.5 * multipliers[0]
    assert (
        json.loads(json.dumps(report))
        == report
        == evaluate_multipliers(p, truth, folds, CLASSES, CONTEST, draws=200)
    )


def test_free_multipliers_correct_a_shift_that_counts_do_not_explain():
    p, truth, folds = problem(3000)
    p = apply_multipliers(p, np.array([1, 0.05, 1, 1, 0.05, 1, 1, 1]))
    report = evaluate_multipliers(p, truth, folds, CLASSES, CONTEST, draws=50)
    assert report["used"]
    assert report["family"] == "free"
    assert report["multipliers"]["0001"] > 2 * report["multipliers"]["0000"]
    assert report["multipliers"]["0101"] > 2 * report["multipliers"]["0100"]


def test_multipliers_within_noise_are_not_used():
    random = np.random.default_rng(0)
    truth = np.arange(400) % 8  # classes of one size, predicted without bias: nothing to gain
    p = random.dirichlet(np.ones(8), 400)
    p[np.arange(400), truth] += 0.3
    report = evaluate_multipliers(
        p, truth, random.integers(4, size=400), CLASSES, CONTEST, draws=100
    )
    assert report["gain"]["verdict"] != "better"
    assert report["used"] is False
    assert report["multipliers"] == dict.fromkeys(CLASSES, 1.0)


def test_broken_probabilities_are_refused():
    p, truth, folds = problem(30)
    with pytest.raises(IntegrityFault, match="row 3 holds no probability above 0"):
        apply_multipliers(np.where(np.arange(30)[:, None] == 3, 0, p), np.ones(8))
    p[3, 4] = np.nan
    for call in (
        lambda: apply_multipliers(p, np.ones(8)),
        lambda: nested_predictions(p, truth, folds, CLASSES, CONTEST),
    ):
        with pytest.raises(IntegrityFault, match="not finite in 1 of 30 rows"):
            call()


def test_errors_name_the_cause():
    p, truth, folds = problem(30)
    for bad, why in (
        (
            lambda: learn_multipliers(p, truth[1:], CLASSES, CONTEST, family="count", strength=0.1),
            r"truth \(n,\)",
        ),
        (
            lambda: learn_multipliers(p, truth, CLASSES[1:], CONTEST, family="count", strength=0.1),
            "C different classes",
        ),
        (
            lambda: learn_multipliers(p, truth - 9, CLASSES, CONTEST, family="count", strength=0.1),
            "row 0 has class -",
        ),
        (
            lambda: learn_multipliers(p, truth, CLASSES, CONTEST, family="counts", strength=0.1),
            "did you mean 'count'",
        ),
        (
            lambda: learn_multipliers(p, truth, CLASSES, CONTEST, family="free", strength=-1),
            "strength must be a number of 0 or more, got -1",
        ),
        (
            lambda: nested_predictions(p, truth, folds[1:], CLASSES, CONTEST),
            "30 videos need as many fold names, got 29",
        ),
        (
            lambda: nested_predictions(p, truth, np.arange(30) % 2, CLASSES, CONTEST),
            "class multipliers need 3 folds or more, and there are 2; train more folds",
        ),
    ):
        with pytest.raises(UsageFault, match=why):
            bad()


@pytest.mark.parametrize("fit", [fit_arithmetic, partial(fit_bands, bounds=[30])])
def test_labels_of_a_fold_do_not_change_its_predictions_through_the_blend(fit):
    """Blend weights are learned across folds, so p is blended again without each fold."""
    from wbdc.ensemble import build_ensemble as building
    from wbdc.ensemble.ensemble_settings import EnsembleSettings

    random = np.random.default_rng(3)
    truth, folds = random.integers(0, 8, 240), np.repeat([0, 1, 2], 80)
    members = random.dirichlet(np.ones(8), (2, 240)).astype(np.float32)
    members[0, np.arange(240), truth] += 0.6
    members[1, np.arange(120), truth[:120]] += 0.9
    members /= members.sum(-1, keepdims=True)
    predictions = []

    def store(p, truth, names, classes, contest, *, blend_without_fold, **settings):
        nested = nested_predictions(
            p, truth, names, classes, contest, blend_without_fold=blend_without_fold
        )
        predictions.append(nested[folds == 0])
        return {"used": False}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "evaluate_multipliers", store)
        for codes in (truth, np.where(folds == 0, random.permutation(truth), truth)):
            shared = building.SharedPredictions(members, codes, folds.astype(str))
            building._class_priors(shared, fit, CLASSES, CONTEST, EnsembleSettings(draws=10))
    assert np.array_equal(predictions[0], predictions[1])
