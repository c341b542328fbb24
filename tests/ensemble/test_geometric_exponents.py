"""Exponents of a geometric mean, against those of an optimizer that starts from equal ones."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from wbdc.ensemble import geometric_exponents
from wbdc.ensemble.geometric_exponents import EQUALITY_PRIOR_VIDEOS, ExponentFits
from wbdc.ensemble.log_normalizer import LogNormalizer

CLASSES = 7


def similar_members(count: int, videos: int, noise: float) -> tuple[list[np.ndarray], np.ndarray]:
    """Return log-probabilities of members that share most of what they know, and the truth."""
    random = np.random.default_rng(count)
    truth = random.integers(CLASSES, size=videos)
    shared = 2.0 * np.eye(CLASSES)[truth] + random.normal(size=(videos, CLASSES))
    logits = shared + noise * random.normal(size=(count, videos, CLASSES))
    return list(np.log(softmax(logits, axis=2)).astype(np.float32)), truth


def loss(factors: list[np.ndarray], truth: np.ndarray, exponents: np.ndarray) -> float:
    """Return the mean negative log-likelihood with its prior."""
    logits = np.tensordot(exponents, np.stack(factors).astype(np.float64), 1)
    likelihoods = logits[np.arange(len(truth)), truth] - logsumexp(logits, axis=1)
    distance = exponents - exponents.mean()
    return EQUALITY_PRIOR_VIDEOS / len(truth) * (distance**2).sum() / 2 - likelihoods.mean()


def fit_all(factors: list[np.ndarray], truth: np.ndarray) -> np.ndarray:
    fits = ExponentFits(factors, truth, [np.arange(len(truth))])
    return fits.run({0: np.arange(len(factors))})[0]


def lowest_loss(factors: list[np.ndarray], truth: np.ndarray) -> float:
    count = len(factors)
    return minimize(
        lambda e: loss(factors, truth, e),
        np.full(count, 1 / count),
        bounds=[(0, None)] * count,
        options={"ftol": 1e-13, "gtol": 1e-9, "maxfun": 100_000},
    ).fun


@pytest.mark.parametrize(
    ("count", "videos", "noise"),
    [(1, 50, 1.0), (2, 10, 1.0), (3, 2000, 2.0), (12, 900, 0.5), (40, 300, 0.05), (5, 200, 0.0)],
)
def test_no_optimizer_finds_a_lower_loss(count, videos, noise):
    factors, truth = similar_members(count, videos, noise)
    exponents = fit_all(factors, truth)
    assert exponents.shape == (count,)
    assert (exponents >= 0).all()
    assert loss(factors, truth, exponents) < lowest_loss(factors, truth) + 1e-8


def test_members_worse_than_chance_have_the_exponent_0():
    factors, truth = similar_members(4, 400, 1.0)
    noise = np.random.default_rng(0).normal(size=(2, 400, CLASSES))
    contrary = list(np.log(softmax(noise - 2 * np.eye(CLASSES)[truth], axis=2)))
    exponents = fit_all([*contrary, *factors], truth)
    assert exponents[:2] == pytest.approx([0, 0], abs=1e-12)
    assert exponents[2:].min() > 0.1
    lowest = lowest_loss([*contrary, *factors], truth)
    assert loss([*contrary, *factors], truth, exponents) < lowest + 1e-8
    assert fit_all(contrary, truth) == pytest.approx([0.5, 0.5])  # a mean needs an exponent above 0


def test_equal_members_have_equal_exponents():
    factors, truth = similar_members(1, 300, 1.0)
    np.testing.assert_allclose(np.diff(fit_all(factors * 4, truth)), 0, atol=1e-6)


@pytest.fixture
def rounds(monkeypatch) -> list[set[int]]:
    """The sets that each evaluation of the normalizer has had."""
    evaluated = []

    class CountedNormalizer(LogNormalizer):
        def __call__(self, exponents):
            evaluated.append(set(exponents))
            return super().__call__(exponents)

    monkeypatch.setattr(geometric_exponents, "LogNormalizer", CountedNormalizer)
    return evaluated


def test_a_fit_with_the_curvature_of_a_sample_needs_few_evaluations(rounds):
    factors, truth = similar_members(8, 3000, 1.0)
    fit_all(factors, truth)
    assert rounds == [{0}] * len(rounds)
    assert len(rounds) <= 4  # L-BFGS-B needs 10


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_a_wrong_curvature_costs_steps_and_changes_no_result(scale, monkeypatch):
    """Too small a curvature makes steps too long, which are halved."""
    factors, truth = similar_members(4, 500, 1.0)
    expected = fit_all(factors, truth)
    approximate = geometric_exponents.approximate_exponents

    def scaled(*inputs):
        start, curvature = approximate(*inputs)
        return 0.2 * start, scale * curvature

    monkeypatch.setattr(geometric_exponents, "approximate_exponents", scaled)
    np.testing.assert_allclose(fit_all(factors, truth), expected, atol=0.002)


def test_a_step_that_lowers_no_loss_is_halved():
    """The loss is (e - 0.5)² of one exponent, and the curvature a thousandth of the true one."""
    fit = geometric_exponents._maximize_likelihood(
        np.ones(1), np.array([[0.002]]), np.zeros(1), np.zeros((1, 1))
    )
    points = [next(fit).item()]
    for _ in range(2):
        points.append(fit.send(((points[-1] - 0.5) ** 2, np.array([2 * points[-1] - 1]))).item())
    assert points == [1.0, 0.0, 0.5]


def test_sets_are_evaluated_together_until_each_has_ended(rounds):
    factors, truth = similar_members(4, 600, 1.0)
    row_sets = [np.arange(600), np.arange(0, 600, 2), np.arange(20)]
    fits = ExponentFits(factors, truth, row_sets)
    members = {0: np.arange(4), 2: np.array([0, 3])}
    together = fits.run(members)
    assert rounds[0] == {0, 2}
    assert all(later <= earlier for earlier, later in zip(rounds, rounds[1:], strict=False))
    assert {number: len(exponents) for number, exponents in together.items()} == {0: 4, 2: 2}
    for number, chosen in members.items():
        alone = fits.run({number: chosen})[number]
        np.testing.assert_allclose(together[number], alone, rtol=1e-9)
