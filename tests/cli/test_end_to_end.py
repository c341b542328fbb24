"""The path a team walks, command by command, on toys: prepare, pretrain, train, compare, ensemble,
predict, submit, verify.
"""

import csv
import json
from pathlib import Path

import pytest
import toys

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.findings import Findings
from wbdc.train import session


@pytest.fixture(scope="module")
def walked(data, kit, ready, tmp_path_factory) -> dict:
    """Train three toy runs on two folds, one of them from a pretraining, and blend them."""
    import shutil

    work = tmp_path_factory.mktemp("walked") / "work"
    shutil.copytree(ready / "prepared", work / "prepared")  # nothing that other tests trained
    common = ("--kit", kit, "--work", work, "--threads", 1)
    pretrained = toys.told("pretrain", *common, "--set", "pretrain.epochs=1")["run"]
    first = toys.told("train", *common, "--fold", "0,1")
    second = toys.told(
        "train",
        *common,
        "--fold",
        "0,1",
        "--from",
        pretrained,
        "--set",
        "fusion.use='single_stream'",
    )
    blind = toys.told("train", *common, "--fold", "0,1", "--without", "frames", "--from", "none")
    report = toys.told("ensemble", "--work", work, "--draws", 100)
    return {
        "work": work,
        "data": data,
        "pretrained": pretrained,
        "runs": [first, second],
        "blind": blind,
        "report": report,
    }


def test_train_starts_from_a_pretrained_run_and_names_it(walked):
    said = walked["runs"][1]["folds"]["0"]["weights"]["start"]
    assert said.startswith(f"{walked['pretrained']}: takes")
    assert "head.weight" in said
    assert "start" not in walked["runs"][0]["folds"]["0"]["weights"], (
        "another recipe's pretraining is not taken by itself"
    )


def test_ensemble_blends_every_run_but_ablations_and_scores_itself(walked):
    report = walked["report"]
    assert set(report["weights"]) == {run["run"] for run in walked["runs"]}
    assert sum(report["weights"].values()) == pytest.approx(1)
    assert report["folds"] == ["0", "1"]
    assert report["rows"] == sum(
        len(read(walked, run, f)) for run in walked["runs"][:1] for f in "01"
    )
    low, high = report["ensemble"]["interval"]
    assert low <= report["ensemble"]["score"]["mean"] <= high
    assert report["gain"]["verdict"] in ("better", "worse", "within noise")
    assert (
        walked["blind"]["run"]
        in toys.wbdc("ensemble", "--work", walked["work"], "--draws", 100).stderr
    ), "what is left out is said"


def test_blend_weights_benchmark_scores_the_ensemble_as_the_command(walked):
    import blend_weights
    from click.testing import CliRunner

    arguments = ["--work", str(walked["work"]), "--draws", "100", "--videos", "5", "--json"]
    found = json.loads(CliRunner().invoke(blend_weights.main, arguments).stdout)
    ensemble = walked["report"]["ensemble"]
    chosen = found["rules"][blend_weights.CHOSEN]
    assert chosen == {"score": ensemble["score"], "interval": ensemble["interval"]}
    assert set(found["splits"]["5"]) == set(blend_weights.RULES)
    assert set(found["gains"]) == set(found["rules"]) - {blend_weights.CHOSEN}
    assert any(
        more["difference"] == walked["report"]["gain"]["difference"]
        for more in found["gains"].values()
    )


def read(walked: dict, run: dict, fold: str) -> list:
    import polars

    return polars.read_parquet(Path(run["folder"]) / f"fold-{fold}" / "oof.parquet").rows()


def test_compare_reports_whether_a_difference_is_noise(walked):
    run, other = walked["runs"][0]["run"], walked["blind"]["run"]
    found = toys.told("compare", run, other, "--work", walked["work"], "--draws", 100)
    assert found["low"] <= found["difference"] <= found["high"]
    assert set(found["scores"]) == {run, other}
    same = toys.told("compare", run, run, "--work", walked["work"], "--draws", 100)
    assert same["difference"] == 0
    assert same["verdict"] == "within noise"


def test_runs_of_other_data_or_without_a_common_fold_are_refused(walked, kit, data, tmp_path):
    work = walked["work"]
    toys.told("prepare", "--data", data, "--work", work, "--folds", 2, "--threads", 1)
    other = toys.told(
        "train",
        "--kit",
        kit,
        "--work",
        work,
        "--threads",
        1,
        "--fold",
        0,
        "--set",
        "train.epochs=1",
    )["run"]
    refused = toys.wbdc(
        "ensemble", "--work", work, "--run", walked["runs"][0]["run"], "--run", other
    )
    assert refused.exit_code == 2
    assert "data or folds differ" in refused.stderr
    toys.told(
        "prepare", "--data", data, "--work", work, "--folds", 3, "--threads", 1
    )  # what was prepared last is the default again
    lone = toys.told(
        "train",
        "--kit",
        kit,
        "--work",
        work,
        "--threads",
        1,
        "--fold",
        2,
        "--set",
        "train.epochs=1",
    )["run"]
    refused = toys.wbdc(
        "ensemble", "--work", work, "--run", walked["runs"][0]["run"], "--run", lone
    )
    assert refused.exit_code == 2
    assert "share no finished fold" in refused.stderr


