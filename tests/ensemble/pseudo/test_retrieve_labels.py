"""Retrieval: the nearest labeled videos vote, and only those of the folds that a model was trained
on.
"""

import numpy as np
import toys

from wbdc.ensemble.pseudo import retrieve_labels
from wbdc.prepare.dataset import open_prepared
from wbdc.train.monitor.nearest_neighbors import neighbor_votes
from wbdc.train.pseudo.pseudo_set import open_pseudo


def test_videos_are_labeled_by_the_training_folds_of_a_fold_alone(copied, monkeypatch):
    """Also labeled videos, which do not vote for themselves; for "all", each by the model that held
    it out.
    """
    work, run = copied
    calls = []

    def recorded(references, codes, queries, *words, **options):
        calls.append((codes, options["query_rows"]))
        return neighbor_votes(references, codes, queries, *words, **options)

    monkeypatch.setattr(retrieve_labels, "neighbor_votes", recorded)
    splits = ("--split", "unlabeled", "--split", "labeled")
    options = ("--how", "retrieve", "--neighbors", 3, "--top-k", 2, "--name", "near")
    words = ("pseudo", "--from", run, "--work", work, "--threads", 1)
    facts = toys.run_json(*words, *splits, *options)
    prepared = open_prepared(work)
    labels = prepared.read_split("labeled")["label"].to_list()
    truth = np.array([prepared.facts.classes.index(label) for label in labels])
    folds = prepared.read_folds()
    for number, (codes, query_rows) in enumerate(calls):
        trained = folds != number % 3
        assert codes.tolist() == truth[trained].tolist()
        labeled_rows = np.full(len(folds), -1)
        labeled_rows[trained] = np.arange(trained.sum())
        assert query_rows.tolist() == ([-1] * 15 if number < 3 else labeled_rows.tolist())

    opened = open_pseudo(work, "near")
    ids = prepared.read_split("labeled")["id"].to_list()
    first = opened.read("0")
    assert [i for i, s in zip(first.ids, first.splits, strict=True) if s == "labeled"] == [
        name for name, fold in zip(ids, folds, strict=True) if fold != 0
    ]
    assert facts["folds"]["all"]["rows"] == 15 + len(ids)
    assert first.codes.shape[1] == 2
    np.testing.assert_allclose(first.probabilities.sum(1), 1, rtol=1e-5)
