"""Members from outside wbdc: read strictly, matched by name, blended as they were weighed."""

import numpy as np
import pytest

from wbdc.core.errors import DataFault, UsageFault, WbdcError
from wbdc.core.files import file_sha256
from wbdc.ensemble.outside_members import (
    check_outside_names,
    outside_scores,
    predict_without_models,
    read_outside_members,
    refuse_outside_members,
)
from wbdc.serve.blend_file import Blend, BlendMember, OutsideEntry
from wbdc.train.probability_file import write_probability_file

IDS, CLASSES = ["1", "2", "03"], ["a", "b"]
ROWS = np.array([[0.9, 0.1], [0.25, 0.75], [0.5, 0.5]], np.float32)


def write(tmp_path, ids=IDS, rows=ROWS, classes=CLASSES, name="svm.parquet"):
    write_probability_file(tmp_path / name, ids, classes, rows)
    return str(tmp_path / name)


def read(option):
    return read_outside_members([option], IDS, CLASSES, "labeled")


def blend(*outside, weights=(0.25, 0.25), multipliers=()):
    members = tuple(BlendMember("r/fold-0", weight, run="r-1", fold="0") for weight in weights)
    entries = tuple(OutsideEntry(name, weight, "f", "0") for name, weight in outside)
    return Blend("contest", "fp32", members, entries, class_multipliers=multipliers)


def test_rows_and_classes_are_matched_by_name(tmp_path):
    path = write(tmp_path, IDS[::-1], ROWS[::-1, ::-1], CLASSES[::-1])
    (member,) = read(path)
    assert (member.name, member.sha256) == ("svm", file_sha256(member.file))
    np.testing.assert_array_equal(member.select(IDS), ROWS)
    assert read(f"tf-idf={path}")[0].name == "tf-idf"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ["1", "2", "4"]}, "has 1 ids that are not in the split labeled: 4; check"),
        ({"ids": IDS[:2], "rows": ROWS[:2]}, "lacks 1 of the 3 videos of the split labeled: 03;"),
        ({"ids": ["1", "2", "2"]}, "several rows for the id '2'"),
        ({"classes": ["a", "c"]}, "has the class 'c', which is not a class"),
        ({"rows": ROWS * np.float32(0.98)}, "3 rows are no probabilities, first that of '1', with"),
        ({"rows": np.array([[1, 0], [1.5, -0.5], [1, 0]])}, "1 rows are .*first that of '2'"),
        ({"rows": np.array([[1, 0], [1, 0], [np.nan, 1]])}, "1 rows are .*first that of '03'"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(WbdcError, match=message):
        read(write(tmp_path, **changes))


def test_two_members_of_one_name_are_refused(tmp_path):
    path = write(tmp_path)
    with pytest.raises(UsageFault, match="names two members 'svm'"):
        read_outside_members([path, f"svm={path}"], IDS, CLASSES, "labeled")
    with pytest.raises(UsageFault, match="'ensemble' is the name of the blend"):
        read(f"ensemble={path}")


def test_rows_need_a_sum_of_one_up_to_rounding(tmp_path):
    assert read(write(tmp_path, rows=ROWS * np.float32(1.0004)))
    with pytest.raises(DataFault, match=r"with the sum 1\.002"):
        read(write(tmp_path, rows=ROWS * np.float32(1.002)))


def test_files_must_be_those_of_the_ensemble():
    joint = blend(("svm", 0.3), ("knn", 0.2))
    check_outside_names(joint, ["knn", "svm"], "test")
    with pytest.raises(UsageFault, match="knn is a member .* split test with --with knn=FILE"):
        check_outside_names(joint, ["svm"], "test")
    with pytest.raises(UsageFault, match="no member from outside wbdc called 'svn'; did you mean"):
        check_outside_names(joint, ["svn"], "test")
    with pytest.raises(UsageFault, match="no member .* called 'svm'; there are none"):
        check_outside_names(blend(), ["svm"], "test")


def test_scores_are_in_the_order_of_the_blend_and_of_the_videos(tmp_path):
    members = [*read(write(tmp_path, rows=ROWS[:, ::-1], name="knn.csv")), *read(write(tmp_path))]
    scores = outside_scores(blend(("svm", 0.5), ("knn", 1.5)), members, ["03", "1", "2"])
    np.testing.assert_array_equal(scores.probabilities[0], ROWS[[2, 0, 1]])
    np.testing.assert_array_equal(scores.probabilities[1], ROWS[[2, 0, 1], ::-1])
    assert scores.weights == [0.5, 1.5]


def test_weights_by_class_come_before_the_weight_of_the_member(tmp_path):
    entry = OutsideEntry("svm", 0.5, "f", "0", class_weights=(0.2, 0.8))
    scores = outside_scores(Blend("contest", "fp32", (), (entry,)), read(write(tmp_path)), IDS)
    assert scores.weights == [(0.2, 0.8)]


def test_an_ensemble_without_runs_predicts_from_its_files(tmp_path):
    alone = blend(("svm", 1.0), weights=(), multipliers=(1.0, 3.0))
    predictions = predict_without_models(alone, read(write(tmp_path)), IDS)
    expected = ROWS * [1, 3] / (ROWS * [1, 3]).sum(1, keepdims=True)
    np.testing.assert_allclose(predictions.probabilities, expected, rtol=1e-6)
    assert predictions.classes == CLASSES


def test_an_ensemble_with_outside_members_is_not_submitted():
    refuse_outside_members(blend(), "ensemble")
    with pytest.raises(UsageFault) as refused:
        refuse_outside_members(blend(("svm", 0.3)), "joint")
    assert "`wbdc ensemble --name joint-runs --run r-1`" in str(refused.value)
