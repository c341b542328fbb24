"""Weights by class support: a specialist for rare classes counts there, noise changes nothing."""

from functools import partial

import numpy as np
import pytest
from ensemble_problems import SUPPORT_BOUNDS, SUPPORT_CLASSES, posteriors, problem
from scipy.optimize import minimize

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import UsageFault
from wbdc.ensemble.band_choice import evaluate_bands
from wbdc.ensemble.band_weights import (
    PRIOR_VIDEOS,
    band_names,
    fit_band_weights,
    fit_bands,
    learn_band_weights,
    support_bands,
)
from wbdc.ensemble.evaluation import evaluate_ensemble
from wbdc.ensemble.nested_blend import BlendRule, nested_blend

CLASSES = SUPPORT_CLASSES
BOUNDS = SUPPORT_BOUNDS


def evaluate(members, truth, folds, **settings):
    inputs = (["a", "b", "c"][: len(members)], members, truth, folds, CLASSES, WeChat2022())
    report = evaluate_ensemble(*inputs, draws=100)
    return report, *evaluate_bands(report, *inputs, **{"bounds": BOUNDS, "draws": 100} | settings)


def test_a_specialist_counts_where_classes_are_rare():
    plain, report, weights = evaluate(*posteriors(rare_signal=3.0))
    bands = report["bands"]
    assert bands["used"]
    assert bands["names"] == ["1-49", "50+"]
    assert sum(bands["classes"]) == 24
    assert sum(bands["videos"]) == 1000
    rare, frequent = bands["weights"]["c"]
    assert rare > 0.8 > 0.2 > frequent
    gain = report["ensemble"]["score"]["mean"] - plain["ensemble"]["score"]["mean"]
    assert gain == pytest.approx(bands["gain"]["difference"])
    assert gain > 0.02
    assert report["support"]["f1"]["ensemble"] != plain["support"]["f1"]["ensemble"]
    assert report["weights"]["c"] == pytest.approx(
        np.dot(bands["weights"]["c"], bands["videos"]) / 1000
    )
    np.testing.assert_allclose(weights.sum(0), 1)


@pytest.mark.parametrize("seed", range(2))
def test_similar_members_keep_plain_weights(seed):
    plain, report, weights = evaluate(*posteriors(rare_signal=1.0, seed=seed))
    assert weights is None
    assert not report["bands"]["used"]
    assert {key: report[key] for key in plain} == plain


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"bounds": ()}, "not requested"),
        ({"bounds": (5000,)}, "all classes have 1-4999 videos"),
        ({"folds": np.zeros(1000, str)}, "they need 2 folds or more"),
    ],
)
def test_bands_that_cannot_be_learned_are_explained(settings, reason):
    members, truth, folds = posteriors(rare_signal=1.0)
    report = {"weights": {}, "geometric": {"used": False}}
    inputs = {"truth": truth, "folds": folds, "classes": CLASSES, "competition": WeChat2022()}
    settings = {"bounds": BOUNDS} | inputs | settings
    changed, weights = evaluate_bands(report, ["a", "b", "c"], members, **settings)
    assert changed["bands"] == {"used": False, "reason": reason}
    assert weights is None


def test_weights_maximize_the_likelihood_after_normalization():
    members, truth, _ = posteriors(rare_signal=2.0, n=300)
    bands = np.arange(24) % 3
    likelihoods = members[:, np.arange(300), truth].astype(float)
    masses = np.stack([members[:, :, bands == g].sum(2) for g in range(3)], 2).astype(float)

    def loss(parameters):
        weights = np.exp(parameters.reshape(3, 3))
        weights /= weights.sum(0)
        blended = np.einsum("mc,mnc->nc", weights[:, bands], members)
        own = blended[np.arange(300), truth] / blended.sum(1)
        return -np.log(own).sum() - PRIOR_VIDEOS * np.log(weights).mean(0).sum()

    best = minimize(loss, np.zeros(9)).fun
    fitted = fit_band_weights(likelihoods, masses, bands[truth])
    assert loss(np.log(fitted).ravel()) == pytest.approx(best, abs=0.05)
    assert loss(np.zeros(9)) > best + 5


def test_remaining_members_alone_get_the_same_weights():
    members, truth, _ = posteriors(rare_signal=3.0, n=4000)
    useless = np.roll(members[:1], 1, axis=1)
    learned = learn_band_weights(np.concatenate([members, useless]), truth, (200,))
    assert learned.members == [0, 1, 2]
    assert set(learned.dropped) == {3}
    assert not learned.by_class[3].any()
    alone = learn_band_weights(members, truth, (200,))
    assert alone.values.tobytes() == learned.values[:3].tobytes()


def test_labels_of_a_fold_do_not_change_its_predictions():
    members, truth, folds = problem(3)
    fit = partial(fit_bands, bounds=(45,))
    blended = nested_blend(members, truth, folds, fit)
    held_out = folds == "fold-1"
    changed = np.where(held_out, (truth + 1) % 6, truth)
    again = nested_blend(members, changed, folds, fit)
    assert again[held_out].tobytes() == blended[held_out].tobytes()
    assert again[~held_out].tobytes() != blended[~held_out].tobytes()
    np.testing.assert_allclose(blended.sum(1), 1, rtol=1e-5)
    with pytest.raises(UsageFault, match="train a second fold"):
        nested_blend(members, truth, np.zeros(len(truth)), fit)


def test_a_blend_by_class_is_normalized():
    members, weights = np.random.default_rng(0).dirichlet(np.ones(4), (2, 3)), [[1, 0, 2, 1]] * 2
    weights = np.array(weights) * [[1], [3]] + 0.1
    expected = (weights[:, None] * members).sum(0) / weights.sum(0)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(BlendRule(weights).blend(members), expected, rtol=1e-6)


def test_bands_hold_classes_from_a_bound_to_below_the_next():
    assert support_bands(np.array([0, 9, 10, 49, 50, 500]), (10, 50)).tolist() == [0, 0, 1, 1, 2, 2]
    assert band_names((10, 50)) == ["1-9", "10-49", "50+"]
    assert band_names((2,)) == ["1", "2+"]
    for bounds in ((), (1,), (50, 10), (50, 50)):
        with pytest.raises(UsageFault, match="bands need rising numbers of 2 or more"):
            support_bands(np.array([1]), bounds)
