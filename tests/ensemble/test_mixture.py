"""Weights: EM finds the maximum of the likelihood, whatever finds it otherwise."""

import numpy as np
import pytest
from scipy.optimize import minimize

from wbdc.core.errors import IntegrityBroken, UsageFault
from wbdc.ensemble.mixture import learn_blend_weights, true_class_likelihoods


def problem(
    members: int, n: int = 300, classes: int = 12, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Members that share one opinion and each add noise of their own: (M, n, C), (n,)."""
    random = np.random.default_rng(seed)
    truth = random.integers(classes, size=n)
    shared = random.normal(size=(n, classes))
    shared[np.arange(n), truth] += 2
    logits = shared + random.normal(size=(members, n, classes)) * random.uniform(
        0.5, 1.5, (members, 1, 1)
    )
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return (raised / raised.sum(-1, keepdims=True)).astype(np.float32), truth


def loss(weights: np.ndarray, given: np.ndarray, prior: float = 0.0) -> float:
    """Negative mean log-likelihood with the Dirichlet prior."""
    return (
        -(
            np.log(weights @ given).sum()
            + prior / len(weights) * np.log(np.maximum(weights, 1e-300)).sum() * (prior > 0)
        )
        / given.shape[1]
    )


@pytest.mark.parametrize("members", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("prior", [0.0, 20.0])
def test_agrees_with_slsqp(members, seed, prior):
    m, truth = problem(members, seed=seed)
    given = true_class_likelihoods(m, truth)
    found = learn_blend_weights(m, truth, prior=prior)
    other = minimize(
        loss,
        np.full(members, 1 / members),
        (given, prior),
        "SLSQP",
        bounds=[(1e-9, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-13, "maxiter": 500},
    )
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert loss(found, given, prior) <= other.fun + 1e-6
    assert np.allclose(found, other.x, atol=5e-3)


@pytest.mark.parametrize("seed", range(3))
def test_no_point_of_a_grid_is_better(seed):
    m, truth = problem(3, seed=10 + seed)
    given, steps = true_class_likelihoods(m, truth), np.linspace(0, 1, 51)
    grid = [np.array([a, b, 1 - a - b]) for a in steps for b in steps if a + b <= 1]
    assert (
        loss(learn_blend_weights(m, truth), given)
        <= min(loss(np.maximum(w, 0), given) for w in grid) + 1e-7
    )


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


def test_a_useless_member_counts_nothing():
    m, truth = problem(2)
    useless = np.roll(m[:1], 1, axis=1)  # the first member's answers, given to the wrong videos
    assert learn_blend_weights(np.concatenate([m, useless]), truth)[2] < 0.02
    never = np.zeros_like(m[:1])
    assert learn_blend_weights(np.concatenate([m, never]), truth)[2] < 1e-9


def test_duplicates_share_their_weight():
    m, truth = problem(3)
    once, twice = (
        learn_blend_weights(m, truth),
        learn_blend_weights(np.concatenate([m, m[:1]]), truth),
    )
    assert twice[0] == pytest.approx(twice[3], abs=1e-12)
    assert np.allclose(once, [twice[0] + twice[3], *twice[1:3]], atol=2e-3)
    assert np.allclose(
        np.tensordot(once, m, 1), np.tensordot(twice, np.concatenate([m, m[:1]]), 1), atol=2e-3
    )


def test_one_member_or_equal_members():
    m, truth = problem(1)
    assert learn_blend_weights(m, truth).tolist() == [1.0]
    assert np.allclose(learn_blend_weights(np.repeat(m, 4, axis=0), truth), 0.25)


def test_zeros_are_survived():
    m, truth = problem(2)
    m[0, :20] = 0
    m[1, :30] = 0  # rows where nobody gives the truth anything
    weights = learn_blend_weights(m, truth)
    assert np.isfinite(weights).all()
    assert weights.sum() == pytest.approx(1)


def test_a_prior_pulls_to_equal_weights():
    m, truth = problem(3)
    far = [np.abs(learn_blend_weights(m, truth, prior=p) - 1 / 3).max() for p in (0, 30, 300, 1e9)]
    assert far == sorted(far, reverse=True)
    assert far[-1] < 1e-6


def test_faults_are_named():
    m, truth = problem(2)
    with pytest.raises(UsageFault, match="row 5 has class -1"):
        learn_blend_weights(m, np.where(np.arange(len(truth)) == 5, -1, truth))
    with pytest.raises(UsageFault, match="class 12, classes are 0 to 11"):
        learn_blend_weights(m, np.where(np.arange(len(truth)) == 5, 12, truth))
    with pytest.raises(UsageFault, match="got"):
        learn_blend_weights(m, truth[:-1])
    with pytest.raises(UsageFault, match="above 0"):
        learn_blend_weights(m[:, :0], truth[:0])
    with pytest.raises(UsageFault, match="prior"):
        learn_blend_weights(m, truth, prior=-1)
    m[1] = np.nan
    with pytest.raises(IntegrityBroken, match="member 2 of 2"):
        learn_blend_weights(m, truth)
