"""Priors: lifts that a macro score wants, learned without the labels they are judged by, and used
only when they are sure to help.
"""

import json
from collections import Counter

import numpy as np
import pytest

from wbdc.competitions import Competition
from wbdc.competitions.wechat2022 import CLASS_COUNTS_FILE, WeChat2022
from wbdc.core.errors import DataInvalid, IntegrityBroken, UsageFault
from wbdc.core.scores import f1_scores
from wbdc.ensemble.priors.class_multipliers import (
    PRIORS_OPTIONS,
    assess_multipliers,
    learn_multipliers,
    nested_predictions,
)
from wbdc.ensemble.priors.coordinate_ascent import FAMILIES, LOG_OFFSET_GRID, CoordinateAscent
from wbdc.ensemble.priors.fast_f1 import class_levels, code_scorer
from wbdc.serve.blend import apply_multipliers

CLASSES = ["0000", "0001", "0002", "0100", "0101", "0203", "0204", "0300"]
SHARES = np.array([40, 20, 12, 10, 8, 5, 3, 2]) / 100
CONTEST = WeChat2022()


class Flat(Competition):
    """A contest without levels: macro F1 alone."""

    def score(self, truth, said, classes=None):
        macro = f1_scores(
            truth, said, sorted({*truth, *said}) if classes is None else classes
        ).macro
        return {"macro": macro, "mean": macro}


class Squared(Flat):
    """A score that is no mean of F1 scores."""

    def score(self, truth, said, classes=None):
        return {"macro": (told := super().score(truth, said, classes)["mean"]), "mean": told**2}


