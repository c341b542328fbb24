"""A contest in a file of the user: found from any folder, saved with its data, runs and packages,
and verified.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small
import toys
from safetensors.numpy import save_file

from wbdc.competitions import open_competition
from wbdc.core.errors import UsageFault

SOURCE = Path(__file__).with_name("shorts.py")
GENRES = ("comedy", "drama", "news")
TRAIN_VIDEOS, FINAL_VIDEOS = 18, 6
UNPROVEN = {"videos": 0, "equal": True, "changed_by_float16": 0.0}


def write_data(root: Path) -> Path:
    """Write the table of labeled and test videos, and an archive of one frame each."""
    root.mkdir()
    with (root / "shorts.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("id", "split", "headline", "speech", "tags", "genre"))
        for i in range(TRAIN_VIDEOS + FINAL_VIDEOS):
            split, genre = ("train", GENRES[i % 3]) if i < TRAIN_VIDEOS else ("final", "")
            word = GENRES[i % 3]
            table.writerow(
                (f"s{i}", split, f"{word} {i}", f"{word} spoken {i * i}", "#short", genre)
            )
            frames = small.frames(small.photos(1, seed=i))
            small.pack(root / split / f"s{i}.zip", frames)
    return root


@pytest.fixture(scope="module")
def team(tmp_path_factory) -> Path:
    """A team's folder: the data, and elsewhere in it the contest with a kit."""
    home = tmp_path_factory.mktemp("team")
    write_data(home / "data")
    (home / "own").mkdir()
    shutil.copyfile(SOURCE, home / "own" / "shorts.py")
    recipe = toys.KIT.replace('"wechat2022"', '"./shorts.py"').replace(
        '"labeled", "unlabeled"', '"train"'
    )
    recipe = recipe.replace("title = 14, asr = 8, ocr = 6", "headline = 10, speech = 10, tags = 4")
    (home / "own" / "short.toml").write_text(recipe)
    return home


def prepare(home: Path, work: Path) -> dict:
    contest = home / "own" / "shorts.py"
    common = ("--data", home / "data", "--work", work, "--folds", 3, "--threads", 1)
    return toys.run_json("prepare", *common, "--competition", contest)


@pytest.fixture(scope="module")
def prepared(team, tmp_path_factory) -> Path:
    """A work folder with prepared data."""
    work = tmp_path_factory.mktemp("prepared") / "work"
    prepare(team, work)
    return work


@pytest.fixture
def work(prepared, tmp_path) -> Path:
    shutil.copytree(prepared / "prepared", tmp_path / "work" / "prepared")
    return tmp_path / "work"


def test_the_example_is_short():
    assert len(SOURCE.read_text().splitlines()) <= 60


def test_prepared_data_hold_the_file_that_defines_the_contest(team, work, tmp_path, monkeypatch):
    from wbdc.prepare.dataset import open_prepared

    monkeypatch.chdir(tmp_path)
    ready = open_prepared(work)
    assert (ready.folder / "shorts.py").read_bytes() == SOURCE.read_bytes()
    assert ready.facts.competition == "./shorts.py" == ready.contest.name
    assert ready.contest.classes(team / "data") == list(GENRES)
    assert "shorts.py" in ready.facts.file_hashes


def test_another_content_of_the_file_is_another_dataset(team, tmp_path):
    home = tmp_path / "team"
    shutil.copytree(team, home)
    first = prepare(home, tmp_path / "work")
    assert prepare(home, tmp_path / "work")["unchanged"]
    with (home / "own" / "shorts.py").open("a") as file:
        file.write("# another rule\n")
    second = prepare(home, tmp_path / "work")
    assert not second["unchanged"]
    assert second["folder"] != first["folder"]


def test_a_damaged_copy_is_named(work):
    copy = next(work.glob("prepared/*/shorts.py"))
    copy.write_text(copy.read_text().replace("comedy", "comedx"))
    result = toys.wbdc("train", "--kit", "dual_stream", "--fold", 0, "--work", work, "--tiny")
    assert result.exit_code == 4
    assert "shorts.py" in result.stderr


def test_a_contest_changed_while_it_is_prepared_is_refused(team, tmp_path, monkeypatch):
    from wbdc.prepare import build

    shutil.copyfile(SOURCE, tmp_path / "shorts.py")
    contest = open_competition("shorts.py", tmp_path)
    describe = build._describe

    def change_file_and_describe(*arguments):
        (tmp_path / "shorts.py").write_text("# other")
        return describe(*arguments)

    monkeypatch.setattr(build, "_describe", change_file_and_describe)
    with pytest.raises(UsageFault, match="changed while the data were prepared"):
        build.prepare_data(team / "data", tmp_path / "work", contest, folds=3)


