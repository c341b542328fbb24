"""Checking annotations against each other, the classes and the archives; errors are refused."""

import os
import re

import pytest
import small

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import DataFault
from wbdc.prepare.check import check_data, refuse_invalid
from wbdc.prepare.describe.finding_codes import FINDING_CODES


def change_items(root, split: str, change) -> None:
    rows = small.items(split)
    change(rows)
    small.annotate(root, split, rows)


FAULTS = {
    "an unknown class": (
        "labeled",
        lambda r: r[1].update(category_id="9999"),
        "label.unknown",
        r"\d+ → '9999'",
    ),
    "a class that lost a zero": (
        "labeled",
        lambda r: r[1].update(category_id="001"),
        "label.unknown",
        r"\d+ → '001'",
    ),
    "a class as a number": (
        "labeled",
        lambda r: r[1].update(category_id=1305),
        "label.number",
        r"\d+: '1305'",
    ),
    "no label": ("labeled", lambda r: r[1].pop("category_id"), "label.missing", r"\d+"),
    "an id twice": ("labeled", lambda r: r[1].update(id=r[2]["id"]), "id.twice", r"labeled: \d+"),
    "an id in two splits": (
        "test",
        lambda r: r[0].update(id=small.ids("labeled")[2]),
        "id.twice.splits",
        r"\d+ \(labeled and test\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_19_to_21_are_counted_and_are_exit_3_in_one_sentence(small_root, fault):
    split, change, code, pattern = FAULTS[fault]
    change_items(small_root, split, change)
    findings = check_data(small_root, WeChat2022()).findings.report()
    assert findings[code]["count"] == 1
    assert re.fullmatch(pattern, findings[code]["places"][0])
    with pytest.raises(DataFault, match=pattern) as caught:
        refuse_invalid(findings)
    assert caught.value.code == 3
    assert "\n" not in str(caught.value)
    assert FINDING_CODES[code].fix in str(caught.value)


def test_all_errors_are_reported_together(small_root):
    change_items(
        small_root,
        "labeled",
        lambda r: [x.update(category_id=None if i else "9999") for i, x in enumerate(r)],
    )
    findings = check_data(small_root, WeChat2022()).findings.report()
    assert {code: entry["count"] for code, entry in findings.items()} == {
        "label.missing": 11,
        "label.unknown": 1,
    }
    with pytest.raises(
        DataFault,
        match=r": 11, first .*; list all with `wbdc prepare --check-only --list label.missing`; "
        r"other kinds of errors: label.unknown$",
    ):
        refuse_invalid(findings)


def test_a_missing_folder_or_labeled_split_is_refused(small_root):
    change_items(small_root, "labeled", list.clear)
    with pytest.raises(
        DataFault, match="the split 'labeled' holds no videos, so there is nothing to train on"
    ):
        check_data(small_root, WeChat2022())
    (small_root / "annotations" / "labeled.json").unlink()
    absent = (small_root / "absent", "is not a folder; pass the folder of the raw data")
    for root, message in (
        absent,
        (
            small_root,
            "has no split 'labeled', which training needs; its splits are: test, unlabeled",
        ),
    ):
        with pytest.raises(DataFault, match=message):
            check_data(root, WeChat2022())


def test_valid_data_have_no_findings(small_root):
    checked = check_data(small_root, WeChat2022())
    assert {s: len(v.ids) for s, v in checked.splits.items()} == small.SPLITS
    assert checked.frame_format == "jpeg"
    assert not checked.findings.report()
    assert len(checked.classes) == 200
    assert checked.fingerprint == check_data(small_root, WeChat2022()).fingerprint


def test_fault_22_missing_and_extra_archives_are_counted(small_root):
    first, second, third = (
        small.archive(small_root, "test", name) for name in small.ids("test")[:3]
    )
    first.unlink()
    second.unlink()
    second.symlink_to("nowhere.zip")
    third.unlink()
    third.mkdir()
    small.pack(small_root / "zip_frames" / "test" / "abc" / "abc.zip", {})
    (small_root / "zip_frames" / "test" / "abc" / os.fsdecode(b"\xff.zip")).touch()
    findings = check_data(small_root, WeChat2022()).findings
    assert findings.counts == {"archive.missing": 3, "archive.extra": 2}
    assert f"test: {small.ids('test')[0]}" in findings.places["archive.missing"]
    str(findings.report()).encode()


def test_labels_of_other_splits_are_counted(small_root):
    for split in ("unlabeled", "test"):
        change_items(small_root, split, lambda rows: rows[0].update(category_id="0001"))
    findings = check_data(small_root, WeChat2022()).findings
    assert findings.report() == {
        "label.unexpected": {
            "count": 2,
            "places": [f"{s}: {small.ids(s)[0]}" for s in ("test", "unlabeled")],
        }
    }  # in a fixed order


CHANGES = {
    "an annotation": lambda root: change_items(
        root, "test", lambda rows: rows[0].update(title="x")
    ),
    "an archive's size": lambda root: small.pack(
        small.archive(root, "test", small.ids("test")[1]), small.frames(small.photos(3, 77))
    ),
    "a missing archive": lambda root: small.archive(
        root, "labeled", small.ids("labeled")[5]
    ).unlink(),
    "an extra archive": lambda root: small.pack(
        root / "zip_frames" / "test" / "abc" / "abc.zip", {}
    ),
    "the classes": lambda root: (root / "taxonomy.csv").write_text(
        "category_id\n" + "\n".join([*small.LABELS, "0101"])
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_the_data_changes_the_fingerprint(small_root, change):
    before = check_data(small_root, WeChat2022()).fingerprint
    CHANGES[change](small_root)
    assert check_data(small_root, WeChat2022()).fingerprint != before


def test_features_of_equal_size_change_the_fingerprint(tmp_path):
    """Features of another tower have equal sizes; checksums differ."""
    import numpy as np

    root = small.features(tmp_path)
    path, before = root / "zip_feats" / "test.zip", check_data(root, WeChat2022())
    size = path.stat().st_size
    rows = {
        f"{name}.npy": small.numbers(np.ones((i % 5, 6), np.float16))
        for i, name in enumerate(small.ids("test"))
    }
    small.pack(path, rows)
    after = check_data(root, WeChat2022())
    assert path.stat().st_size == size
    assert after.fingerprint != before.fingerprint
    assert not after.findings.report()
    small.pack(path, rows | {"stranger.npy": b""})
    assert check_data(root, WeChat2022()).findings.report() == {
        "archive.extra": {"count": 1, "places": ["test.zip: stranger.npy"]}
    }
    path.write_bytes(b"PK")
    with pytest.raises(
        DataFault, match="test.zip is not a readable archive: .*; copy or download it again"
    ):
        check_data(root, WeChat2022())
    path.unlink()
    assert check_data(root, WeChat2022()).fingerprint != after.fingerprint
