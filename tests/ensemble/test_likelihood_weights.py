"""Mixture weights: EM finds the maximum of the likelihood that other optimizers find."""

import numpy as np
import pytest
from scipy.optimize import minimize

from wbdc.core.errors import IntegrityFault, UsageFault
from wbdc.ensemble import likelihood_weights
from wbdc.ensemble.likelihood_weights import (
    maximum_likelihood_weights,
    mixture_weights,
    true_class_likelihoods,
)


def problem(
    members: int, n: int = 300, classes: int = 12, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Members whose logits share one signal and each add noise: (M, n, C), (n,)."""
    random = np.random.default_rng(seed)
    truth = random.integers(classes, size=n)
    shared = random.normal(size=(n, classes))
    shared[np.arange(n), truth] += 2
    logits = shared + random.normal(size=(members, n, classes)) * random.uniform(
        0.5, 1.5, (members, 1, 1)
    )
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return (raised / raised.sum(-1, keepdims=True)).astype(np.float32), truth


def learn_blend_weights(members: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return mixture_weights(true_class_likelihoods(members, truth))


def loss(weights: np.ndarray, likelihoods: np.ndarray) -> float:
    """Negative mean log-likelihood."""
    return -np.log(weights @ likelihoods).mean()


@pytest.mark.parametrize("members", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_weights_agree_with_slsqp(members, seed):
    m, truth = problem(members, seed=seed)
    likelihoods = true_class_likelihoods(m, truth)
    weights = learn_blend_weights(m, truth)
    slsqp = minimize(
        loss,
        np.full(members, 1 / members),
        (likelihoods,),
        "SLSQP",
        bounds=[(1e-9, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-13, "maxiter": 500},
    )
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert loss(weights, likelihoods) <= slsqp.fun + 1e-6
    assert np.allclose(weights, slsqp.x, atol=5e-3)


@pytest.mark.parametrize("seed", range(3))
def test_no_point_of_a_grid_has_a_higher_likelihood(seed):
    m, truth = problem(3, seed=10 + seed)
    likelihoods, steps = true_class_likelihoods(m, truth), np.linspace(0, 1, 51)
    grid = [np.array([a, b, 1 - a - b]) for a in steps for b in steps if a + b <= 1]
    best_of_grid = min(loss(np.maximum(w, 0), likelihoods) for w in grid)
    assert loss(learn_blend_weights(m, truth), likelihoods) <= best_of_grid + 1e-7


def test_row_order_does_not_matter():
    m, truth = problem(4)
    order = np.random.default_rng(3).permutation(len(truth))
    assert np.allclose(
        learn_blend_weights(m, truth), learn_blend_weights(m[:, order], truth[order]), atol=1e-9
    )


def test_member_order_does_not_matter():
    m, truth = problem(4)
    assert np.allclose(
        learn_blend_weights(m, truth)[[2, 0, 3, 1]],
        learn_blend_weights(m[[2, 0, 3, 1]], truth),
        atol=1e-9,
    )


def test_a_useless_member_gets_almost_no_weight():
    m, truth = problem(2)
    useless = np.roll(m[:1], 1, axis=1)  # the first member's predictions of other videos
    assert learn_blend_weights(np.concatenate([m, useless]), truth)[2] < 0.02
    zeros = np.zeros_like(m[:1])
    assert learn_blend_weights(np.concatenate([m, zeros]), truth)[2] < 1e-9


def test_duplicates_share_their_weight():
    m, truth = problem(3)
    once = learn_blend_weights(m, truth)
    twice = learn_blend_weights(np.concatenate([m, m[:1]]), truth)
    assert twice[0] == pytest.approx(twice[3], abs=1e-12)
    assert np.allclose(once, [twice[0] + twice[3], *twice[1:3]], atol=2e-3)
    assert np.allclose(
        np.tensordot(once, m, 1), np.tensordot(twice, np.concatenate([m, m[:1]]), 1), atol=2e-3
    )


def test_one_member_or_equal_members():
    m, truth = problem(1)
    assert learn_blend_weights(m, truth).tolist() == [1.0]
    assert np.allclose(learn_blend_weights(np.repeat(m, 4, axis=0), truth), 0.25)


def test_probabilities_of_zero_give_finite_weights():
    m, truth = problem(2)
    m[0, :20] = 0
    m[1, :30] = 0  # in these rows the true class has probability 0 for both
    weights = learn_blend_weights(m, truth)
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(1)


def test_errors_name_the_row_and_the_member():
    m, truth = problem(2)
    with pytest.raises(UsageFault, match="row 5 has class -1"):
        learn_blend_weights(m, np.where(np.arange(len(truth)) == 5, -1, truth))
    with pytest.raises(UsageFault, match="class 12, classes are 0 to 11"):
        learn_blend_weights(m, np.where(np.arange(len(truth)) == 5, 12, truth))
    with pytest.raises(UsageFault, match="got"):
        learn_blend_weights(m, truth[:-1])
    with pytest.raises(UsageFault, match="above 0"):
        learn_blend_weights(m[:, :0], truth[:0])
    m[1] = np.nan
    with pytest.raises(IntegrityFault, match="member 2 of 2"):
        learn_blend_weights(m, truth)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_the_interior_point_method_reaches_the_maximum_of_em_without_em(count, seed, monkeypatch):
    m, truth = problem(count, n=120, classes=6, seed=seed)
    m[0, :9] = 0  # likelihoods at their floor
    if seed == 2:  # with a duplicate the maximum is not a point
        m = np.concatenate([m, m[:1]])
    likelihoods = true_class_likelihoods(m, truth)
    expected = mixture_weights(likelihoods)
    monkeypatch.setattr(likelihood_weights, "mixture_weights", None)
    weights = maximum_likelihood_weights(likelihoods)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert np.log(weights @ likelihoods).mean() == pytest.approx(
        np.log(expected @ likelihoods).mean(), abs=2e-7
    )


def test_em_is_the_fallback_of_the_interior_point_method(monkeypatch):
    m, truth = problem(3)
    likelihoods = true_class_likelihoods(m, truth)
    monkeypatch.setattr(likelihood_weights, "MAX_NEWTON_STEPS", 1)
    assert np.array_equal(maximum_likelihood_weights(likelihoods), mixture_weights(likelihoods))
