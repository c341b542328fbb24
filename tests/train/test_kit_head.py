"""The head of a kit: checked, trained, saved with the fold, and rebuilt when it serves."""

import json
from pathlib import Path

import pytest
import toys

from wbdc.core.errors import UsageFault
from wbdc.train.kit import open_kit
from wbdc.train.task import class_parents


def test_a_hierarchical_head_trains_with_a_two_level_loss_and_predicts(fresh, kit):
    objective = 'train.objective=[{use="classify", loss="two_level"}]'
    options = ("--set", 'head.use="hierarchical"', "--set", objective, "--threads", 1)
    kit_options = ("--kit", kit, "--work", fresh, *options)
    trained = toys.run_json("train", *kit_options, "--fold", 0, "--set", "train.epochs=1")
    saved = json.loads(Path(trained["folder"], "fold-0", "model.json").read_text())["blueprint"]
    assert saved["head"] == {"use": "hierarchical"}
    assert len(saved["parents"]) == saved["classes"]
    assert trained["folds"]["0"]["alarms"] == []

    out = fresh / "result.csv"
    toys.run_json("predict", "--run", trained["run"], "--work", fresh, "--out", out, "--threads", 1)
    assert out.is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('head.use="linea"', "no head called 'linea'; did you mean 'linear'"),
        ('head={use="cosine", scal=2.0}', "head 'cosine' has no setting 'scal'; did you mean"),
        ("head={scale=2.0}", "head needs `use = ...`; one of: cosine, hierarchical, linear"),
    ],
)
def test_a_mistake_in_the_head_names_it(kit, change, message):
    with pytest.raises(UsageFault, match=message):
        open_kit(str(kit), changes=(change,))


def test_groups_of_classes_are_numbered_and_absent_when_a_class_has_none(ready, kit):
    contest = open_kit(str(kit)).contest
    assert class_parents(contest, ["0100", "0001", "0102", "0203"]) == (1, 0, 1, 2)

    class Flat:
        def parent_class(self, label: str) -> str | None:
            return None if label == "b" else "x"

    assert class_parents(Flat(), ["a", "b"]) == ()
