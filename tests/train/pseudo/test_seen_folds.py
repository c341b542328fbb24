"""Which folds' labels a finished fold saw, also where it did not record them."""

import pytest

from wbdc.core.files import publish_json
from wbdc.train.pseudo.seen_folds import model_seen_folds, trained_folds
from wbdc.train.runs import Run, RunFacts

ALL = {"0", "1", "2"}


def finished_run(folder, seal: dict, **facts) -> Run:
    publish_json(folder / "fold-1" / "DONE.json", {"files": {}, **seal})
    values = {"stage": "train", "kit": "toy", "data": "x", "seed": 0, "without": None} | facts
    run = RunFacts(**{"source": None, "classes": [], "competition": "c", **values})
    return Run(folder, run)


@pytest.mark.parametrize(
    ("seal", "facts", "expected"),
    [
        ({"seen_folds": ["0"]}, {}, {"0"}),
        ({}, {}, {"0", "2"}),
        ({"selected_on": "held-out fold"}, {}, ALL),
        ({}, {"source": "pretrain-toy-0a1b2c3d"}, ALL),
        ({}, {"pseudo": {"r1": "0123456789ab"}}, ALL),
        ({}, {"stage": "pretrain"}, ALL),
        ({"seen_folds": []}, {"stage": "pretrain"}, set()),
    ],
)
def test_a_fold_saw_what_it_recorded_or_what_follows_from_the_run(tmp_path, seal, facts, expected):
    assert model_seen_folds(finished_run(tmp_path, seal, **facts), "1", 3) == expected


def test_a_training_of_all_rows_or_with_selected_weights_sees_every_fold():
    assert trained_folds("all", 3) == ALL
    assert trained_folds("1", 3) == {"0", "2"}
    assert trained_folds("1", 3, selects_weights=True) == ALL
