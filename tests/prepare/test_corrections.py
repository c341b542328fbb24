"""Corrections: reviewed labels replace those of the data, and are shipped with a submission."""

from types import SimpleNamespace

import pytest
import small

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import DataFault, UsageFault
from wbdc.prepare.build import prepare_data, survey_data
from wbdc.prepare.corrections import read_corrections
from wbdc.submit.training_commands import _prepare_command, packed_tables

IDS = small.ids("labeled")


def write(path, rows, header="id,label,given"):
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


def prepare(root, work, corrections=None):
    return prepare_data(root, work, WeChat2022(), folds=3, corrections=corrections)


def test_labels_are_replaced_stored_and_shipped(small_root, tmp_path):
    """The label "0204" is not among the labels of the data."""
    plain, _ = prepare(small_root, tmp_path / "work")
    file = write(tmp_path / "c.csv", [(IDS[0], "0204", "0000"), (IDS[1], "0001", "0001")])
    corrected, _ = prepare(small_root, tmp_path / "work", file)
    before, after = (d.read_split("labeled")["label"].to_list() for d in (plain, corrected))
    assert before[0] == "0000"
    assert after == ["0204", *before[1:]]
    assert "0204" in corrected.facts.classes
    assert corrected.hash != plain.hash
    assert (corrected.facts.corrected_labels, plain.facts.corrected_labels) == (2, None)
    assert corrected.facts.command.split()[6:8] == ["--corrections", str(file)]
    assert survey_data(small_root, WeChat2022(), folds=3, corrections=file)[0].classes == (
        corrected.facts.classes
    )

    # the copy in the dataset prepares the same data again, as train.sh does
    packed = packed_tables(corrected)
    assert packed == {"source/corrections.csv": corrected.folder / "corrections.csv"}
    again, existed = prepare(small_root, tmp_path / "work", packed["source/corrections.csv"])
    assert (again.hash, existed) == (corrected.hash, True)
    blend = SimpleNamespace(members=[SimpleNamespace(run="r")])
    assert "--corrections source/corrections.csv --work" in _prepare_command(blend, corrected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("17", "0000", "")], "'17' is not a video of the labeled split; delete its row"),
        ([(IDS[0], "02041", "")], "the label '02041', which is not a class; did you mean '0204"),
        ([(IDS[0], "", "")], "line 2: 0+1 has no label; delete the row to keep the label"),
        ([(IDS[0], "0000", ""), (IDS[0], "0001", "")], "line 3: 0+1 has the labels '0000' and"),
    ],
)
def test_corrections_that_do_not_fit_are_refused(small_root, tmp_path, rows, message):
    with pytest.raises(DataFault, match=message):
        prepare(small_root, tmp_path / "work", write(tmp_path / "c.csv", rows))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UsageFault, match="is not a table"):
        read_corrections(tmp_path / "c.xlsx")
    with pytest.raises(DataFault, match="no column 'label'"):
        read_corrections(write(tmp_path / "c.csv", [], header="id,class"))
