"""Weights of many subsets of candidates at once, against one plain fit after the other."""

from itertools import combinations

import numpy as np
import pytest

from wbdc.ensemble.blend_weights import FITTED_METHODS, choose_method, method_weights
from wbdc.ensemble.budget import subset_weights
from wbdc.ensemble.budget.subset_weights import SubsetWeights
from wbdc.ensemble.likelihood_weights import maximum_likelihood_weights, mixture_weights


def plain_fit(likelihoods: np.ndarray) -> tuple[str, np.ndarray]:
    """Choose a method and fit it. likelihoods: (M, n). Returns (method, weights (M,))."""
    method, _ = choose_method(likelihoods)
    fitted = maximum_likelihood_weights(likelihoods) if method in FITTED_METHODS else None
    return method, method_weights(method, np.log(likelihoods), fitted)


def likelihoods_of_skills(skills: list[float], rows: int) -> np.ndarray:
    """Likelihoods (M, rows) of members, of which a higher skill is more often certain."""
    random = np.random.default_rng(rows)
    certain = random.random((len(skills), rows)) < np.array(skills)[:, None]
    return np.where(certain, 0.9, 0.02) * random.uniform(0.5, 1, certain.shape)


PROBLEMS = {
    "equal": [0.5, 0.5, 0.5, 0.5],
    "maximum likelihood": [0.8, 0.1, 0.5, 0.2],
    "best member": [0.98, 0.0, 0.0, 0.0],
}


@pytest.mark.parametrize(("method", "skills"), PROBLEMS.items())
def test_all_subsets_have_the_weights_of_plain_fits(method, skills):
    row_sets = [likelihoods_of_skills(skills, rows) for rows in (300, 401, 303)]
    many = SubsetWeights(row_sets)
    methods = set()
    for size in (1, 2, 3, 4):
        subsets = list(combinations(range(4), size))
        for subset, fitted in zip(subsets, many.weights(subsets), strict=True):
            plain = [plain_fit(likelihoods[list(subset)]) for likelihoods in row_sets]
            np.testing.assert_allclose(fitted, [weights for _, weights in plain], atol=1e-10)
            methods |= {name for name, _ in plain}
    assert method in methods


def test_few_rows_and_equal_members_have_the_weights_of_plain_fits():
    row_sets = [likelihoods_of_skills([0.5, 0.7], rows)[[0, 1, 1]] for rows in (1, 2, 4, 30)]
    weights = SubsetWeights(row_sets).weights([(0, 1, 2)])[0]
    plain = [plain_fit(likelihoods)[1] for likelihoods in row_sets]
    np.testing.assert_allclose(weights, plain, atol=1e-6)
    np.testing.assert_array_equal(weights[0], [1 / 3] * 3)


def test_fits_that_do_not_converge_are_those_of_em(monkeypatch):
    row_sets = [likelihoods_of_skills(PROBLEMS["maximum likelihood"], 300)]
    monkeypatch.setattr(subset_weights, "MAX_NEWTON_STEPS", 1)
    weights = SubsetWeights(row_sets).weights([range(4)])[0]
    np.testing.assert_allclose(weights[0], mixture_weights(row_sets[0]), atol=1e-10)
