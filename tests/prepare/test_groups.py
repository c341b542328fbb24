"""Groups of videos: from a file or a column, kept in one fold, stored with the dataset."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import small

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import DataFault, UsageFault
from wbdc.prepare import build
from wbdc.prepare.build import prepare_data, survey_data
from wbdc.prepare.groups import join_groups, read_groups
from wbdc.submit.training_commands import _prepare_command, packed_tables

IDS = small.ids("labeled")
TESTS = small.ids("test")


def write(path, rows):
    path.write_text("id,group\n" + "".join(f"{name},{group}\n" for name, group in rows))
    return str(path)


def prepare(root, work, groups=None):
    return prepare_data(root, work, WeChat2022(), folds=3, groups=groups)[0]


def read(option, root):
    return read_groups(option, root, WeChat2022(), ["labeled", "unlabeled", "test"])


def test_groups_of_a_file_are_in_one_fold_and_stored(small_root, tmp_path):
    rows = [(name, "a" if i in (0, 3, 8) else "b") for i, name in enumerate(IDS[:10]) if i != 5]
    file = write(tmp_path / "g.csv", [*rows, (TESTS[1], "a"), (TESTS[2], "c"), ("42", "b")])
    prepared = prepare(small_root, tmp_path / "work", file)
    table = prepared.read_fold_table()
    assert len(set(table["fold"].to_numpy()[[0, 3, 8]])) == 1
    assert table["given_group"].to_list()[:10] == ["a", *"bba", "b", None, *"bba", "b"]
    counts = {code: entry["count"] for code, entry in prepared.facts.findings.items()}
    groups = {code: count for code, count in counts.items() if code.startswith("group")}
    assert groups == {"group.missing": 3, "group.test": 1, "group.unknown": 1, "group.large": 1}
    assert prepared.facts.groups == "groups.csv"

    # the copy holds the same groups, and prepares the same dataset
    copy = prepared.folder / "groups.csv"
    assert dict(list(csv.reader(copy.open()))[1:]) == read(file, small_root).group_of
    again, existed = prepare_data(
        small_root, tmp_path / "work", WeChat2022(), folds=3, groups=str(copy)
    )
    assert existed
    assert again.hash == prepared.hash
    facts = survey_data(small_root, WeChat2022(), folds=3, groups=file)[0]
    assert facts.findings == prepared.facts.findings


def test_groups_are_part_of_the_hash(small_root, tmp_path):
    plain = prepare(small_root, tmp_path / "work")
    assert plain.facts.groups is None
    assert plain.read_fold_table().columns == ["id", "fold", "group"]
    first = prepare(small_root, tmp_path / "work", write(tmp_path / "a.csv", [(IDS[0], "a")]))
    other = prepare(small_root, tmp_path / "work", write(tmp_path / "a.csv", [(IDS[0], "b")]))
    assert len({plain.hash, first.hash, other.hash}) == 3
    assert f"--groups {tmp_path / 'a.csv'}" in other.facts.command


def annotate_groups(root):
    for split in small.SPLITS:
        rows = [
            r | {"uploader": f"u{i // 4}", "likes": i} for i, r in enumerate(small.items(split))
        ]
        small.annotate(root, split, rows)


def test_groups_of_a_column(small_root, tmp_path):
    annotate_groups(small_root)
    prepared = prepare(small_root, tmp_path / "work", "uploader")
    table = prepared.read_fold_table()
    assert table["given_group"].to_list() == [f"u{i // 4}" for i in range(12)]
    assert all(len(set(folds)) == 1 for folds in table["fold"].to_numpy().reshape(3, 4))
    assert prepared.facts.groups == "uploader"
    assert "--groups uploader" in prepared.facts.command
    with pytest.raises(UsageFault, match="neither a file nor a column .* did you mean 'uploader'"):
        read("uploder", small_root)


def test_training_scripts_prepare_with_the_same_groups(small_root, tmp_path):
    annotate_groups(small_root)
    member = SimpleNamespace(run="r")
    blend = SimpleNamespace(members=[member])
    column = prepare(small_root, tmp_path / "work", "uploader")
    assert "--groups uploader --work" in _prepare_command(blend, column)
    assert packed_tables(column) == {}
    file = prepare(small_root, tmp_path / "work", write(tmp_path / "a.csv", [(IDS[0], "a")]))
    assert "--groups source/groups.csv --work" in _prepare_command(blend, file)
    assert packed_tables(file) == {"source/groups.csv": file.folder / "groups.csv"}
    assert (file.folder / "groups.csv").is_file()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("1", "a"), ("1", "b")], "line 3: 1 is in the groups 'a' and 'b'; give each id one"),
        ([("1", "a,b")], "line 2: the number of cells is 3"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, rows, message):
    with pytest.raises(DataFault, match=message):
        read(write(tmp_path / "g.csv", rows), tmp_path)
    with pytest.raises(DataFault, match="missing.csv is missing"):
        read(str(tmp_path / "missing.csv"), tmp_path)


def test_given_groups_and_near_duplicates_are_joined_through_each_other():
    duplicates = np.array([0, 1, 2, 1, 4, 5], np.int32)  # 1 ~ 3
    joined = join_groups(duplicates, list("abcdef"), {"a": "x", "d": "x", "e": "y", "f": "y"})
    assert joined.tolist() == [0, 0, 2, 0, 4, 4]


@pytest.fixture
def leaking_root(tmp_path):
    """100 videos without frames: each title names the uploader, whose videos have one class."""
    root, random = tmp_path / "leaking", np.random.default_rng(0)

    def word() -> str:
        return "".join(map(chr, random.integers(0x4E00, 0x9000, 5)))

    for split in small.SPLITS:
        rows = small.items(split)
        if split == "labeled":
            names = [word() for _ in range(20)]
            rows = [
                {
                    "id": f"{i:05d}",
                    "title": names[i // 5] + word(),
                    "asr": "",
                    "ocr": [],
                    "category_id": small.LABELS[i // 5 * 7 % 4],
                    "uploader": f"u{i // 5}",
                    "language": "zh",
                }
                for i in range(100)
            ]
        small.annotate(root, split, rows)
    (root / "zip_frames").mkdir()
    return root


def test_a_column_that_would_have_mattered_is_named(leaking_root):
    findings = survey_data(leaking_root, WeChat2022(), folds=3)[1]
    (place,) = findings["group.column"]["places"]
    assert place.startswith("uploader: the nearest neighbor by text has the class of ")
    assert "100 videos, 20 groups" in place
    findings = survey_data(leaking_root, WeChat2022(), folds=3, groups="uploader")[1]
    assert "group.column" not in findings
    assert findings["group.leak"]["count"] == 1


def test_columns_without_groups_are_not_compared(leaking_root, monkeypatch):
    compared = []

    def list_group_leaks(self, split, columns, duplicates):
        compared.append(columns)
        return []

    monkeypatch.setattr(build.Survey, "list_group_leaks", list_group_leaks)
    survey_data(leaking_root, WeChat2022(), folds=3)
    assert list(compared[0]) == ["uploader"]
