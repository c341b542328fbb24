"""The output of the commands as text and as JSON; dry runs and refused options change no file."""

import json
from pathlib import Path

import pytest
import toys
from run_ranks import Command

COMPONENTS = ("lv1_micro", "lv1_macro", "lv2_micro", "lv2_macro", "mean")


@pytest.fixture(scope="module")
def work(ready, kit) -> Path:
    """Create a work folder with a run of two folds and an ensemble of it."""
    toys.run_json(
        "train",
        "--kit",
        kit,
        "--fold",
        "0,1",
        "--work",
        ready,
        "--threads",
        1,
        "--set",
        "train.epochs=2",
    )
    toys.run_json("ensemble", "--work", ready, "--draws", 100)
    return ready


def name(work: Path) -> str:
    return next(p.name for p in (work / "runs").iterdir() if (p / "fold-1" / "DONE.json").is_file())


def test_prepare_reports_unchanged_data(ready, data):
    report = toys.run_json("prepare", "--data", data, "--work", ready, "--folds", 3)
    assert report["unchanged"]
    assert report["counts"] == {"labeled": 33, "test": 12, "unlabeled": 15}
    result = toys.wbdc("prepare", "--data", data, "--work", ready, "--folds", 3)
    assert result.exit_code == 0
    assert "The data are unchanged" in result.stdout
    assert report["folder"] in result.stdout.replace("\n", "")


def test_prepare_strict_is_exit_3_after_findings(data, tmp_path):
    for words in (("--dry-run",), ()):
        result = toys.wbdc(
            "prepare", "--data", data, "--work", tmp_path, "--strict", "--json", *words
        )
        findings = json.loads(result.stdout)["findings"]
        assert result.exit_code == (3 if findings else 0)
        assert not findings or "--strict accepts none" in result.stderr
    assert (
        "archive.order" in findings
    )  # the made-up contest has archives whose names, as text, would shuffle time


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--data", "/nowhere"], "/nowhere is not a folder", 3),
        (["--competition", "wechat2021"], "did you mean 'wechat2022'", 2),
        (["--folds", 40], "--folds 40 does not fit 33", 2),
    ],
)
def test_prepare_refuses_invalid_options(data, tmp_path, words, message, code):
    result = toys.wbdc("prepare", "--data", data, "--work", tmp_path, *words)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) <= 4


def test_train_prints_a_table_to_stdout_and_progress_to_stderr(work, fresh, kit):
    result = toys.wbdc(
        "train",
        "--kit",
        kit,
        "--fold",
        0,
        "--work",
        work,
        "--threads",
        1,
        "--set",
        "train.epochs=2",
    )
    assert result.exit_code == 0
    assert all(c in result.stdout for c in (*COMPONENTS, "official", "fold 0"))
    anew = toys.wbdc(
        "train",
        "--kit",
        kit,
        "--fold",
        2,
        "--work",
        fresh,
        "--threads",
        1,
        "--set",
        "train.epochs=1",
    )
    assert "weights of trunk: random weights" in anew.stderr
    assert "trains rest:" in anew.stderr
    assert "train fold-2: 10 done" not in anew.stdout


def test_dry_run_changes_no_file(fresh, kit, data):
    before = sorted(fresh.rglob("*"))
    for words in (
        ["train", "--kit", kit, "--fold", 0],
        ["pretrain", "--kit", kit],
        ["prepare", "--data", data],
    ):
        assert toys.wbdc(*words, "--work", fresh, "--dry-run").exit_code == 0
    assert sorted(fresh.rglob("*")) == before


def test_train_before_prepare_names_the_missing_command(kit, tmp_path):
    result = toys.wbdc("train", "--kit", kit, "--fold", 0, "--work", tmp_path)
    assert result.exit_code == 2
    assert "run `wbdc prepare --data DIR` first" in result.stderr


@pytest.mark.parametrize("source", ["ensemble", "run"])
def test_predict_reads_raw_archives(work, data, tmp_path, source):
    words = [
        "predict",
        "--work",
        work,
        "--threads",
        1,
        "--out",
        tmp_path / "result.csv",
        *(["--run", name(work)] if source == "run" else []),
    ]
    report = toys.run_json(*words)
    assert {"imported", "loaded", "predicted", "written"} <= set(report["marks"])
    rows = [line.split(",") for line in (tmp_path / "result.csv").read_text().splitlines()]
    wanted = [item["id"] for item in json.loads((data / "annotations" / "test.json").read_text())]
    assert [row[0] for row in rows] == wanted
    assert report["videos"] == 12
    assert all(len(row[1]) == 4 for row in rows)
    first = (tmp_path / "result.csv").read_bytes()
    result = toys.wbdc(*words)
    assert result.exit_code == 0
    assert "12 videos predicted" in result.stdout
    assert (tmp_path / "result.csv").read_bytes() == first