def test_a_contest_that_is_missing_or_states_too_little_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageFault, match="no competition at .*/none.py"):
        open_competition("./none.py")
    (tmp_path / "less.py").write_text(
        "from wbdc.competitions import Competition\nclass Less(Competition):\n    fields = ()\n"
    )
    with pytest.raises(UsageFault, match="Less does not state labeled_split, test_split"):
        open_competition("less.py")


def test_an_opened_contest_knows_its_file_from_any_folder(tmp_path, monkeypatch):
    shutil.copyfile(SOURCE, tmp_path / "shorts.py")
    monkeypatch.chdir(tmp_path)
    contest = open_competition("./shorts.py")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert contest.source_hash
    assert contest.file.read_bytes() == SOURCE.read_bytes()
    [copy] = contest.save(tmp_path / "copies")
    assert copy.read_bytes() == SOURCE.read_bytes()
    wechat = open_competition("wechat2022")
    assert (wechat.name, wechat.file, wechat.source_hash, wechat.save(tmp_path)) == (
        "wechat2022",
        None,
        "",
        [],
    )


def train(home: Path, work: Path, *more: object) -> dict:
    kit = home / "own" / "short.toml"
    return toys.run_json(
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
        "train.epochs=1",
        *more,
    )


def test_a_run_holds_the_contest_and_its_saved_kit_makes_the_same_run(
    team, work, tmp_path, monkeypatch
):
    from wbdc.train.runs import open_run

    monkeypatch.chdir(tmp_path)
    run = train(team, work)["run"]
    fold = work / "runs" / run / "fold-0"
    assert (fold / "shorts.py").read_bytes() == SOURCE.read_bytes()
    assert open_run(work, run).contest.file == fold / "shorts.py"
    assert "shorts.py" in open_run(work, run).folds()["0"]["files"]
    copy = (
        tmp_path / "kits" / "short.json"
    )  # as in a package: the kit under its own name, the contest beside it
    shutil.copytree(fold, copy.parent)
    (copy.parent / "kit.json").rename(copy)
    assert json.loads(copy.read_text())["competition"] == "./shorts.py"
    assert (
        toys.run_json(
            "train", "--kit", copy, "--fold", 0, "--work", work, "--threads", 1, "--dry-run"
        )["run"]
        == run
    )


