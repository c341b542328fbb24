"""Nearest neighbors, against a longhand loop."""

import math

import numpy as np
import pytest

from wbdc.train.monitor import nearest_neighbors
from wbdc.train.monitor.nearest_neighbors import (
    majority_accuracy,
    neighbor_votes,
    predict_by_neighbors,
)


def longhand(references, labels, queries, neighbors: int) -> list[int]:
    classes = []
    for query in queries:
        similarity = [
            sum(a * b for a, b in zip(query, r, strict=True)) / math.hypot(*query) / math.hypot(*r)
            for r in references
        ]
        nearest = sorted(range(len(references)), key=lambda i: -similarity[i])[:neighbors]
        votes: dict[int, float] = {}
        for i in nearest:
            votes[labels[i]] = votes.get(labels[i], 0) + math.exp(similarity[i] / 0.07)
        classes.append(max(sorted(votes), key=lambda label: votes[label]))
    return classes


def test_neighbors_vote_by_their_similarity():
    random = np.random.default_rng(0)
    references = random.normal(size=(40, 5))
    labels = random.integers(0, 6, 40) * 7  # with gaps
    queries = random.normal(size=(30, 5))
    for neighbors in (1, 5, 40, 100):
        predictions = predict_by_neighbors(references, labels, queries, neighbors)
        assert predictions.tolist() == longhand(references, labels, queries, neighbors)


def test_the_length_of_a_vector_does_not_count_and_zeros_do_not_fail():
    references = np.array([[100.0, 0.0], [0.0, 0.01], [0.0, 0.0]])
    labels = np.array([3, 8, 9])
    queries = np.array([[0.001, 0.0], [1.0, 50.0], [0.0, 0.0]])
    assert predict_by_neighbors(references, labels, queries, 1)[:2].tolist() == [3, 8]


def test_the_majority_is_that_of_the_references():
    assert majority_accuracy(np.array([1, 1, 2]), np.array([1, 2, 2, 2])) == 0.25


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


@pytest.mark.parametrize("neighbors", [1, 4, 50])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_are_those_of_a_longhand_reference(neighbors, temperature, monkeypatch):
    monkeypatch.setattr(nearest_neighbors, "QUERIES_PER_STEP", 3)
    random = np.random.default_rng(0)
    references = random.normal(size=(20, 5))
    codes = random.integers(0, 4, 20)
    queries = np.concatenate([random.normal(size=(5, 5)), references[:2]])
    query_rows = np.array([-1, -1, -1, -1, -1, 0, 1])
    votes = neighbor_votes(
        references,
        codes,
        queries,
        4,
        neighbors=neighbors,
        temperature=temperature,
        query_rows=query_rows,
    )
    for query, own, vote in zip(queries.tolist(), query_rows, votes, strict=True):
        similar = [(cosine(query, r), i) for i, r in enumerate(references.tolist()) if i != own]
        nearest = sorted(similar, key=lambda pair: (-pair[0], pair[1]))[:neighbors]
        expected = [0.0] * 4
        for similarity, i in nearest:
            expected[codes[i]] += math.exp(similarity / temperature)
        total = sum(expected)
        np.testing.assert_allclose(vote, [e / total for e in expected], rtol=1e-4, atol=1e-6)