def test_trap_11_training_and_serving_read_videos_identically(work, tmp_path):
    """Held-out videos that are predicted from raw archives get the probabilities of validation."""
    import time
    from dataclasses import replace

    import numpy as np

    from wbdc.ensemble.saved_ensembles import run_blend
    from wbdc.prepare.dataset import open_prepared
    from wbdc.serve.entry import ServeOptions, serve
    from wbdc.train.runs import open_run

    run = open_run(work, name(work))
    oof = run.oof().filter(run.oof()["fold"] == "0")
    whole = run_blend(work, run)
    blend = replace(whole, members=tuple(m for m in whole.members if m.fold == "0"))
    data = Path(open_prepared(work).facts.data_folder)
    answers, _ = serve(
        work,
        blend,
        run.contest,
        data,
        tmp_path / "r.csv",
        ServeOptions("labeled", "cpu", "fp32", threads=1, sample=oof["id"].to_list()),
        log=lambda line: None,
        progress=lambda done, total: None,
        start=time.perf_counter(),
    )
    np.testing.assert_allclose(answers.probabilities, oof["p"].to_numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ensemble", "ensembel"], "did you mean 'ensemble'"),
        (["--run", "nobody"], "no run called 'nobody'"),
    ],
)
def test_unknown_run_or_ensemble_cannot_predict(work, words, message, tmp_path):
    result = toys.wbdc("predict", "--work", work, "--out", tmp_path / "r.csv", *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "r.csv").exists()


def test_submit_dry_run_prints_the_plan(work):
    assert toys.run_json("submit", "--work", work, "--dry-run")["members"] == 2
    assert "Would pack 2 models into" in toys.wbdc("submit", "--work", work, "--dry-run").stdout


