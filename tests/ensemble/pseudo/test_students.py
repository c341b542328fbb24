"""Students of pseudo-labels: soft labels in the loss, and as an objective of pretraining, which is
then made for each fold.
"""

import numpy as np
import pytest
import toys
from safetensors.numpy import load_file
from toys import SHORT

from wbdc.core.files import read_seal, update_seal
from wbdc.train import run_fold, training_setup
from wbdc.train.dataset import Dataset
from wbdc.train.pseudo.pseudo_set import open_pseudo

pytestmark = pytest.mark.slow


def train(work, kit, *words):
    return toys.run_json("train", "--kit", kit, "--work", work, *SHORT, "--fold", 0, *words)


def refusal(*words) -> str:
    result = toys.wbdc(*words)
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    return " ".join(result.stderr.split())


def weights(work, run, fold="0"):
    return load_file(work / "runs" / run / f"fold-{fold}" / "model.safetensors")["head.weight"]


def test_every_kind_of_label_trains_another_head(copied, kit):
    work, run = copied
    heads = [weights(work, run)]
    for settings in ('labels="soft"', 'labels="hard"', 'labels="none"', "weight=0.1"):
        change = ("--set", f"train.pseudo.{settings}")
        report = train(work, kit, "--pseudo", "r1", *change)
        heads.append(weights(work, report["run"]))
    for i, head in enumerate(heads):
        assert all(not np.allclose(head, other, atol=1e-6) for other in heads[:i])


def test_batches_hold_the_soft_labels_of_the_fold_alone(copied, kit, monkeypatch):
    """Those of the extra videos, weighted, in every batch; zeros for labeled videos."""
    work, _ = copied
    soft: dict[str, np.ndarray] = {}
    batch_of = Dataset.batch

    def recorded(self, *words, **options):
        batch = batch_of(self, *words, **options)
        if batch.soft_label is not None:
            soft.update(zip(batch.ids, batch.soft_label.numpy(), strict=True))
        return batch

    monkeypatch.setattr(Dataset, "batch", recorded)
    train(work, kit, "--pseudo", "r1", "--set", "train.pseudo.weight=0.5")
    rows = open_pseudo(work, "r1").read("0")
    expected = dict(zip(rows.ids, 0.5 * rows.dense(12), strict=True))
    assert len(soft.keys() & expected.keys()) > 10
    for name, row in soft.items():
        np.testing.assert_allclose(row, expected.get(name, np.zeros(12)), rtol=1e-6)


PRETRAIN = (
    *("--set", "pretrain.epochs=1", "--threads", 1),
    *("--set", 'pretrain.objective=[{ use = "pseudo_labels", name = "r1" }]'),
)


def test_pretraining_on_pseudo_labels_is_made_for_each_fold(copied, kit):
    work, _ = copied
    words = ("--kit", kit, "--work", work)
    report = toys.run_json("pretrain", *words, *PRETRAIN, "--fold", "0,all")
    run, folder = report["run"], work / "runs" / report["run"]
    assert read_seal(folder / "fold-0")["seen_folds"] == ["1", "2"]
    assert read_seal(folder / "fold-all")["seen_folds"] == ["0", "1", "2"]
    assert not np.array_equal(weights(work, run), weights(work, run, "all"))
    again = toys.run_json("pretrain", *words, *PRETRAIN, "--fold", "all")
    assert again["run"] == run

    student = train(work, kit, *PRETRAIN)
    assert student["from"] == run
    facts = student["folds"]["0"]
    assert facts["seen_folds"] == ["1", "2"]
    assert facts["weights"]["start"].startswith(run)
    message = refusal("train", *words, *SHORT, "--fold", 1, "--from", run)
    assert "fold 1 needs a model that did not see its labels; run `wbdc pretrain" in message
    assert "--fold 1" in message


def test_pretraining_with_labels_hides_those_of_the_fold(copied, kit, monkeypatch):
    work, _ = copied
    labels = []
    split_videos = run_fold.split_videos

    def recorded(plan, dataset, fold):
        videos = split_videos(plan, dataset, fold)
        labels.append((dataset.labels, videos.dataset.labels, plan.prepared.read_folds()))
        return videos

    monkeypatch.setattr(run_fold, "split_videos", recorded)
    change = ("--set", 'pretrain.objective=[{ use = "classify" }]', "--set", "pretrain.epochs=1")
    words = ("--kit", kit, "--work", work, "--threads", 1, *change)
    report = toys.run_json("pretrain", *words, "--fold", 2)
    ((every, visible, folds),) = labels
    count = len(folds)
    assert (every[:count] >= 0).all()
    assert (visible[:count] == np.where(folds == 2, -1, every[:count])).all()
    assert report["run"] == toys.run_json("pretrain", *words, "--fold", 1)["run"]
    message = refusal("train", *words, "--fold", 0)
    assert "reads labels or pseudo-labels, so fold 0 needs a model" in message


def test_a_pretraining_without_labels_serves_every_fold(copied, kit):
    work, _ = copied
    message = refusal("pretrain", "--kit", kit, "--work", work, "--fold", 0, "--dry-run")
    assert "reads no labels, so all folds start from the same model; leave --fold 0 out" in message


def test_an_objective_of_fine_tuning_reads_pseudo_labels_of_the_fold(copied, kit, monkeypatch):
    work, _ = copied
    tasks = []
    build = training_setup.build_task
    monkeypatch.setattr(
        training_setup, "build_task", lambda *a, **k: tasks.append(build(*a, **k)) or tasks[-1]
    )
    objective = (
        'train.objective=[{ use = "classify" }, { use = "pseudo_labels", name = "r1", '
        "temperature = 2.0 }]"
    )
    none = ("--pseudo", "r1", "--set", 'train.pseudo.labels="none"')
    report = train(work, kit, "--set", objective, *none)
    assert set(report["folds"]["0"]["last"]) == {"classify", "pseudo_labels"}
    rows = open_pseudo(work, "r1").read("0")
    labels = tasks[-1].soft_labels("r1")
    assert labels.ids == rows.ids
    np.testing.assert_array_equal(labels.probabilities, rows.dense(12))
    message = refusal(
        "train", "--kit", kit, "--work", work, *SHORT, "--fold", 0, "--set", objective
    )
    assert "name none of the training videos" in message


@pytest.mark.parametrize("name", ["r2", "../r1"])
def test_a_name_that_does_not_exist_is_refused(taught, kit, name):
    work, _ = taught
    message = refusal("train", "--kit", kit, "--work", work, "--fold", 0, "--pseudo", name)
    assert "it may be one of: r1" in message or "is not a valid name" in message


def test_the_hash_of_pseudo_labels_belongs_to_the_identity_of_a_run(copied, kit):
    work, _ = copied
    plan = ("train", "--kit", kit, "--work", work, "--fold", 0, "--pseudo", "r1", "--dry-run")
    before = toys.run_json(*plan)["run"]
    assert toys.run_json(*plan)["run"] == before
    update_seal(work / "pseudo" / "r1", {"hash": "0123456789ab"})
    assert toys.run_json(*plan)["run"] != before
