"""`wbdc init`: what it guesses of a table, and a contest that becomes a package without code."""

import csv
import json
import os
from pathlib import Path

import polars as pl
import pytest
import small
import toys

from wbdc.competitions import open_competition
from wbdc.core.errors import DataFault, UsageFault
from wbdc.prepare.contest_draft import draft_contest
from wbdc.train.kit import open_kit

GENRES = ("comedy", "drama", "news")
HEADER = ("video_id", "headline", "speech", "tags", "picture", "seconds", "genre")
LABELED_VIDEOS, TEST_VIDEOS = 18, 6


def write_data(root: Path) -> Path:
    """Write a table of labeled and test rows; every second video has a picture."""
    root.mkdir(exist_ok=True)
    with (root / "data.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(HEADER)
        for number in range(LABELED_VIDEOS + TEST_VIDEOS):
            word = GENRES[number % 3]
            name = f"pictures/{number}.jpg" if number % 2 else ""
            label = word if number < LABELED_VIDEOS else ""
            texts = (f"{word} {number}", f"{word}, spoken {number**2}", "#short")
            table.writerow((f"s{number}", *texts, name, 3 * number, label))
            if name:
                (root / name).parent.mkdir(exist_ok=True)
                (root / name).write_bytes(small.photos(1, seed=number)[0])
    return root / "data.csv"


def write_rows(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def test_columns_are_guessed_from_names_and_values(tmp_path, monkeypatch):
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    facts = toys.run_json("init", "data.csv")
    assert facts["columns"] == dict(
        zip(HEADER, ("id", "text", "text", "text", "frames", "not used", "label"), strict=True)
    )
    contest = open_competition(facts["competition"])
    assert contest.fields == ("headline", "speech", "tags")
    assert contest.classes(tmp_path) == list(GENRES) == facts["classes"]
    assert contest.splits(tmp_path) == ["labeled", "test"]
    for tiny in (False, True):
        fields = open_kit(facts["kit"], tiny=tiny).tables["text"]["fields"]
        assert set(fields) == set(contest.fields)

    again = toys.wbdc("init", "data.csv")
    assert again.exit_code == 2
    assert "data.toml exists; remove it" in again.stderr


def test_the_guesses_are_printed(tmp_path, monkeypatch):
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = toys.wbdc("init", "data.csv")
    assert result.exit_code == 0, result.stderr
    assert "3 classes, score: accuracy." in result.stdout
    assert "wbdc prepare --data . --competition ./data.toml" in result.stderr


def test_a_kit_with_an_estimator_can_be_extended(tmp_path, monkeypatch):
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    facts = toys.run_json("init", "data.csv", "--kit", "ngrams")
    assert open_kit(facts["kit"]).has_estimator


def test_a_split_column_is_found(tmp_path):
    rows = [f"{i},text {i},{'ab'[i % 2]},{('train', 'val', 'test')[i % 3]}" for i in range(12)]
    draft = draft_contest(write_rows(tmp_path / "t.csv", "key,words,kind,split", *rows))
    assert draft.split == {"column": "split", "labeled": ["train", "val"], "test": ["test"]}
    assert (draft.id, draft.label, draft.text, draft.test) == ("key", "kind", ("words",), "t.csv")


def test_a_file_name_may_be_the_id(tmp_path):
    rows = [f"v{i}.mp4,{'ab'[i % 2]},some words" for i in range(12)]
    draft = draft_contest(write_rows(tmp_path / "t.csv", "file,label,words", *rows))
    assert (draft.id, draft.frames, draft.roles["file"]) == ("file", "file", "id, frames")
    assert (draft.test, draft.test_exists) == ("test.csv", False)


def test_columns_that_are_given_are_not_guessed(tmp_path):
    rows = [f"{i},a{i},{'ab'[i % 2]},{'cd'[i % 2]}" for i in range(12)]
    table = write_rows(tmp_path / "t.csv", "id,code,label,kind", *rows)
    draft = draft_contest(table, id_column="code", label_column="kind", text_columns=["label"])
    assert (draft.id, draft.label, draft.text) == ("code", "kind", ("label",))
    with pytest.raises(UsageFault, match="no column 'kin'; did you mean 'kind'"):
        draft_contest(table, label_column="kin")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (["a,b", "x,y", "x,y"], "no column of .* has a different value in every row"),
        (["id,b", "1,p", "2,q"], "no column of .* holds classes that repeat"),
        (["id,b"], "has no rows"),
    ],
)
def test_a_table_without_ids_or_classes_is_one_sentence(tmp_path, rows, sentence):
    with pytest.raises(DataFault, match=sentence):
        draft_contest(write_rows(tmp_path / "t.csv", *rows))