def problem(
    n: int = 400, shift: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posteriors (n, 8) of Gaussian evidence, truth (n,) and folds (n,). shift: by which power of
    the shares rare classes are said too little.
    """
    random = np.random.default_rng(seed)
    truth = random.choice(len(CLASSES), n, p=SHARES)
    seen = random.normal(size=(n, len(CLASSES)))
    seen[np.arange(n), truth] += 2
    p = np.exp(2 * seen) * SHARES ** (1 + shift)
    return (
        (p / p.sum(1, keepdims=True)).astype(np.float32),
        truth,
        random.choice(["fold-0", "fold-1", "fold-2"], n),
    )


def ids(codes: np.ndarray, classes: list[str] = CLASSES) -> list[str]:
    return [classes[i] for i in codes]


def test_levels_are_found_by_asking():
    leaf, top = sorted(class_levels(CLASSES, CONTEST), key=lambda level: -level.groups.max())
    assert leaf.groups.tolist() == list(range(8))
    assert top.groups.tolist() == [0, 0, 0, 1, 1, 2, 2, 3]
    assert (*leaf[1:], *top[1:]) == (0.25,) * 4
    (flat,) = class_levels(CLASSES, Flat())
    assert flat.groups.tolist() == list(range(8))
    assert flat[1:] == (0, 1)


def test_a_score_that_is_no_mean_of_f1_is_refused():
    with pytest.raises(UsageFault, match=r"Squared.score is no mean of F1"):
        class_levels(CLASSES, Squared())


@pytest.mark.parametrize("contest", [CONTEST, Flat()])
def test_scorer_equals_the_competition_on_any_rows(contest):
    classes = sorted(json.loads(CLASS_COUNTS_FILE.read_text()))[::4]
    random = np.random.default_rng(0)
    truth, said = random.integers(len(classes), size=(2, 300))
    said[:200] = truth[:200]
    score = code_scorer(class_levels(classes, contest), truth, said)
    for rows in (np.arange(300), random.integers(300, size=300), random.integers(300, size=20)):
        assert score(rows) == pytest.approx(
            contest.score(ids(truth[rows], classes), ids(said[rows], classes), classes)["mean"],
            abs=1e-12,
        )


def test_count_lifts_are_counts_to_a_power():
    p, truth, _ = problem()
    truth[truth == 7] = 0
    counts = Counter(truth.tolist())
    assert 7 not in counts
    longhand = np.array([max(counts[i], 1) ** -0.3 for i in range(8)])
    lifts = learn_multipliers(p, truth, CLASSES, CONTEST, family="count", strength=0.3)
    assert lifts == pytest.approx(longhand / longhand.prod() ** (1 / 8))
    assert np.array_equal(
        learn_multipliers(p, truth, CLASSES, CONTEST, family="count", strength=0.0), np.ones(8)
    )


@pytest.mark.parametrize("contest", [CONTEST, Flat()])
@pytest.mark.parametrize("strength", [0.01, 0.3])
def test_no_single_free_lift_could_be_better(contest, strength):
    """Longhand: every class at every point of the grid, scored by the competition."""
    p, truth, _ = problem(200, shift=0.5)
    logs = np.log(p)
    ascent = CoordinateAscent(logs, truth, class_levels(CLASSES, contest))
    found = ascent.fit(strength)
    assert np.any(found != ascent.start)

    def goal(lifts: np.ndarray) -> float:
        said = (logs + lifts.astype(np.float32)).argmax(1)
        return (
            contest.score(ids(truth), ids(said), CLASSES)["mean"]
            - strength * ((lifts - ascent.start) ** 2).mean()
        )

    others = [
        np.where(np.arange(8) == label, ascent.start[label] + step, found)
        for label in range(8)
        for step in LOG_OFFSET_GRID
    ]
    assert max(map(goal, others)) <= goal(found) + 1e-9
    assert goal(found) > goal(ascent.start)


def test_free_lifts_start_from_the_best_of_the_count_family():
    p, truth, _ = problem(shift=0.5)
    logs = np.log(p)
    tried = {
        s: learn_multipliers(p, truth, CLASSES, CONTEST, family="count", strength=s)
        for s in FAMILIES["count"]
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


def test_rows_that_say_every_class_alike_are_counted_as_argmax_does():
    p, truth, _ = problem(100)
    p[:60] = 1 / 8
    logs = np.log(p)
    ascent = CoordinateAscent(logs, truth, found := class_levels(CLASSES, CONTEST))
    said = (logs + ascent.fit(0.01).astype(np.float32)).argmax(1)
    kept = sum(level.f1(*tally)[0] for level, tally in zip(found, ascent.tallies))
    assert kept == pytest.approx(CONTEST.score(ids(truth), ids(said), CLASSES)["mean"], abs=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_lifts_are_the_same_each_time_with_geometric_mean_1(family):
    p, truth, _ = problem(shift=0.5)
    first, second = (
        learn_multipliers(p, truth, CLASSES, CONTEST, family=family, strength=0.1) for _ in range(2)
    )
    assert first.dtype == np.float64
    assert np.array_equal(first, second)
    assert len(set(first)) > 1
    assert np.log(first).mean() == pytest.approx(0, abs=1e-12)


def test_nested_is_what_it_says():
    """Longhand: for each fold, every choice is judged by answers for the other folds, each lifted
    by what the rest teach.
    """
    p, truth, folds = problem(200, shift=0.3)
    said, names = nested_predictions(p, truth, folds, CLASSES, CONTEST), np.unique(folds)
    assert said.dtype == np.float32
    assert not np.array_equal(said.argmax(1), p.argmax(1))

    def lifted(fold: str, others: list[str], family: str, strength: float) -> np.ndarray:
        rows = np.isin(folds, others)
        return apply_multipliers(
            p[folds == fold],
            learn_multipliers(
                p[rows], truth[rows], CLASSES, CONTEST, family=family, strength=strength
            ),
        )

    for fold in names:
        others, scores = [name for name in names if name != fold], {}
        for choice in PRIORS_OPTIONS:
            inner = np.concatenate(
                [lifted(o, [x for x in others if x != o], *choice).argmax(1) for o in others]
            )
            true = np.concatenate([truth[folds == o] for o in others])
            scores[choice] = CONTEST.score(ids(true), ids(inner), CLASSES)["mean"]
        assert np.array_equal(
            said[folds == fold], lifted(fold, others, *max(scores, key=scores.get))
        )


@pytest.mark.parametrize("fold", ["fold-0", "fold-1", "fold-2"])
def test_nested_answers_do_not_see_their_own_labels(fold):
    p, truth, folds = problem(200, shift=0.3)
    held = folds == fold
    before, after = (
        nested_predictions(p, t, folds, CLASSES, CONTEST)
        for t in (truth, np.where(held, 7 - truth, truth))
    )
    assert np.array_equal(before[held], after[held])
    assert not np.array_equal(before[~held], after[~held])


def test_a_prior_that_is_too_strong_is_found_and_undone():
    p, truth, folds = problem(2000, shift=0.5)
    told = assess_multipliers(p, ids(truth), folds, CLASSES, CONTEST, draws=200)
    plain = CONTEST.score(ids(truth), ids(p.argmax(1)), CLASSES)["mean"]
    assert told["used"]
    assert told["gain"]["verdict"] == "better"
    assert told["gain"]["difference"] == pytest.approx(told["score"]["mean"] - plain)
    assert told["gain"]["difference"] > 0.02
    assert told["score"] == CONTEST.score(
        ids(truth), ids(nested_predictions(p, truth, folds, CLASSES, CONTEST).argmax(1)), CLASSES
    )
    lifts = list(told["multipliers"].values())
    assert (
        lifts
        == learn_multipliers(
            p, truth, CLASSES, CONTEST, family=told["family"], strength=told["strength"]
        ).tolist()
    )
    assert lifts[7] > 1.5 * lifts[0]
    assert (
        json.loads(json.dumps(told))
        == told
        == assess_multipliers(p, ids(truth), folds, CLASSES, CONTEST, draws=200)
    )


def test_free_lifts_mend_a_shift_that_counts_do_not_explain():
    p, truth, folds = problem(3000)
    p = apply_multipliers(p, np.array([1, 0.05, 1, 1, 0.05, 1, 1, 1]))
    told = assess_multipliers(p, ids(truth), folds, CLASSES, CONTEST, draws=50)
    assert told["used"]
    assert told["family"] == "free"
    assert told["multipliers"]["0001"] > 2 * told["multipliers"]["0000"]
    assert told["multipliers"]["0101"] > 2 * told["multipliers"]["0100"]


def test_lifts_within_noise_are_not_used():
    random = np.random.default_rng(0)
    truth = np.arange(400) % 8  # classes of one size, said without a bias: nothing is to be gained
    p = random.dirichlet(np.ones(8), 400)
    p[np.arange(400), truth] += 0.3
    told = assess_multipliers(
        p, ids(truth), random.integers(4, size=400), CLASSES, CONTEST, draws=100
    )
    assert told["gain"]["verdict"] != "better"
    assert told["used"] is False
    assert told["multipliers"] == dict.fromkeys(CLASSES, 1.0)


def test_lift_multiplies_and_makes_rows_sum_to_1():
    p, lifts = (
        np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=np.float32),
        np.array([1.0, 2.0, 0.5]),
    )
    assert apply_multipliers(p, lifts) == pytest.approx(
        np.array([[5, 6, 1], [1, 2, 4]]) / [[12], [7]]
    )
    assert apply_multipliers(p, lifts).dtype == np.float32
    assert apply_multipliers(p, np.ones(3)) == pytest.approx(p)


@pytest.mark.parametrize(
    "lifts",
    [
        np.ones(7),
        np.ones((1, 8)),
        np.r_[0.0, np.ones(7)],
        np.r_[-1.0, np.ones(7)],
        np.r_[np.nan, np.ones(7)],
        np.r_[np.inf, np.ones(7)],
    ],
)
def test_lifts_that_do_not_fit_are_refused(lifts):
    with pytest.raises(UsageFault, match="8 classes need as many lifts, finite and above 0"):
        apply_multipliers(problem(10)[0], lifts)


def test_broken_probabilities_are_refused():
    p, truth, folds = problem(30)
    with pytest.raises(IntegrityBroken, match="row 3 holds no probability above 0"):
        apply_multipliers(np.where(np.arange(30)[:, None] == 3, 0, p), np.ones(8))
    p[3, 4] = np.nan
    for call in (
        lambda: apply_multipliers(p, np.ones(8)),
        lambda: nested_predictions(p, truth, folds, CLASSES, CONTEST),
    ):
        with pytest.raises(IntegrityBroken, match="not finite in 1 of 30 rows"):
            call()


def test_faults_are_named():
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
            "strength is a number of 0 or more, got -1",
        ),
        (
            lambda: nested_predictions(p, truth, folds[1:], CLASSES, CONTEST),
            "29 fold names were given for 30 videos",
        ),
        (
            lambda: nested_predictions(p, truth, np.arange(30) % 2, CLASSES, CONTEST),
            "lifts need 3 folds or more, and there are 2; train more folds",
        ),
    ):
        with pytest.raises(UsageFault, match=why):
            bad()
    with pytest.raises(DataInvalid, match="row 0 has the label '9999', which is no class"):
        assess_multipliers(p, ["9999", *ids(truth)[1:]], folds, CLASSES, CONTEST)


def test_no_label_of_a_fold_moves_its_answers_through_the_blend_either():
    """Blend weights are learned across folds: what a fold is taught with is blended as if it were
    not there.
    """
    from wbdc.ensemble import ensembles

    random = np.random.default_rng(3)
    truth, folds = random.integers(0, 8, 240), np.repeat([0, 1, 2], 80)
    members = random.dirichlet(np.ones(8), (2, 240)).astype(np.float32)
    members[0, np.arange(240), truth] += 0.6
    members[1, np.arange(120), truth[:120]] += 0.9
    members /= members.sum(-1, keepdims=True)
    said = []

    def keep(p, labels, names, classes, contest, *, without, **settings):
        codes = np.array([classes.index(label) for label in labels])
        said.append(
            nested_predictions(p, codes, np.array(names), classes, contest, without=without)[
                folds == 0
            ]
        )
        return {"used": False}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensembles, "assess_multipliers", keep)
        for labels in (truth, np.where(folds == 0, random.permutation(truth), truth)):
            ensembles._priors(
                ensembles.SharedPredictions(
                    members, [CLASSES[i] for i in labels], folds.astype(str).tolist()
                ),
                CLASSES,
                CONTEST,
                10,
                0,
            )
    assert np.array_equal(said[0], said[1])
