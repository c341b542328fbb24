"""Exponents of a geometric mean, against a grid, and its nested predictions."""

import numpy as np
import pytest
from ensemble_problems import worse_than_chance
from scipy.special import logsumexp, softmax

from wbdc.core.errors import UsageFault
from wbdc.ensemble import geometric_exponents, geometric_weights, log_normalizer
from wbdc.ensemble.geometric_exponents import EQUALITY_PRIOR_VIDEOS, approximate_exponents
from wbdc.ensemble.geometric_weights import (
    fit_geometric,
    learn_geometric_weights,
    log_likelihoods,
)
from wbdc.ensemble.log_normalizer import LogNormalizer
from wbdc.ensemble.nested_blend import nested_blend
from wbdc.serve.blend import blend_probabilities


def two_experts(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Nine classes in a grid of three by three: one member knows the row, the other the column, and
    a third one nothing.
    """
    random = np.random.default_rng(seed)
    truth = random.integers(0, 9, count)
    lines = np.arange(9)
    row = 2.5 * (lines // 3 == truth[:, None] // 3) + random.normal(size=(count, 9))
    column = 2.5 * (lines % 3 == truth[:, None] % 3) + random.normal(size=(count, 9))
    noise = random.normal(size=(count, 9))
    return softmax(np.stack([row, column, noise]), axis=2).astype(np.float32), truth


def objective(members, truth, exponents) -> float:
    blended = blend_probabilities(members, exponents, float(np.sum(exponents)))
    distance = np.array(exponents) - np.mean(exponents)
    prior = EQUALITY_PRIOR_VIDEOS / len(truth) * (distance**2).sum() / 2
    return log_likelihoods(blended, truth).mean() - prior


def test_exponents_maximize_the_likelihood():
    members, truth = two_experts(300, 0)
    pair = members[:2]
    fitted = learn_geometric_weights(pair, truth)
    best = objective(pair, truth, fitted.values * fitted.sharpness)
    grid = np.linspace(0.1, 2, 20)
    others = [objective(pair, truth, (a, b)) for a in grid for b in grid]
    assert max(others) < best < max(others) + 0.01


@pytest.mark.parametrize("numbers", [1, 1000, 2**19])
def test_the_normalizer_and_its_gradient_are_the_same_in_blocks_of_any_length(numbers, monkeypatch):
    monkeypatch.setattr(log_normalizer, "BLOCK_NUMBERS", numbers)
    members, _ = two_experts(100, 0)
    factors = np.log(members)
    row_sets = [np.arange(0, 100, 2), np.arange(100), np.arange(30, 70)]
    exponents = {0: np.array([0.7, 1.1, 0.1]), 1: np.array([0.2, 0.0, 0.5])}
    values = LogNormalizer(list(factors), row_sets)(exponents)
    assert list(values) == [0, 1]  # the last set is not evaluated
    for number, point in exponents.items():
        chosen = factors[:, row_sets[number]]
        logits = np.tensordot(point, chosen.astype(np.float64), 1)
        normalizer, gradient = values[number]
        assert normalizer == pytest.approx(logsumexp(logits, axis=1).mean(), rel=1e-12)
        expected = (softmax(logits, axis=1) * chosen).sum(axis=2).mean(axis=1)
        np.testing.assert_allclose(gradient, expected, rtol=1e-12)


def test_folds_fitted_side_by_side_have_the_blends_of_one_fit_after_the_other(monkeypatch):
    members, truth = two_experts(500, 8)
    useless = worse_than_chance(truth, 9).astype(np.float32)
    members = np.concatenate([members, useless[None]])
    folds = np.arange(500) % 3
    monkeypatch.setattr(geometric_weights, "MAX_FITTED_VIDEOS", 300)  # folds differ in their rows
    dropped = set()
    for name, rule in zip(
        range(3), fit_geometric(members, truth, [folds != name for name in range(3)]), strict=True
    ):
        alone = learn_geometric_weights(members[:, folds != name], truth[folds != name])
        np.testing.assert_allclose(rule.weights, alone.values, rtol=0, atol=1e-9)
        assert rule.sharpness == pytest.approx(alone.sharpness, abs=1e-9)
        dropped |= set(alone.dropped)
    assert 3 in dropped


def test_known_factors_give_the_same_bits(monkeypatch):
    members, truth = two_experts(200, 9)
    monkeypatch.setattr(geometric_weights, "MAX_FITTED_VIDEOS", 90)
    factors = geometric_weights.single_log_factors(members)
    plain = learn_geometric_weights(members, truth)
    quick = geometric_weights.learn_from_factors(factors, truth)
    assert quick.values.tobytes() == plain.values.tobytes()
    assert quick.sharpness == plain.sharpness


def test_the_exponents_of_a_search_are_nearly_the_same():
    members, truth = two_experts(300, 0)
    fitted = learn_geometric_weights(members, truth)
    factors = np.log(np.maximum(members, 1e-4))
    gaps = factors - np.take_along_axis(factors, truth[None, :, None], axis=2)
    exponents, _ = approximate_exponents(np.ascontiguousarray(gaps.transpose(0, 2, 1)))
    np.testing.assert_allclose(exponents, fitted.values * fitted.sharpness, atol=0.02)


def test_members_that_know_different_things_exclude_different_classes():
    members, truth = two_experts(600, 1)
    folds = np.arange(600) % 3
    blended = nested_blend(members, truth, folds, fit_geometric)
    np.testing.assert_allclose(blended.sum(1), 1, rtol=1e-5)
    accuracy = (blended.argmax(1) == truth).mean()
    arithmetic = (members[:2].mean(0).argmax(1) == truth).mean()
    assert accuracy > arithmetic + 0.05


def test_a_useless_member_is_dropped_and_the_others_alone_give_equal_bits():
    members, truth = two_experts(2000, 2)
    members = np.stack([members[0], worse_than_chance(truth, 9), members[1]])
    fitted = learn_geometric_weights(members, truth)
    assert fitted.members == [0, 2]
    assert list(fitted.dropped) == [1]
    alone = learn_geometric_weights(members[fitted.members], truth)
    assert alone.values.tobytes() == fitted.values[fitted.members].tobytes()
    assert alone.sharpness == fitted.sharpness


def test_labels_of_a_fold_do_not_change_its_predictions():
    members, truth = two_experts(200, 3)
    folds = np.arange(200) % 2
    changed = np.where(folds == 0, (truth + 1) % 9, truth)
    before = nested_blend(members, truth, folds, fit_geometric)
    after = nested_blend(members, changed, folds, fit_geometric)
    assert np.array_equal(before[folds == 0], after[folds == 0])
    assert not np.array_equal(before[folds == 1], after[folds == 1])


def test_few_videos_hardly_tell_similar_members_apart(monkeypatch):
    members, truth = two_experts(20, 4)
    noise = np.random.default_rng(0).normal(size=(6, 20, 9))
    similar = softmax(np.log(members[:1]) + 0.3 * noise, axis=2)
    with_prior = learn_geometric_weights(similar, truth).values
    monkeypatch.setattr(geometric_exponents, "EQUALITY_PRIOR_VIDEOS", 0.0)
    without = learn_geometric_weights(similar, truth).values
    assert with_prior.std() < without.std() / 3


def test_many_videos_are_fitted_on_a_part_of_them(monkeypatch):
    members, truth = two_experts(1000, 5)
    whole = learn_geometric_weights(members[:2], truth)
    monkeypatch.setattr(geometric_weights, "MAX_FITTED_VIDEOS", 500)
    part = learn_geometric_weights(members[:2], truth)
    assert part.sharpness != whole.sharpness
    np.testing.assert_allclose(part.values, whole.values, atol=0.1)


def test_one_fold_is_refused():
    members, truth = two_experts(30, 6)
    with pytest.raises(UsageFault, match="train a second fold"):
        nested_blend(members, truth, np.zeros(30, int), fit_geometric)
