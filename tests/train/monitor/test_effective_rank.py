"""The effective rank, against values computed by hand."""

import math

import numpy as np
import pytest

from wbdc.train.monitor.effective_rank import effective_rank


def test_the_rank_is_the_exponential_of_the_entropy_of_singular_values():
    embeddings = np.zeros((3, 4))
    embeddings[0, 1] = 2.0
    embeddings[1, 3] = -1.0
    embeddings[2, 0] = 1.0  # singular values 2, 1, 1
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert effective_rank(embeddings) == pytest.approx(math.exp(entropy), rel=1e-4)


@pytest.mark.parametrize(("n", "width"), [(8, 8), (20, 8), (8, 20)])
def test_orthogonal_vectors_have_the_full_rank_and_equal_ones_rank_1(n, width):
    full = np.linalg.qr(np.random.default_rng(0).normal(size=(max(n, width), min(n, width))))[0]
    full = full if n > width else full.T
    assert effective_rank(full) == pytest.approx(min(n, width), rel=1e-3)
    assert effective_rank(np.ones((n, width))) == pytest.approx(1, rel=1e-3)


def test_neither_rotation_nor_scale_changes_the_rank():
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(30, 6)) * [1, 1, 1, 0.1, 0.1, 0.01]
    rotation = np.linalg.qr(random.normal(size=(6, 6)))[0]
    rank = effective_rank(embeddings)
    assert effective_rank(100 * embeddings @ rotation) == pytest.approx(rank, rel=1e-4)


def test_numbers_that_are_not_finite_have_no_rank():
    assert math.isnan(effective_rank(np.array([[1.0, np.inf], [0.0, 1.0]])))
    assert effective_rank(np.zeros((4, 4), np.float32)) < 1.01, "zeros are equal vectors"