def test_verify_of_a_missing_folder_fails(tmp_path):
    result = toys.wbdc("verify", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert result.stdout == ""


def test_synthetic_data_are_generated_from_the_command_line(tmp_path):
    report = toys.run_json("demo", "--data-only", tmp_path / "made", "--videos", 40)
    assert (tmp_path / "made" / "data" / "annotations" / "test.json").is_file()
    assert report["labeled"] + report["unlabeled"] + report["test"] == 40
    result = toys.wbdc("demo", "--data-only", tmp_path / "made", "--videos", 41)
    assert result.exit_code == 2
    assert "synthetic contest of 40 videos" in result.stderr


def test_ensemble_prints_a_table(work):
    report = toys.run_json("ensemble", "--work", work, "--draws", 100)
    result = toys.wbdc("ensemble", "--work", work, "--draws", 100)
    assert result.exit_code == 0
    assert report["gain"]["verdict"] in result.stdout
    assert all(c in result.stdout for c in (*COMPONENTS, "95 % interval", name(work)))
    assert toys.run_json("ensemble", "--work", work, "--dry-run") == {"members": [name(work)]}


def test_unknown_run_gets_a_hint(work):
    result = toys.wbdc("compare", name(work), name(work) + "x", "--work", work)
    assert result.exit_code == 2
    assert f"did you mean '{name(work)}'" in result.stderr


def test_prepare_check_only_writes_nothing(data, tmp_path):
    result = toys.wbdc(
        "prepare", "--data", data, "--work", tmp_path / "w", "--check-only", "--folds", 3
    )
    assert result.exit_code == 0
    assert "nothing was written" in result.stdout
    assert not (tmp_path / "w").exists()
    assert all(
        word in result.stdout
        for word in ("Statistics", "characters of title", "archive.order", "consequence")
    )
    checked = toys.run_json(
        "prepare", "--data", data, "--work", tmp_path / "w", "--check-only", "--folds", 3
    )
    result = toys.run_json("prepare", "--data", data, "--work", tmp_path / "w", "--folds", 3)
    assert checked.pop("folder") is None
    assert all(result.pop(name) for name in ("folder", "files", "shards", "command"))
    assert checked == result, "checking and preparing report the same facts"


def test_prepare_list_prints_every_place_of_a_finding(data, tmp_path):
    places = [
        toys.wbdc(
            "prepare",
            "--data",
            data,
            "--work",
            tmp_path,
            "--folds",
            3,
            "--list",
            "archive.order",
            *w,
        ).stdout
        for w in (("--check-only",), (), ())
    ]
    assert places[0] == places[1] == places[2]
    assert all(line.endswith(".zip") for line in places[0].splitlines())
    assert len(places[0].splitlines()) > 10
    assert (
        toys.wbdc(
            "prepare", "--data", data, "--work", tmp_path, "--folds", 3, "--list", "archive.ordr"
        ).exit_code
        == 2
    )


def test_prepare_reports_all_errors_then_is_exit_3(data, tmp_path):
    import shutil

    root = tmp_path / "data"
    shutil.copytree(data, root)
    rows = json.loads((root / "annotations" / "labeled.json").read_text())
    rows[0]["category_id"], rows[1]["category_id"] = "9999", None
    (root / "annotations" / "labeled.json").write_text(json.dumps(rows))
    result = toys.wbdc(
        "prepare", "--data", root, "--work", tmp_path / "w", "--check-only", "--folds", 3
    )
    assert result.exit_code == 3
    assert "label.unknown (error)" in result.stdout
    assert "label.missing" in result.stdout
    assert toys.wbdc("prepare", "--data", root, "--work", tmp_path / "w").exit_code == 3
    assert not (tmp_path / "w" / "prepared").exists()


def test_engines_write_the_same_bytes(data, tmp_path):
    contents = []
    for engine in ("threads", "local"):
        folder = Path(
            toys.run_json(
                "prepare",
                "--data",
                data,
                "--work",
                tmp_path / engine,
                "--folds",
                3,
                "--engine",
                engine,
                "--threads",
                2,
            )["folder"]
        )
        contents.append(
            {
                str(p.relative_to(folder)): p.read_bytes()
                for p in folder.rglob("*.*")
                if p.suffix in (".safetensors", ".parquet", ".json")
            }
        )
    assert contents[0] == contents[1]
    assert len(contents[0]) > 8
    assert (
        "torchrun --nproc-per-node"
        in toys.wbdc("prepare", "--data", data, "--work", tmp_path, "--engine", "torchrun").stderr
    )


@pytest.mark.slow
@pytest.mark.parametrize(("frozen", "folder"), [("true", "vision_features"), ("false", "pixels")])
def test_prepare_with_a_kit_writes_what_training_reads(data, tmp_path, kit, frozen, folder):
    """A frozen tower encodes frames once. Training then computes nothing more, and ends with the
    same bits as a training that prepared its own views.
    """
    table = ("--kit", kit, "--set", f"vision.frozen={frozen}")
    result = toys.wbdc(
        "prepare", "--data", data, "--work", tmp_path / "a", "--folds", 3, "--threads", 1, *table
    )
    assert result.exit_code == 0
    assert "reads labeled: at most" in result.stderr
    assert "if none exist yet, about" in result.stderr
    (views,) = Path(
        toys.run_json("prepare", "--data", data, "--work", tmp_path / "a", "--folds", 3)["folder"]
    ).glob("views/*")
    assert {p.name for p in views.iterdir() if p.is_dir()} == {"text", folder}
    toys.run_json("prepare", "--data", data, "--work", tmp_path / "b", "--folds", 3)
    ended = []
    for work in ("a", "b"):
        result = toys.wbdc(
            "train",
            *table,
            "--fold",
            0,
            "--work",
            tmp_path / work,
            "--threads",
            1,
            "--set",
            "train.epochs=1",
        )
        assert result.exit_code == 0
        assert ("view of labeled" in result.stderr) == (work == "b")
        ended.append(next((tmp_path / work / "runs").rglob("model.safetensors")).read_bytes())
    assert ended[0] == ended[1]


@pytest.mark.slow
def test_torchrun_ranks_write_the_same_views_as_one_process(data, tmp_path, kit):
    table = (
        "--data",
        data,
        "--folds",
        "3",
        "--threads",
        "1",
        "--kit",
        kit,
        "--set",
        "vision.frozen=true",
    )
    toys.run_json("prepare", "--work", tmp_path / "one", *table)
    words = ("prepare", "--work", tmp_path / "two", "--engine", "torchrun", *table)
    ranks = Command(tmp_path / "logs", *words)
    assert ranks.wait() == [0, 0], ranks.output()
    files = [
        {
            str(p.relative_to(tmp_path / work)): p.read_bytes()
            for p in (tmp_path / work).rglob("*.safetensors")
        }
        for work in ("one", "two")
    ]
    assert files[0] == files[1]
    assert sum("vision_features" in name for name in files[0]) == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("predict", "--data", "/nowhere"), 2, "/nowhere is not a folder"),
        (("predict", "--split", "tset"), 2, "has no split 'tset'; did you mean 'test'?"),
        (("predict", "--out", "."), 2, ". is a folder; name a file to write"),
        (("predict", "--out", "{file}/result.csv"), 7, "cannot be written: Not a directory"),
        (("predict", "--out", "/proc/nowhere/result.csv"), 7, "cannot be written"),
        (("submit", "--data", "/nowhere"), 2, "/nowhere is not a folder"),
        (("submit", "--into", "{file}/packed"), 7, "cannot be written: Not a directory"),
        (("submit", "--into", "{file}"), 2, "is not a submission of wbdc"),
        (("ensemble", "--name", "x" * 300), 7, "name too long"),
    ],
)
def test_unusable_path_is_refused_before_a_model_is_loaded(
    work, tmp_path, monkeypatch, words, code, message
):
    from wbdc.serve import engine
    from wbdc.submit.pack import package

    def never(*_, **__):
        raise AssertionError("a model was read")

    (tmp_path / "file").write_text("x")
    for module, name in ((engine, "load_member"), (package, "verify_seal")):
        monkeypatch.setattr(module, name, never)
    result = toys.wbdc(*(word.format(file=tmp_path / "file") for word in words), "--work", work)
    assert result.exit_code == code
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("option", ["--quick", "--judge"])
def test_full_run_is_not_combined_with_quick_or_judge(tmp_path, option):
    (tmp_path / "judge.json").write_text("{}")
    words = ("--quick",) if option == "--quick" else ("--judge", tmp_path / "judge.json")
    result = toys.wbdc("submit", "--full", *words, "--work", tmp_path / "work")
    sentence = f"--full measures the whole run on this machine; leave {option} out"
    assert result.exit_code == 2
    assert result.stderr.strip().endswith(sentence)


