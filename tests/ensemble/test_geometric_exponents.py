"""Exponents of a geometric mean: the conditions of a maximum, edge cases, and evaluations."""

from itertools import pairwise

import numpy as np
import pytest
from ensemble_problems import worse_than_chance
from scipy.special import softmax

from wbdc.ensemble import geometric_exponents
from wbdc.ensemble.geometric_exponents import (
    EQUALITY_PRIOR_VIDEOS,
    ExponentFits,
    factor_gaps,
    fit_exponents,
)
from wbdc.ensemble.log_normalizer import LogNormalizer

CLASSES = 7


def similar_members(count: int, videos: int, noise: float) -> tuple[list[np.ndarray], np.ndarray]:
    """Return log-probabilities of members that share most of what they know, and the truth."""
    random = np.random.default_rng(count)
    truth = random.integers(CLASSES, size=videos)
    shared = 2.0 * np.eye(CLASSES)[truth] + random.normal(size=(videos, CLASSES))
    logits = shared + noise * random.normal(size=(count, videos, CLASSES))
    return list(np.log(softmax(logits, axis=2)).astype(np.float32)), truth


def fit_all(factors: list[np.ndarray], truth: np.ndarray) -> np.ndarray:
    """Fit the exponents of all members on all videos."""
    return fit_exponents(factors, truth, np.arange(len(truth)))


def loss_gradient(
    factors: list[np.ndarray], truth: np.ndarray, exponents: np.ndarray
) -> np.ndarray:
    """Return the gradient of the mean negative log-likelihood with its prior, (M,)."""
    stacked = np.stack(factors).astype(np.float64)
    expected = (softmax(np.tensordot(exponents, stacked, 1), axis=1) * stacked).sum(2).mean(1)
    true_means = stacked[:, np.arange(len(truth)), truth].mean(1)
    pull = EQUALITY_PRIOR_VIDEOS / len(truth) * (exponents - exponents.mean())
    return expected - true_means + pull


def assert_maximum(
    factors: list[np.ndarray], truth: np.ndarray, exponents: np.ndarray, slope: float = 2e-5
) -> None:
    """Check the conditions of Karush, Kuhn and Tucker: an exponent is 0, or its slope is."""
    gradient = loss_gradient(factors, truth, exponents)
    assert (exponents >= 0).all()
    assert gradient.min() > -slope
    np.testing.assert_allclose(exponents * gradient, 0, atol=slope)


def test_gaps_of_some_videos_are_contiguous():
    """Else, every subset of a search copies them."""
    factors, truth = similar_members(3, 100, 1.0)
    rows = np.arange(0, 100, 7)
    chosen = np.ascontiguousarray(np.stack(factors).transpose(0, 2, 1))[:, :, rows]
    gaps = factor_gaps(chosen, truth[rows])
    assert gaps.flags.c_contiguous
    assert not gaps[:, truth[rows], np.arange(len(rows))].any()
    np.testing.assert_allclose(np.diff(gaps, axis=1), np.diff(chosen, axis=1), atol=1e-5)


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


@pytest.mark.parametrize(
    ("count", "videos", "noise"),
    [(1, 50, 1.0), (2, 10, 1.0), (3, 2000, 2.0), (12, 900, 0.5), (60, 300, 0.05), (5, 200, 0.0)],
)
def test_fitted_exponents_maximize_the_likelihood(count, videos, noise):
    factors, truth = similar_members(count, videos, noise)
    exponents = fit_all(factors, truth)
    assert exponents.shape == (count,)
    assert_maximum(factors, truth, exponents)


def test_members_worse_than_chance_have_the_exponent_0():
    factors, truth = similar_members(4, 400, 1.0)
    useless = np.log(worse_than_chance(truth, CLASSES))
    mixed = [useless, *factors, useless]
    exponents = fit_all(mixed, truth)
    assert exponents[[0, -1]].tolist() == [0, 0]
    assert exponents[1:-1].min() > 0.1
    assert_maximum(mixed, truth, exponents)
    # a mean needs an exponent above 0
    assert fit_all([mixed[0], mixed[-1]], truth).tolist() == [0.5, 0.5]


def test_copies_of_a_member_share_its_exponent():
    factors, truth = similar_members(2, 300, 1.0)
    first, *copies = fit_all([factors[0], *[factors[1]] * 3], truth)
    np.testing.assert_allclose(np.diff(copies), 0, atol=1e-6)
    assert first > copies[0] > 0.05


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("videos", [1, 700])
def test_members_with_equal_probabilities_have_exponents(count, videos):
    """Their likelihood is the same with any, so the curvature is 0, or negative by rounding."""
    uniform = np.full((videos, 200), np.log(1 / 200), dtype=np.float32)
    exponents = fit_all([uniform] * count, np.zeros(videos, dtype=int))
    np.testing.assert_allclose(exponents, 1 / count, atol=1e-3)


def test_a_member_that_is_always_right_has_a_finite_exponent():
    truth = np.arange(600) % 200
    probabilities = np.full((600, 200), 0.98 / 199)
    probabilities[np.arange(600), truth] = 0.02
    exponents = fit_all([np.log(probabilities).astype(np.float32)] * 2, truth)
    assert np.isfinite(exponents).all()
    assert exponents.sum() > 5  # the larger, the likelier


def test_a_fit_with_the_curvature_of_a_sample_needs_few_evaluations(rounds):
    factors, truth = similar_members(8, 3000, 1.0)
    fit_all(factors, truth)
    assert len(rounds) <= 4  # L-BFGS-B needs 10


@pytest.mark.parametrize("scale", [0.0, 0.01, 100.0])
def test_a_wrong_curvature_costs_evaluations_and_changes_no_result(scale, monkeypatch, rounds):
    """Too small a curvature makes steps too long; they are halved."""
    factors, truth = similar_members(4, 500, 1.0)
    fit_all(factors, truth)
    few = len(rounds)
    approximate = geometric_exponents.approximate_exponents

    def scaled(gaps):
        start, curvature = approximate(gaps)
        return 0.2 * start, scale * curvature

    monkeypatch.setattr(geometric_exponents, "approximate_exponents", scaled)
    assert_maximum(factors, truth, fit_all(factors, truth), slope=5e-4)
    assert few < len(rounds) - few < 60


def test_sets_are_evaluated_together_until_each_has_ended(rounds):
    factors, truth = similar_members(4, 600, 1.0)
    row_sets = [np.arange(600), np.arange(0, 600, 2), np.arange(20)]
    members = {0: np.arange(4), 2: np.array([0])}
    fits = ExponentFits(factors, truth, row_sets)
    together = fits.run(members)
    assert rounds[0] == {0, 2}
    assert all(later <= earlier for earlier, later in pairwise(rounds))
    assert {number: len(exponents) for number, exponents in together.items()} == {0: 4, 2: 1}
    for number, positions in members.items():
        alone = fits.run({number: positions})[number]
        np.testing.assert_allclose(together[number], alone, rtol=1e-9)
