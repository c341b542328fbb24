"""All commands in order on toy data: prepare, pretrain, train, compare, ensemble, predict, submit,
verify.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import toys
from fake_package import fake_run

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.files import file_sha256
from wbdc.core.findings import Findings
from wbdc.prepare.dataset import open_prepared
from wbdc.submit.timing import measure
from wbdc.train import session
from wbdc.train.probability_file import read_probability_table, write_probability_file
from wbdc.train.runs import open_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(data, kit, ready, tmp_path_factory) -> dict:
    """Train three toy runs on two folds, one of them from a pretrained run, and blend them."""
    import shutil

    work = tmp_path_factory.mktemp("trained") / "work"
    shutil.copytree(ready / "prepared", work / "prepared")  # without the runs of other tests
    common = ("--kit", kit, "--work", work, "--threads", 1)
    pretrained = toys.run_json("pretrain", *common, "--set", "pretrain.epochs=1")["run"]
    first = toys.run_json("train", *common, "--fold", "0,1")
    second = toys.run_json(
        *("train", *common, "--fold", "0,1", "--from", pretrained),
        *("--set", "fusion.use='single_stream'"),
    )
    ablation = toys.run_json(
        "train", *common, "--fold", "0,1", "--without", "frames", "--from", "none"
    )
    report = toys.run_json("ensemble", "--work", work, "--draws", 100)
    return {
        "work": work,
        "data": data,
        "pretrained": pretrained,
        "runs": [first, second],
        "ablation": ablation,
        "report": report,
    }


def test_train_starts_from_a_pretrained_run_and_names_it(trained):
    start = trained["runs"][1]["folds"]["0"]["weights"]["start"]
    assert start.startswith(f"{trained['pretrained']}: loads")
    assert "head.weight" in start


def test_train_does_not_start_from_the_pretrained_run_of_another_recipe(trained):
    assert "start" not in trained["runs"][0]["folds"]["0"]["weights"]


def test_ensemble_blends_every_run_but_ablations_and_scores_itself(trained):
    report = trained["report"]
    assert set(report["weights"]) == {run["run"] for run in trained["runs"]}
    assert sum(report["weights"].values()) == pytest.approx(1)
    assert report["folds"] == ["0", "1"]
    assert report["rows"] == sum(len(read_oof(trained["runs"][0], fold)) for fold in "01")
    low, high = report["ensemble"]["interval"]
    assert low <= report["ensemble"]["score"]["mean"] <= high
    assert report["gain"]["verdict"] in ("better", "worse", "within noise")
    result = toys.wbdc("ensemble", "--work", trained["work"], "--draws", 100)
    assert trained["ablation"]["run"] in result.stderr


def test_blend_weights_benchmark_scores_the_ensemble_as_the_command(trained):
    import blend_weights
    from click.testing import CliRunner

    arguments = ["--work", str(trained["work"]), "--draws", "100", "--videos", "5", "--json"]
    benchmark = json.loads(CliRunner().invoke(blend_weights.main, arguments).stdout)
    ensemble = trained["report"]["ensemble"]
    chosen = benchmark["rules"][blend_weights.SHIPPED_RULE]
    assert chosen == {"score": ensemble["score"], "interval": ensemble["interval"]}
    assert set(benchmark["splits"]["5"]) == set(blend_weights.RULES)
    assert set(benchmark["gains"]) == set(benchmark["rules"]) - {blend_weights.SHIPPED_RULE}
    assert any(
        gain["difference"] == trained["report"]["gain"]["difference"]
        for gain in benchmark["gains"].values()
    )


def read_oof(run: dict, fold: str) -> list:
    import polars

    return polars.read_parquet(Path(run["folder"]) / f"fold-{fold}" / "oof.parquet").rows()


def test_compare_reports_whether_a_difference_is_noise(trained):
    run = trained["runs"][0]["run"]
    other_run = trained["ablation"]["run"]
    comparison = toys.run_json("compare", run, other_run, "--work", trained["work"], "--draws", 100)
    assert comparison["low"] <= comparison["difference"] <= comparison["high"]
    assert set(comparison["scores"]) == {run, other_run}
    same = toys.run_json("compare", run, run, "--work", trained["work"], "--draws", 100)
    assert same["difference"] == 0
    assert same["verdict"] == "within noise"


def test_runs_of_other_data_or_without_a_common_fold_are_refused(trained, kit, data, tmp_path):
    work = trained["work"]
    run = trained["runs"][0]["run"]
    train = ("train", "--kit", kit, "--work", work, "--threads", 1, "--set", "train.epochs=1")
    toys.run_json("prepare", "--data", data, "--work", work, "--folds", 2, "--threads", 1)
    other_run = toys.run_json(*train, "--fold", 0)["run"]
    refused = toys.wbdc("ensemble", "--work", work, "--run", run, "--run", other_run)
    assert refused.exit_code == 2
    assert "data or folds differ" in refused.stderr
    # the data prepared last are the default again
    toys.run_json("prepare", "--data", data, "--work", work, "--folds", 3, "--threads", 1)
    lone_run = toys.run_json(*train, "--fold", 2)["run"]
    refused = toys.wbdc("ensemble", "--work", work, "--run", run, "--run", lone_run)
    assert refused.exit_code == 2
    assert "share no finished fold" in refused.stderr


def test_predict_is_complete_and_repeatable(trained, tmp_path):
    for name in ("a.csv", "b.csv"):
        toys.run_json(
            "predict", "--work", trained["work"], "--out", tmp_path / name, "--threads", 1
        )
    ids = [v.id for v in WeChat2022().videos(trained["data"], "test", Findings())]
    WeChat2022().read_result(tmp_path / "a.csv", ids, WeChat2022().classes(trained["data"]))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()  # trap 11


def test_a_member_from_outside_joins_the_ensemble_and_its_predictions(trained, tmp_path):
    work = trained["work"]
    prepared = open_prepared(work)
    classes = prepared.facts.classes
    labeled = prepared.read_split("labeled", ["id"])["id"].to_list()
    tests = [v.id for v in WeChat2022().videos(trained["data"], "test", Findings())]

    def write(name, ids, rows):
        write_probability_file(tmp_path / name, ids, classes, rows)
        return tmp_path / name

    # as good as a run, so that no member is dropped
    oof = open_run(work, trained["runs"][0]["run"]).oof()
    rows = np.full((len(labeled), len(classes)), 1 / len(classes), np.float32)
    rows[[labeled.index(name) for name in oof["id"]]] = oof["p"].to_numpy()
    file = write("svm.csv", labeled, rows)
    runs = [word for run in trained["runs"] for word in ("--run", run["run"])]
    options = ("--work", work, "--name", "joint", "--draws", 100, *runs)
    report = toys.run_json("ensemble", *options, "--with", file)
    weight = report["weights"]["svm"]
    assert 0.1 < weight < 0.9
    assert report["outside"]["svm"]["sha256"] == file_sha256(file)

    out = ("--work", work, "--out", tmp_path / "joint.csv", "--ensemble", "joint", "--threads", 1)
    missing = toys.wbdc("predict", *out)
    assert missing.exit_code == 2
    assert "for the split test with --with svm=FILE" in missing.stderr

    def predict(column):
        one_hot = np.tile(np.eye(len(classes), dtype=np.float32)[column], (len(tests), 1))
        given, written = write("given.npz", tests, one_hot), tmp_path / "test.parquet"
        toys.run_json("predict", *out, "--with", f"svm={given}", "--probabilities", written)
        table = read_probability_table(written, classes)
        assert table["id"].to_list() == tests
        return table.select(classes).to_numpy()

    first, last = predict(0), predict(-1)
    np.testing.assert_allclose(last[:, -1] - first[:, -1], weight, atol=1e-6)
    best = [classes[i] for i in last.argmax(1)]
    result = [f"{name},{label}" for name, label in zip(tests, best, strict=True)]
    assert (tmp_path / "joint.csv").read_text().split() == result

    refused = toys.wbdc("submit", "--work", work, "--ensemble", "joint", "--into", tmp_path / "s")
    assert refused.exit_code == 2
    assert "cannot run on the judge's machine" in refused.stderr


@pytest.fixture(scope="module")
def submitted(trained, tmp_path_factory) -> dict:
    """Pack the ensemble; its predictions are compared in a real process, and simulated runs of it
    are timed.
    """
    into = tmp_path_factory.mktemp("submissions") / "ensemble"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "run_packed", fake_run(0.0001, "0100"))
        result = toys.wbdc(
            *("submit", "--work", trained["work"], "--into", into),
            *("--check-latency", "--threads", 1, "--json"),
        )
    return {
        "into": into,
        "code": result.exit_code,
        "report": json.loads(result.stdout),
        "stderr": result.stderr,
    }


def test_submission_predicts_bit_for_bit_and_is_timed(submitted):
    report = submitted["report"]
    assert report["proof"] == {"videos": 12, "equal": True, "changed_by_float16": 0.0}
    assert report["latency"]["verdict"] == "PASS"
    assert submitted["code"] == 0
    assert (submitted["into"] / "latency.json").is_file()


def test_verify_names_a_changed_byte(submitted, tmp_path):
    import shutil

    checked = toys.wbdc("verify", submitted["into"], "--json")
    verdict = json.loads(checked.stdout)[str(submitted["into"])]["latency"]["verdict"]
    assert verdict == submitted["report"]["latency"]["verdict"]
    assert checked.exit_code == submitted["code"]
    shutil.copytree(submitted["into"], tmp_path / "copy")
    weights = next((tmp_path / "copy").rglob("model.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused = toys.wbdc("verify", tmp_path / "copy")
    assert refused.exit_code == 4
    assert "model.safetensors" in refused.stderr


def test_train_sh_lists_the_commands_of_the_submission(submitted, trained):
    script = (submitted["into"] / "train.sh").read_text()
    assert "wbdc prepare --data" in script
    assert "--from pretrain-toy-" in script
    assert "wbdc pretrain --kit source/kits/pretrain-toy-" in script
    assert "--fold 0,1" in script
    for run in trained["runs"]:
        assert f"source/kits/{run['run']}/toy.json" in script


def test_fold_option_formats():
    assert session.parse_folds("each", 3) == ["0", "1", "2"]
    assert session.parse_folds("2, 0", 3) == ["2", "0"]
    assert session.parse_folds("all", 3) == ["all"]


@pytest.mark.parametrize("folds", ["3", "x", "", "-1"])
def test_invalid_folds_are_a_usage_fault(folds):
    with pytest.raises(session.UsageFault, match="folds 0 to 2"):
        session.parse_folds(folds, 3)


def test_dry_runs_print_and_write_nothing(trained, data, kit, tmp_path):
    work = trained["work"]
    plan = toys.run_json("prepare", "--data", data, "--work", tmp_path, "--dry-run")
    assert plan["counts"]["labeled"] == 33
    plan = toys.run_json(
        *("train", "--kit", kit, "--work", work, "--fold", "0,2"),
        *("--dry-run", "--threads", 1),
    )
    assert plan["folds"] == {"0": "finished", "2": "to train"}
    result = toys.wbdc("submit", "--work", work, "--into", tmp_path / "s", "--dry-run")
    assert result.exit_code == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "videos"), [("howtocook", 103), ("kuaitext", 1631), ("emojizh", 984)]
)
def test_prepare_runs_on_real_data(real_data, tmp_path, name, videos):
    facts = toys.run_json("prepare", "--data", real_data / name / "data", "--work", tmp_path)
    assert facts["counts"]["labeled"] == videos
    if name == "howtocook":
        with (real_data / name / "taxonomy.csv").open() as file:
            assert len(list(csv.DictReader(file))) == len(facts["known_classes"])