@pytest.mark.parametrize("words", [("prepare", "--data", "{data}"), ("demo", "--videos", "40")])
def test_unwritable_work_folder_is_refused_before_the_data_are_read(data, tmp_path, words):
    (tmp_path / "file").write_text("x")
    option = {"prepare": "--work", "demo": "--into"}[words[0]]
    result = toys.wbdc(
        *(word.format(data=data) for word in words), option, tmp_path / "file" / "work"
    )
    assert result.exit_code == 7
    assert "cannot be written: Not a directory" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_fault_31_two_commands_do_not_write_one_output(work, tmp_path):
    from wbdc.core.files import lock_output

    for folder, words in (
        (tmp_path / "result.csv", ("predict", "--out", tmp_path / "result.csv")),
        (work / "ensembles" / "other", ("ensemble", "--name", "other")),
    ):
        with lock_output(folder):
            result = toys.wbdc(*words, "--work", work)
        assert result.exit_code == 8
        assert f"{folder} is being written by process" in result.stderr
        assert not folder.exists()
        assert not folder.with_name(f".{folder.name}.lock").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "--threads", "-3"),
        ("predict", "--threads", "0"),
        ("predict", "--threads", "9" * 30),
        ("predict", "--threads", "nan"),
        ("ensemble", "--qps", "nan"),
        ("ensemble", "--limit", "inf"),
        ("ensemble", "--limit", "-1"),
        ("ensemble", "--qps", "70", "--items", "9" * 400),
        ("submit", "--cap", "nan"),
        ("submit", "--sample", "0"),
        ("submit", "--limit", "nan"),
        ("verify", ".", "--tolerance", "nan"),
    ],
)
def test_invalid_number_is_a_usage_fault(words):
    result = toys.wbdc(*words)
    assert result.exit_code == 2
    assert f"Invalid value for '{words[-2]}'" in result.stderr
    assert "Traceback" not in result.stderr