def test_predict_is_complete_and_repeatable(walked, tmp_path):
    for name in ("a.csv", "b.csv"):
        toys.told("predict", "--work", walked["work"], "--out", tmp_path / name, "--threads", 1)
    ids = [v.id for v in WeChat2022().videos(walked["data"], "test", Findings())]
    WeChat2022().read_result(tmp_path / "a.csv", ids, WeChat2022().classes(walked["data"]))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()  # trap 11


@pytest.fixture(scope="module")
def submitted(walked, tmp_path_factory) -> dict:
    into = tmp_path_factory.mktemp("submissions") / "ensemble"
    result = toys.wbdc(
        "submit",
        "--work",
        walked["work"],
        "--into",
        into,
        "--check-latency",
        "--threads",
        1,
        "--json",
    )
    return {
        "into": into,
        "code": result.exit_code,
        "said": json.loads(result.stdout),
        "stderr": result.stderr,
    }


@pytest.mark.slow
def test_submission_predicts_bit_for_bit_and_is_timed(submitted):
    said = submitted["said"]
    assert said["proof"] == {"videos": 12, "equal": True, "changed_by_half": 0.0}
    assert {"PASS": 0, "FAIL": 5, "INCONCLUSIVE": 6}[said["latency"]["verdict"]] == submitted[
        "code"
    ]
    assert (submitted["into"] / "latency.json").is_file()


@pytest.mark.slow
def test_verify_names_a_changed_byte(submitted, tmp_path):
    import shutil

    checked = toys.wbdc("verify", submitted["into"], "--json")
    verdict = json.loads(checked.stdout)[str(submitted["into"])]["latency"]["verdict"]
    assert verdict == submitted["said"]["latency"]["verdict"]
    assert checked.exit_code == submitted["code"]
    shutil.copytree(submitted["into"], tmp_path / "copy")
    weights = next((tmp_path / "copy").rglob("model.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused = toys.wbdc("verify", tmp_path / "copy")
    assert refused.exit_code == 4
    assert "model.safetensors" in refused.stderr


@pytest.mark.slow
def test_train_sh_lists_the_commands_of_the_submission(submitted, walked):
    script = (submitted["into"] / "train.sh").read_text()
    assert "wbdc prepare --data" in script
    assert "--from pretrain-toy-" in script
    assert "wbdc pretrain --kit source/kits/pretrain-toy-" in script
    assert "--fold 0,1" in script
    for run in walked["runs"]:
        assert f"source/kits/{run['run']}/toy.json" in script


def test_fold_option_formats():
    assert session.parse_folds("each", 3) == ["0", "1", "2"]
    assert session.parse_folds("2, 0", 3) == ["2", "0"]
    assert session.parse_folds("all", 3) == ["all"]
    for wrong in ("3", "x", "", "-1"):
        with pytest.raises(session.UsageFault, match="folds 0 to 2"):
            session.parse_folds(wrong, 3)


def test_dry_runs_print_and_write_nothing(walked, data, kit, tmp_path):
    assert (
        toys.told("prepare", "--data", data, "--work", tmp_path, "--dry-run")["counts"]["labeled"]
        == 33
    )
    plan = toys.told(
        "train",
        "--kit",
        kit,
        "--work",
        walked["work"],
        "--fold",
        "0,2",
        "--dry-run",
        "--threads",
        1,
    )
    assert plan["folds"] == {"0": "finished", "2": "to train"}
    assert (
        toys.wbdc(
            "submit", "--work", walked["work"], "--into", tmp_path / "s", "--dry-run"
        ).exit_code
        == 0
    )
    assert not list(tmp_path.iterdir())


def test_prepare_runs_on_real_data(real_data, tmp_path):
    for name, videos in (("howtocook", 103), ("kuaitext", 1631), ("emojizh", 984)):
        said = toys.told("prepare", "--data", real_data / name / "data", "--work", tmp_path)
        assert said["counts"]["labeled"] == videos
    with (real_data / "howtocook" / "taxonomy.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(
            toys.told("prepare", "--data", real_data / "howtocook" / "data", "--work", tmp_path)[
                "known_classes"
            ]
        )
