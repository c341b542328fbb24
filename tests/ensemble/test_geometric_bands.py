"""Exponents by class support: their maximum, a specialist, and nested predictions."""

from functools import partial

import numpy as np
import pytest
from ensemble_problems import SUPPORT_BOUNDS, SUPPORT_CLASSES, posteriors, problem
from scipy.optimize import minimize
from scipy.special import softmax

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.ensemble import class_exponents
from wbdc.ensemble.band_choice import evaluate_bands
from wbdc.ensemble.class_exponents import ClassExponentLikelihood
from wbdc.ensemble.evaluation import evaluate_ensemble
from wbdc.ensemble.geometric_bands import (
    fit_band_exponents,
    fit_geometric_bands,
    learn_geometric_bands,
)
from wbdc.ensemble.geometric_choice import evaluate_geometric
from wbdc.ensemble.geometric_exponents import EQUALITY_PRIOR_VIDEOS
from wbdc.ensemble.geometric_weights import log_likelihoods
from wbdc.ensemble.nested_blend import BlendRule, nested_blend
from wbdc.serve.blend import log_factors


def test_exponents_by_band_maximize_the_likelihood():
    members, truth, _ = posteriors(rare_signal=3.0, n=300)
    pair = members[1:]
    bands = np.arange(24) % 2

    def loss(parameters):
        sharpness = np.exp(parameters[0])
        shares = 1 / (1 + np.exp(-parameters[1:]))  # of the first member, by band
        values = np.stack([shares, 1 - shares])
        exponents = sharpness * values
        blended = BlendRule(values[:, bands], sharpness).blend(pair)
        distance = exponents - exponents.mean(0)
        prior = EQUALITY_PRIOR_VIDEOS / 300 * (distance**2).sum() / 2
        return prior - log_likelihoods(blended, truth).mean()

    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-6}).fun
    factors = [log_factors(member) for member in pair]
    fitted = fit_band_exponents(factors, truth, bands, 2)
    sums = fitted.sum(0)
    assert sums[0] == pytest.approx(sums[1], abs=1e-6)
    shares = fitted[0] / sums
    reached = loss(np.array([np.log(sums[0]), *np.log(shares / (1 - shares))]))
    assert reached == pytest.approx(best, abs=1e-5)
    assert loss(np.zeros(3)) > best + 0.01


@pytest.mark.parametrize("numbers", [1, 24 * 7, 2**16])
def test_the_likelihood_of_exponents_by_class_has_equal_bits_in_blocks_of_any_length(
    numbers, monkeypatch
):
    monkeypatch.setattr(class_exponents, "LOGIT_BLOCK_NUMBERS", numbers)
    members, truth, _ = posteriors(rare_signal=3.0, n=100)
    factors = [log_factors(member).astype(np.float32) for member in members]
    exponents = np.random.default_rng(0).uniform(0, 1, (3, 24))
    mean, sums = ClassExponentLikelihood(factors, truth)(exponents)

    logits = sum(row * factor for row, factor in zip(exponents, factors, strict=True))
    logits -= logits.max(axis=1, keepdims=True)
    blended = np.exp(logits)
    totals = blended.sum(axis=1, keepdims=True)
    blended /= totals
    likelihoods = logits[np.arange(100), truth] - np.log(totals[:, 0])
    assert mean == likelihoods.mean()
    expected = np.stack([(blended * factor).sum(axis=0) for factor in factors])
    assert sums.tobytes() == expected.tobytes()


def test_a_specialist_counts_where_classes_are_rare_in_a_geometric_mean():
    inputs = (["a", "b", "c"], *posteriors(rare_signal=3.0), SUPPORT_CLASSES, WeChat2022())
    report = evaluate_ensemble(*inputs, draws=100)
    plain, sharpness = evaluate_geometric(report, *inputs, mean="geometric", draws=100)
    banded, weights = evaluate_bands(plain, *inputs, bounds=SUPPORT_BOUNDS, draws=100)
    bands = banded["bands"]
    rare, frequent = bands["weights"]["c"]
    assert rare > frequent + 0.2
    assert bands["used"] == (weights is not None) == (bands["gain"]["verdict"] == "better")
    assert bands["used"]
    gain = banded["ensemble"]["score"]["mean"] - plain["ensemble"]["score"]["mean"]
    assert gain == pytest.approx(bands["gain"]["difference"])
    np.testing.assert_allclose(weights.sum(0), 1)
    assert banded["geometric"]["used"]
    assert banded["geometric"]["sharpness"] != sharpness


def test_remaining_members_alone_get_the_same_exponents():
    members, truth, _ = posteriors(rare_signal=3.0, n=2000)
    noise = np.random.default_rng(0).normal(size=(1, 2000, 24))
    worse_than_chance = softmax(noise - 6 * (np.arange(24) == truth[:, None]), axis=2)
    learned = learn_geometric_bands(np.concatenate([members, worse_than_chance]), truth, (100,))
    assert set(learned.dropped) == {3}
    alone = learn_geometric_bands(members, truth, (100,))
    assert alone.values.tobytes() == learned.values[:3].tobytes()
    assert alone.sharpness == learned.sharpness


def test_labels_of_a_fold_do_not_change_its_predictions():
    members, truth, folds = problem(3)
    fit = partial(fit_geometric_bands, bounds=(45,))
    blended = nested_blend(members, truth, folds, fit)
    held_out = folds == "fold-1"
    changed = np.where(held_out, (truth + 1) % 6, truth)
    again = nested_blend(members, changed, folds, fit)
    assert again[held_out].tobytes() == blended[held_out].tobytes()
    assert again[~held_out].tobytes() != blended[~held_out].tobytes()
    np.testing.assert_allclose(blended.sum(1), 1, rtol=1e-5)


def test_a_part_of_the_members_has_a_weight_in_every_band():
    members, truth, _ = posteriors(rare_signal=3.0)
    learned = learn_geometric_bands(members, truth, SUPPORT_BOUNDS)
    for member in learned.members:  # another may not have answered before the deadline
        BlendRule(learned.by_class[[member]], learned.sharpness).blend(members[[member]])
