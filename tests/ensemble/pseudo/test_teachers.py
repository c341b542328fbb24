"""Teachers of an ensemble: weights that never read the labels of the fold that is labeled for."""

import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import toys
from toys import SHORT

from wbdc.core.errors import UsageFault
from wbdc.ensemble.blend_weights import fit_weights
from wbdc.ensemble.geometric_weights import learn_geometric_weights
from wbdc.ensemble.likelihood_weights import true_class_likelihoods
from wbdc.ensemble.pseudo.predict_labels import blend_for_fold
from wbdc.ensemble.pseudo.teachers import FoldWeights, fold_weights, open_teachers
from wbdc.ensemble.shared_rows import shared_predictions
from wbdc.train.pseudo.pseudo_set import open_pseudo
from wbdc.train.runs import open_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ensemble(taught, kit, tmp_path_factory):
    """A work folder with an ensemble of two runs, the second without fold 2."""
    work, run = taught
    copy = tmp_path_factory.mktemp("ensemble") / "work"
    shutil.copytree(work, copy)
    words = ("--kit", kit, "--work", copy, *SHORT, "--seed", 1, "--fold", "0,1")
    other = toys.run_json("train", *words, "--set", "train.epochs=6")["run"]
    runs = ("--run", run, "--run", other)
    toys.run_json("ensemble", *runs, "--work", copy, "--draws", 100, "--no-class-priors")
    return copy, (run, other)


def test_a_fold_is_labeled_with_weights_of_the_other_folds(ensemble):
    work, names = ensemble
    teachers = open_teachers(work, "ensemble", 3)
    runs = [open_run(work, name) for name in names]
    assert [m.run.name for m in teachers.members] == list(names)
    shared = shared_predictions(runs, None, ("1",))
    expected = fit_weights(true_class_likelihoods(shared.members, shared.truth)).values

    def read_oof(i: int, hidden: str) -> pl.DataFrame:
        """Out-of-fold predictions, with false labels in one fold."""
        table = runs[i].oof()
        false = pl.when(pl.col("fold") == hidden).then(pl.lit(table["label"][0]))
        return table.with_columns(false.otherwise(pl.col("label")).alias("label"))

    weights = fold_weights(teachers, "0", lambda i: read_oof(i, "0"))
    assert [teachers.models[p] for p in weights.values] == [(0, "0"), (1, "0")]
    np.testing.assert_allclose(list(weights.values.values()), expected)
    assert list(fold_weights(teachers, "2", lambda i: 1 / 0).values.values()) == [1.0]
    blend = fold_weights(teachers, "all", lambda i: 1 / 0)
    assert list(blend.values.values()) == [m.weight for m in teachers.blend.members]
    assert weights.sharpness == blend.sharpness == 0.0

    geometric = replace(teachers, blend=replace(teachers.blend, sharpness=2.0))
    fitted = learn_geometric_weights(shared.members, shared.truth)
    weights = fold_weights(geometric, "0", lambda i: read_oof(i, "0"))
    np.testing.assert_allclose(list(weights.values.values()), fitted.values)
    assert weights.sharpness == fitted.sharpness
    assert fold_weights(geometric, "all", lambda i: 1 / 0).sharpness == 2.0


def test_an_ensemble_labels_by_prediction_and_not_by_retrieval(ensemble):
    work, names = ensemble
    words = ("pseudo", "--from", "ensemble", "--work", work, "--threads", 1, "--fold", "1,all")
    facts = toys.run_json(*words, "--top-k", 4)
    assert facts["folds"]["1"]["models"] == [f"{name}/fold-1" for name in names]
    assert open_pseudo(work, "ensemble").read("all").codes.shape == (15, 4)
    result = toys.wbdc(*words, "--how", "retrieve", "--name", "near")
    assert result.exit_code == 2
    assert "ensemble is not one network" in " ".join(result.stderr.split())


def test_a_name_of_a_run_and_an_ensemble_is_refused(ensemble):
    work, _ = ensemble
    (work / "runs" / "ensemble").mkdir()
    try:
        with pytest.raises(UsageFault, match="names a run and an ensemble"):
            open_teachers(work, "ensemble", 3)
    finally:
        (work / "runs" / "ensemble").rmdir()


def test_labeled_videos_get_no_label_from_a_model_that_saw_the_fold():
    """Three videos, of folds 0, 1 and 2; three models that held out these folds, and one of all."""
    random = np.random.default_rng(0)
    members = random.dirichlet(np.ones(4), (4, 3)).astype(np.float32)
    models = ["0", "1", "2", "all"]
    held_out = np.array(["0", "1", "2"])

    for_fold = blend_for_fold(members, models, FoldWeights({1: 1.0}, 0.0), "1", held_out)
    np.testing.assert_array_equal(for_fold[1], 0)
    np.testing.assert_allclose(for_fold[[0, 2]], members[1, [0, 2]], rtol=1e-6)

    weights = FoldWeights(dict.fromkeys(range(4), 0.25), 0.0)
    for_all = blend_for_fold(members, models, weights, "all", held_out)
    np.testing.assert_allclose(for_all, [members[i, i] for i in range(3)], rtol=1e-6)
    two = FoldWeights({0: 1.0, 1: 1.0}, 0.0)
    without_two = blend_for_fold(members, models, two, "all", held_out)
    np.testing.assert_array_equal(without_two[2], 0)
    unlabeled = blend_for_fold(members, models, weights, "all", None)
    np.testing.assert_allclose(unlabeled, members.mean(0), rtol=1e-5)
    geometric = blend_for_fold(members, models, weights._replace(sharpness=4.0), "all", None)
    expected = members.prod(0) / members.prod(0).sum(1, keepdims=True)
    np.testing.assert_allclose(geometric, expected, rtol=1e-4)