@pytest.mark.parametrize(
    ("kit", "sentence"),
    [
        (
            "dual_stream",
            "kit dual_stream is for wechat2022, but data .* were prepared for ./shorts.py",
        ),
        (
            "changed.toml",
            "kit changed is for .*/shorts.py, "
            "which is not the file that data .* were prepared with",
        ),
    ],
)
def test_a_kit_that_does_not_fit_the_prepared_data_is_one_sentence(
    team, work, tmp_path, monkeypatch, kit, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shorts.py").write_text(SOURCE.read_text() + "# changed\n")
    shutil.copyfile(team / "own" / "short.toml", tmp_path / "changed.toml")
    result = toys.wbdc(
        "train",
        "--kit",
        kit,
        "--fold",
        0,
        "--work",
        work,
        "--dry-run",
        *(["--tiny"] if kit == "dual_stream" else []),
    )
    assert result.exit_code == 2
    assert re.search(sentence, result.stderr)
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def walked(team, prepared, tmp_path_factory) -> Path:
    """A work folder with a run of one fold and an ensemble of it, made from a folder that holds
    nothing.
    """
    home = tmp_path_factory.mktemp("walked")
    shutil.copytree(prepared / "prepared", home / "work" / "prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        train(team, home / "work")
        toys.run_json("ensemble", "--work", home / "work", "--draws", 100)
    return home / "work"


def answered(path: Path) -> list[str]:
    """Check a result file by hand and return its genres."""
    header, *rows = path.read_text().splitlines()
    assert header == "video,genre"
    assert sorted(row.split(",")[0] for row in rows) == [
        f"s{i}" for i in range(TRAIN_VIDEOS, TRAIN_VIDEOS + FINAL_VIDEOS)
    ]
    genres = [row.split(",")[1] for row in rows]
    assert set(genres) <= set(GENRES)
    return genres


@pytest.mark.parametrize("words", [(), ("--run",)])
def test_predict_finds_the_contest_from_another_folder(walked, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    run = next((walked / "runs").iterdir()).name
    toys.run_json(
        "predict",
        "--work",
        walked,
        "--split",
        "final",
        "--threads",
        1,
        *(("--run", run) if words else ()),
    )
    answered(tmp_path / "result.csv")


def test_an_ensemble_holds_the_contest_and_a_damaged_copy_is_named(walked, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(walked, work)
    copy = work / "ensembles" / "ensemble" / "shorts.py"
    toys.run_json("ensemble", "--work", work, "--draws", 100)  # replaces it
    assert copy.read_bytes() == SOURCE.read_bytes()
    copy.write_text("# nothing")
    result = toys.wbdc("predict", "--work", work, "--out", tmp_path / "result.csv")
    assert result.exit_code == 4
    assert "shorts.py" in result.stderr
    assert not (tmp_path / "result.csv").exists()


@pytest.fixture(scope="module")
def packed(walked, tmp_path_factory) -> Path:
    """The ensemble as a package; the team's own folder is not needed. A test runs the package, so
    `submit` does not.
    """
    from wbdc.submit import pipeline

    folder = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(pipeline, "prove_equal_predictions", lambda *_, **__: UNPROVEN)
        toys.run_json("submit", "--work", walked, "--threads", 1)
    return folder / "submissions" / "ensemble"


@pytest.mark.slow
def test_the_package_answers_alone_and_is_verified(packed, team, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [
        "--data",
        team / "data",
        "--out",
        tmp_path / "r.csv",
        "--device",
        "cpu",
        "--threads",
        1,
    ]
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, packed / "main.py", *map(str, options)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    answered(tmp_path / "r.csv")
    checked = toys.run_json("verify", packed)[str(packed)]
    assert checked["competition"] == "./shorts.py"
    assert toys.run_json("diff", packed, packed)["same"]


@pytest.mark.slow
def test_a_package_is_run_again_and_timed_by_its_own_contest(packed, team, tmp_path, monkeypatch):
    """The packed process is replaced by one that gives the same genre to all: what reads its
    answers is tested here.
    """
    from wbdc.submit.check import diff
    from wbdc.submit.check.verify import packed_contest, verify_package
    from wbdc.submit.timing.measure import open_judged_split

    monkeypatch.chdir(tmp_path)

    def run_packed(folder, data, out, *, sample, probabilities, **options):
        out.write_text(
            "".join(
                f"{a},{b}\n" for a, b in [("video", "genre"), *((name, "news") for name in sample)]
            )
        )
        save_file({"p": np.zeros((len(sample), 3), np.float32)}, probabilities)

    monkeypatch.setattr(diff, "run_packed", run_packed)
    common = ("--data", team / "data", "--sample", 4)
    assert toys.run_json("verify", packed, "--rerun", *common)[str(packed)]["rerun"]["videos"] == 4
    assert toys.run_json("diff", packed, packed, *common)["predictions"]["changed"] == 0

    judged = open_judged_split(packed_contest(packed, verify_package(packed)), team / "data")
    assert judged.contest.file == packed / "contest" / "shorts.py"
    assert judged.split == "final"
    assert judged.class_ids == list(GENRES)
    assert len(judged.videos) == FINAL_VIDEOS


@pytest.mark.slow
@pytest.mark.parametrize("change", ["changed", "missing", "extra"])
def test_a_package_with_another_contest_is_refused_before_it_runs(packed, tmp_path, change):
    copy = shutil.copytree(packed, tmp_path / "copy")
    marker = tmp_path / "ran"
    name = copy / "contest" / ("other.py" if change == "extra" else "shorts.py")
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    name.unlink() if change == "missing" else name.write_text(code)
    process = subprocess.run(
        [sys.executable, copy / "main.py", "--data", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 4
    assert f"contest/{name.name} ({change})" in process.stderr
    assert not marker.exists()
    refused = toys.wbdc("verify", copy)
    assert refused.exit_code == 4
    assert f"contest/{name.name} ({change})" in refused.stderr


@pytest.mark.slow
def test_train_sh_names_the_contest_that_the_package_holds(packed, team, walked, tmp_path):
    prepares = next(
        line
        for line in (packed / "train.sh").read_text().splitlines()
        if line.startswith("wbdc prepare")
    )
    contest = packed / prepares.split("--competition ")[1].split()[0]
    assert contest.read_bytes() == SOURCE.read_bytes()
    assert contest.parent.parent == packed / "source" / "kits"
    common = ("--data", team / "data", "--work", tmp_path / "work", "--folds", 3, "--threads", 1)
    prepared = toys.run_json("prepare", *common, "--competition", contest)
    assert Path(prepared["folder"]).name == next(
        p.parent.name for p in walked.glob("prepared/*/DONE.json")
    )
