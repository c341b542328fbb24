"""Kits with an estimator: fitted, saved, resumed, scored and packed like any other run."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import toys

from wbdc.core.errors import UsageFault
from wbdc.serve.members import load_member
from wbdc.train.estimator_parts.calibration import fit_scale, inner_folds
from wbdc.train.estimator_parts.support_vectors import class_cost_factors, fit_support_vectors
from wbdc.train.kit import open_kit
from wbdc.train.kit_files import PACKAGED_KIT_FOLDERS

KITS = [
    path.stem
    for path in sorted(PACKAGED_KIT_FOLDERS[0].glob("*.toml"))
    if open_kit(path.stem).has_estimator
]


def train(work: Path, *options: object, kit: str = "ngrams", fold: str = "each") -> dict:
    return toys.run_json(
        *("train", "--kit", kit, "--fold", fold, "--work", work, "--threads", 1), *options
    )


@pytest.fixture(scope="module")
def runs(ready, tmp_path_factory) -> dict[str, dict]:
    """Every kit with an estimator, trained on three folds of one copy of the data."""
    import shutil

    work = tmp_path_factory.mktemp("runs") / "work"
    shutil.copytree(ready / "prepared", work / "prepared")
    return {"work": work, **{kit: train(work, kit=kit) for kit in KITS}}


@pytest.mark.parametrize("kit", KITS)
def test_a_run_has_the_files_and_predictions_of_any_run(runs, kit):
    report = runs[kit]
    folder = Path(report["folder"])
    assert sorted(report["folds"]) == ["0", "1", "2"]
    tables = []
    for fold, facts in report["folds"].items():
        home = folder / f"fold-{fold}"
        assert {"DONE.json", "kit.json", "model.json", "model.safetensors", "oof.parquet"} <= {
            path.name for path in home.iterdir()
        }
        assert set(facts["files"]) == {"kit.json", "model.json", "model.safetensors", "oof.parquet"}
        assert set(facts["score"]) == {"lv1_micro", "lv1_macro", "lv2_micro", "lv2_macro", "mean"}
        tables.append(pl.read_parquet(home / "oof.parquet"))
    held_out = pl.concat(tables)
    assert held_out["id"].n_unique() == len(held_out) == 33
    np.testing.assert_allclose(held_out["p"].to_numpy().sum(1), 1, rtol=1e-5)
    assert load_member(folder / "fold-0").classes == report_classes(folder)


def report_classes(folder: Path) -> list[str]:
    from wbdc.train.runs import read_run

    return read_run(folder).classes


@pytest.mark.parametrize("kit", KITS)
def test_out_of_fold_predictions_are_those_of_the_engine_bit_for_bit(runs, data, kit):
    import torch

    from wbdc.competitions.wechat2022 import WeChat2022
    from wbdc.core.findings import Findings
    from wbdc.serve.engine import InferenceEngine

    fold = Path(runs[kit]["folder"]) / "fold-1"
    saved = pl.read_parquet(fold / "oof.parquet")
    videos = {video.id: video for video in WeChat2022().videos(data, "labeled", Findings())}
    engine = InferenceEngine([fold], [1.0], torch.device("cpu"), torch.float32, 1)
    predictions = engine.predict([videos[name] for name in saved["id"].to_list()])
    assert np.array_equal(predictions.probabilities, saved["p"].to_numpy())


def test_a_finished_run_is_reused_and_a_killed_fold_ends_with_the_same_bits(runs, fresh):
    first = train(fresh, fold="0")
    folder = Path(first["folder"]) / "fold-0"
    bits = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    assert first["run"] == runs["ngrams"]["run"]
    assert train(fresh, fold="0")["folds"] == first["folds"]
    for name in ("DONE.json", "oof.parquet"):  # killed after the export
        (folder / name).unlink()
    train(fresh, fold="0")
    for name in ("model.safetensors", "oof.parquet", "model.json", "kit.json"):
        assert (folder / name).read_bytes() == bits[name]


def test_settings_and_seed_name_another_run_and_all_data_hold_out_nothing(runs, fresh):
    name = runs["ngrams"]["run"]
    plan = ("--dry-run", "--set")
    assert train(fresh, *plan, "estimator.char=[1, 2]")["run"] != name
    assert train(fresh, *plan, "serve.batch=8")["run"] == name
    assert train(fresh, "--tiny", "--dry-run")["run"] == name, "it is small as it is"
    assert train(fresh, "--seed", 1, "--dry-run")["run"] != name
    assert not (fresh / "runs").exists()
    report = train(fresh, fold="all")
    assert "score" not in report["folds"]["all"]
    assert not (Path(report["folder"]) / "fold-all" / "oof.parquet").exists()


def test_a_blend_with_a_linear_member_predicts_and_compares(runs, tmp_path):
    work = runs["work"]
    report = toys.run_json("ensemble", "--work", work, "--draws", 100)
    assert {runs[kit]["run"] for kit in KITS} <= set(report["members"])
    out = tmp_path / "result.csv"
    timings = toys.run_json("predict", "--work", work, "--out", out, "--threads", 1)
    assert timings["videos"] == len(out.read_text().splitlines())
    run = runs["ngrams"]["run"]
    refused = toys.wbdc("ensemble", "--work", work, "--run", f"{run} frames=1")
    assert refused.exit_code == 2
    assert "frames cannot be changed" in refused.stderr


@pytest.mark.slow
def test_the_budget_search_times_linear_members(runs, monkeypatch):
    monkeypatch.setattr("wbdc.ensemble.budget.budget_search.measure_start", lambda openvino: 0.5)
    limited = toys.run_json(
        *("ensemble", "--work", runs["work"], "--draws", 100, "--limit", 1e6, "--items", 100),
        *("--frames", "2", "--length", "16", "--threads", 1, "--name", "limited"),
    )
    assert limited["budget"]["chosen"]["members"]


@pytest.mark.slow
def test_a_packed_linear_member_predicts_as_its_run(runs, tmp_path):
    work, into = runs["work"], tmp_path / "packed"
    toys.run_json("ensemble", "--work", work, "--draws", 100, "--name", "packed")
    report = toys.run_json(
        *("submit", "--work", work, "--ensemble", "packed", "--into", into, "--threads", 1)
    )
    assert report["proof"]["equal"]
    assert toys.wbdc("verify", into).exit_code in (0, 6)
    requirements = (into / "requirements.txt").read_text()
    assert "numpy" in requirements
    assert "scikit" not in requirements
    assert "wbdc train --kit source/kits/ngrams-" in (into / "train.sh").read_text()
    assert "fitted to" in (into / "README.md").read_text()


REFUSED = {
    ("--without", "frames"): "--without frames has no effect on kit ngrams",
    ("--from", "pretrain-a"): "--from pretrain-a has no effect",
    ("--logger", "tensorboard"): "--logger has no effect",
    ("--set", "estimator.chars=[1, 2]"): "has no setting 'chars'; did you mean 'char'",
    ("--set", "estimator.char=[3, 1]"): "char = [3, 1]; give the lowest and the highest n",
    ("--set", "estimator.char=[]"): "counts nothing; set char, word or char_wb",
    ("--set", "estimator.cost=0.0"): "cost = 0; it must be between",
    ("--set", 'estimator.fields=["titel"]'): "no text field 'titel'; did you mean 'title'",
    ("--set", "train.epochs=3"): "[train] has no effect beside [estimator]",
    ("--set", 'estimator.use="ngram"'): "no estimator called 'ngram'; did you mean 'ngrams'",
    ("--set", "estimator.balance=2.0"): "balance = 2; it must be between 0 and 1",
    ("--set", "estimator.min_count=99"): "is in 99 of",
}


@pytest.mark.parametrize("options", REFUSED, ids=" ".join)
def test_what_an_estimator_cannot_do_is_refused_in_one_sentence(fresh, options):
    result = toys.wbdc(
        *("train", "--kit", "ngrams", "--fold", "0", "--work", fresh, "--threads", 1), *options
    )
    assert result.exit_code in (2, 3)
    assert REFUSED[options] in " ".join(result.stderr.split())
    assert not (fresh / "runs").exists() or not list((fresh / "runs").glob("*/fold-0"))


def test_an_estimator_has_no_pretraining():
    with pytest.raises(UsageFault, match="wbdc train --kit ngrams --fold each"):
        open_kit("ngrams").stage("pretrain")


def test_a_balanced_machine_prefers_rare_classes():
    random = np.random.default_rng(0)
    labels = random.choice(3, 400, p=[0.8, 0.16, 0.04])
    features = random.normal(size=(400, 4))
    features[np.arange(400), labels] += 1.5
    count = np.bincount(labels)
    assert class_cost_factors(labels, 0.5) == pytest.approx(
        {code: (400 / 3 / count[code]) ** 0.5 for code in range(3)}
    )
    predictions, weights = [], []
    for balance in ({}, {"balance": 0.0}, {"balance": 1.0}):
        machines = fit_support_vectors(features, labels, 3, cost=1.0, seed=0, **balance)
        decisions = features @ machines.weights + machines.intercept
        predictions.append((decisions.argmax(1) == 2).sum())
        weights.append(machines.weights.tobytes())
    assert weights[0] == weights[1] != weights[2]
    assert predictions[2] > predictions[0] + 10


def test_the_scale_is_that_of_the_highest_likelihood():
    """Logits drawn at twice the scale of the decisions."""
    random = np.random.default_rng(0)
    decisions = random.normal(size=(4000, 3))
    p = np.exp(2 * decisions)
    p /= p.sum(1, keepdims=True)
    labels = np.array([random.choice(3, p=row) for row in p])
    assert fit_scale(decisions, labels) == pytest.approx(2, rel=0.1)
    assert fit_scale(decisions[:0], labels[:0]) == 1


def test_inner_folds_are_those_of_the_data_where_there_are_several():
    assert inner_folds(np.array([0, 2, 2, 3]), 0).tolist() == [0, 2, 2, 3]
    dealt = inner_folds(np.zeros(9, int), 0)
    assert sorted(dealt.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


RECIPE = """
about = "Two kits."
origin = "Nowhere."

[[step]]
name = "data"
command = "prepare"
folds = 3
origin = "the layout of the contest"

[[step]]
name = "texts"
command = "train"
kit = "ngrams"
fold = "0,1"
origin = "a guess"

[[step]]
name = "blend"
command = "ensemble"
run = ["texts"]
draws = 100
origin = "a guess"
"""


def test_a_recipe_plans_a_step_that_fits_an_estimator(fresh, tmp_path):
    from wbdc.recipes.plan import FINISHED, READY, plan_recipe
    from wbdc.recipes.recipe import open_recipe
    from wbdc.recipes.step_results import RecipeOptions

    folder = tmp_path / "linear"
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    recipe = open_recipe(str(folder / "recipe.toml"))
    name = train(fresh, fold="0")["run"]
    for tiny in (True, False):
        step = plan_recipe(recipe, RecipeOptions(fresh, tiny=tiny, threads=1))[1]
        assert (step.state, step.result) == (READY, name)
        assert step.cost.remaining > 0, "as long as the finished fold"
    train(fresh, fold="1")
    assert plan_recipe(recipe, RecipeOptions(fresh, threads=1))[1].state == FINISHED
