"""The code of docs/ensembles.md makes a file that `wbdc ensemble --with` accepts, and the linear
reference of docs/results.md is computed.
"""

import json
import re
from pathlib import Path

import linear_reference
import numpy as np
from click.testing import CliRunner

from wbdc.ensemble.outside_members import read_outside_members
from wbdc.prepare.dataset import open_prepared

PAGE = Path(__file__).parents[2] / "docs" / "ensembles.md"


def test_the_code_of_the_page_writes_a_member(fresh, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)  # the documented code itself
    ids, classes = names["table"]["id"].to_list(), names["classes"]
    (member,) = read_outside_members(["tfidf.parquet"], ids, classes, "labeled")
    assert member.name == "tfidf"


def test_the_linear_reference_is_scored_out_of_fold_and_on_the_test_split(fresh, tmp_path):
    prepared = open_prepared(fresh)
    ids = prepared.read_split("test", ["id"])["id"].to_list()
    label = prepared.facts.classes[0]
    truth = tmp_path / "truth.csv"
    truth.write_text("id,category_id\n" + "".join(f"{name},{label}\n" for name in ids))
    words = ["--work", str(fresh), "--truth", str(truth), "--json"]
    scores = json.loads(CliRunner().invoke(linear_reference.main, words).stdout)
    assert list(scores) == ["out of fold", "test"]
    assert 0 <= scores["test"]["mean"] <= scores["test"]["official"] <= 1

    # a text that names its class is recognized, and a fold does not see its own labels
    labels = np.array(["a", "b", "c"] * 20, object)
    folds = np.arange(60) % 4
    texts = np.array([f"{label * 5} {i}" for i, label in enumerate(labels)], object)
    videos = linear_reference.Videos([str(i) for i in range(60)], labels, [texts])
    assert (linear_reference.predict_out_of_fold(videos, folds) == labels).all()
    labels[folds == 1] = "d"
    assert "d" not in linear_reference.predict_out_of_fold(videos, folds)[folds == 1]


def test_the_linear_reference_adds_the_decisions_of_texts_and_frames():
    """A class that the text excludes and one that the frames exclude leave the third."""
    kinds = [("x", 0), ("x", 1), ("y", 1)]
    rows = [kinds[i % 3] for i in range(60)]
    texts = np.array([text for text, _ in rows], object)
    frames = np.eye(2)[[scene for _, scene in rows]]
    labels = np.array(["abc"[i % 3] for i in range(60)])
    for inputs, recognized in (([texts, frames], 1.0), ([texts], 2 / 3)):
        model = linear_reference.LinearReference().fit(inputs, labels)
        assert np.mean(model.predict(inputs) == labels) == recognized