def test_parquet_is_converted_to_csv(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = {"id": list("abcdef"), "words": ["x, y"] * 6, "label": ["p", "q"] * 3}
    pl.DataFrame(rows).write_parquet("t.parquet")
    facts = toys.run_json("init", "t.parquet")
    assert facts["columns"] == {"id": "id", "words": "text", "label": "label"}
    assert pl.read_csv("t.csv").to_dict(as_series=False) == rows
    assert 'labeled = "t.csv"' in Path("t.toml").read_text()


def test_a_wrong_metric_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = write_data(tmp_path / "data")
    result = toys.wbdc("init", table, "--metric", "acuracy")
    assert result.exit_code == 2
    assert "did you mean 'accuracy'" in result.stderr
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.slow
def test_a_contest_by_its_toml_alone_becomes_a_package(tmp_path, monkeypatch):
    """init, prepare, train, ensemble, submit, verify: no code, and the data in another folder."""
    table = write_data(tmp_path / "data")
    (tmp_path / "team").mkdir()
    monkeypatch.chdir(tmp_path / "team")
    toys.run_json("init", table)
    contest = Path("data.toml").read_bytes()
    common = ("--data", table.parent, "--competition", "./data.toml", "--folds", 3, "--threads", 1)
    ready = toys.run_json("prepare", *common)
    assert ready["counts"] == {"labeled": LABELED_VIDEOS, "test": TEST_VIDEOS}
    assert ready["frames"] == {"labeled": LABELED_VIDEOS // 2, "test": TEST_VIDEOS // 2}
    assert ready["findings"].keys() <= {"duplicate.text", "duplicate.frames", "shift"}
    assert toys.run_json("prepare", *common)["unchanged"]

    options = ("--tiny", "--fold", 0, "--threads", 1, "--set", "train.epochs=1")
    run = toys.run_json("train", "--kit", "./data_kit.toml", *options)["run"]
    assert Path("work/runs", run, "fold-0", "data.toml").read_bytes() == contest

    monkeypatch.chdir(tmp_path)  # the copies are found from any folder
    plan = toys.run_json("submit", "--work", "team/work", "--dry-run")
    assert plan["into"] == f"submissions/{run}", "without an ensemble, the only run is packed"
    toys.run_json("ensemble", "--work", "team/work", "--draws", 100)
    toys.run_json("predict", "--work", "team/work", "--out", "result.csv", "--threads", 1)
    header, *rows = Path("result.csv").read_text().splitlines()
    assert header == "video_id,genre"
    assert [row.split(",")[0] for row in rows] == [
        f"s{number}" for number in range(LABELED_VIDEOS, LABELED_VIDEOS + TEST_VIDEOS)
    ]
    assert {row.split(",")[1] for row in rows} <= set(GENRES)

    toys.run_json("submit", "--work", "team/work", "--threads", 1)
    package = Path("submissions/ensemble")
    assert (package / "contest" / "data.toml").read_bytes() == contest
    assert toys.run_json("submit", "--work", "team/work", "--dry-run")["into"] == str(package)
    assert toys.run_json("verify")[str(package)]["competition"] == "./data.toml"
    assert "--competition source/kits/" in (package / "train.sh").read_text()
    assert json.loads((package / "blend.json").read_text())["competition"] == "./data.toml"

    copy = package / "contest" / "data.toml"
    copy.write_text(copy.read_text().replace("accuracy", "macro_f1"))
    refused = toys.wbdc("verify", package)
    assert refused.exit_code == 4
    assert "contest/data.toml (changed)" in refused.stderr
