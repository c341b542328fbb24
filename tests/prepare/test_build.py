"""Prepare, end to end on twenty videos: what is stored, killed and started again, damaged, or there
already.
"""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import small

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import DataInvalid, FolderInUse, IntegrityBroken, OutOfResources, UsageFault
from wbdc.core.files import list_files, lock_folder
from wbdc.data import store
from wbdc.data.store import open_columns, split_images
from wbdc.prepare.build import prepare_data
from wbdc.prepare.dataset import DatasetFacts, open_prepared

pytestmark = pytest.mark.usefixtures("quick_disk", "small_shards")


@pytest.fixture
def small_shards(monkeypatch):
    """Several shards a split."""
    monkeypatch.setattr(store, "SHARD_VIDEOS", 4)


def run(root: Path, work: Path, **settings: object):
    """Prepare a root: the dataset, and whether it was there."""
    return prepare_data(root, work, WeChat2022(), **{"folds": 3} | settings)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in list_files(folder)}


def counted(facts: DatasetFacts) -> dict[str, int]:
    """What was wrong; made-up texts are much alike, and their classes rare."""
    return {
        code: entry["count"]
        for code, entry in facts.findings.items()
        if not code.startswith(("duplicate", "label.rare", "shift"))
    }


def test_a_root_becomes_tables_frames_and_folds(small_root, tmp_path):
    calls = []
    made, had = run(small_root, tmp_path / "work", progress=lambda *told: calls.append(told))
    facts = made.facts
    assert not had
    assert facts.video_counts == small.SPLITS
    assert facts.text_fields == ["title", "asr", "ocr"]
    assert facts.frame_format == "jpeg"
    assert facts.classes == sorted(small.LABELS)
    assert len(facts.known_classes) == 200
    assert facts.frame_counts == {"labeled": 20, "test": 5, "unlabeled": 5}
    assert counted(facts) == {"archive.empty": 5, "frame.damaged": 3}
    assert ("frames", 20, 20) in calls
    assert ("frames of labeled", 8, 12) in calls
    assert ("texts of unlabeled", 4, 4) in calls
    rows = made.read_split("labeled")
    assert rows.columns == ["id", "title", "asr", "ocr", "label", "frames"]
    assert rows["frames"].to_list()[:5] == [0, 1, 2, 2, 4]
    assert rows["label"].to_list() == [small.LABELS[i % 4] for i in range(12)]
    assert made.read_split("test")["label"].to_list() == [None] * 4
    assert sorted(made.read_folds().tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert made.hash == made.folder.name


def test_trap_26_ids_and_texts_come_through_as_they_were(small_root, tmp_path):
    """20 digits beyond int64, zeros in front, "0001" as a class, and text that only looks like
    something else.
    """
    rows = small.items("labeled")
    rows[1] |= {"title": "0001", "asr": "NaN", "category_id": "0001"}
    small.annotate(small_root, "labeled", rows)
    made, _ = run(small_root, tmp_path / "work")
    table = pl.concat(made.read_split(split) for split in ("labeled", "test", "unlabeled"))
    assert dict(zip(table.columns, table.dtypes)) == dict.fromkeys(
        ("id", "title", "asr", "ocr", "label"), pl.String
    ) | {"frames": pl.Int32}
    assert table["id"].to_list() == [
        name for split in ("labeled", "test", "unlabeled") for name in small.ids(split)
    ]
    assert pl.read_parquet(made.folder / "folds.parquet")["id"].to_list() == small.ids("labeled")
    assert small.ids("labeled")[0].startswith("0000")
    assert table.row(1) == (small.ids("labeled")[1], "0001", "NaN", "字幕 0", "0001", 1)


def test_the_store_keeps_the_bytes_the_judge_will_decode(small_root, tmp_path):
    made, _ = run(small_root, tmp_path / "work")
    data, sizes = open_columns(made.folder / "frames", "labeled", ("bytes", "sizes"), 12)
    for i in range(12):
        kept = split_images(data[i], sizes[i])
        assert kept == [
            b"" if (i, j) == (3, 1) else photo for j, photo in enumerate(small.photos(i % 5, i))
        ]


def test_a_second_run_says_so_and_is_quick(small_root, tmp_path):
    work = tmp_path / "work"
    made, had = run(small_root, work)
    before = content(made.folder)
    start = time.perf_counter()
    again, had_again = run(small_root, work)
    assert (had, had_again) == (False, True)
    assert time.perf_counter() - start < 0.5
    assert again == made
    assert content(made.folder) == before


def test_trap_11_threads_and_places_change_no_byte(small_root, tmp_path):
    one, _ = run(small_root, tmp_path / "a", threads=1)
    four, _ = run(small_root, tmp_path / "b", threads=4)
    assert content(one.folder) == content(four.folder)
    assert one.hash == four.hash


def test_another_seed_or_number_of_folds_is_another_dataset(small_root, tmp_path):
    work = tmp_path / "work"
    made = [
        run(small_root, work, **settings)[0] for settings in ({}, {"seed": 1}, {"folds": 2}, {})
    ]
    assert len({m.hash for m in made}) == 3
    assert open_prepared(work).hash == made[0].hash
    assert open_prepared(work, made[1].hash[:6]).hash == made[1].hash
    with pytest.raises(UsageFault, match="0 prepared datasets .* begin with 'xyz'; available: "):
        open_prepared(work, "xyz")
    with pytest.raises(
        UsageFault, match="holds no prepared data; run `wbdc prepare --data DIR` first"
    ):
        open_prepared(tmp_path / "elsewhere")


KILLED = """
import os, signal, sys
from pathlib import Path
from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core import files
from wbdc.data import store
from wbdc.prepare.build import prepare_data
store.SHARD_VIDEOS, left, replace = 4, int(sys.argv[3]), os.replace
os.fsync = lambda handle: None
def replace_or_die(*a):
    global left
    left -= 1
    os.kill(os.getpid(), signal.SIGKILL) if left < 0 else replace(*a)
os.replace = replace_or_die
prepare_data(Path(sys.argv[1]), Path(sys.argv[2]), WeChat2022(), folds=3)
"""


def test_fault_2_killed_anywhere_and_started_again_ends_in_the_same_bytes(small_root, tmp_path):
    """kill -9 at each of five publishes: 5 shards, 2 tables and a seal are written. Finished shards
    are not written again.
    """
    whole, _ = run(small_root, tmp_path / "whole")
    work = tmp_path / "work"
    for left in (0, 2, 1, 2, 0):
        assert small.python(KILLED, small_root, work, left).returncode == -signal.SIGKILL
        with pytest.raises(UsageFault, match="holds no prepared data"):
            open_prepared(work)
    shards = {p: p.stat().st_mtime_ns for p in list_files(work / "prepared" / whole.hash)}
    assert len(shards) == 5
    assert list(work.rglob("*.tmp"))
    made, had = run(small_root, work)
    assert not had
    assert content(made.folder) == content(whole.folder)
    assert not list(work.rglob("*.tmp"))
    assert all(p.stat().st_mtime_ns == then for p, then in shards.items())


def test_fault_31_two_at_a_time(small_root, tmp_path):
    made, _ = run(small_root, tmp_path / "a")
    with lock_folder(tmp_path / "work" / "prepared" / made.hash):
        with pytest.raises(FolderInUse, match=f"in use by process {os.getpid()}"):
            run(small_root, tmp_path / "work")
    assert run(small_root, tmp_path / "work")[1] is False


def test_fault_7_a_full_disk_keeps_what_is_finished(small_root, tmp_path, monkeypatch):
    real, calls = store.save_file, []

    def full(*given):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(*given)

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(OutOfResources, match="labeled-00002.safetensors could not be written"):
        run(small_root, tmp_path / "work")
    made, had = run(small_root, tmp_path / "work")
    assert not had
    assert len(calls) == 6
    assert content(made.folder) == content(run(small_root, tmp_path / "whole")[0].folder)


@pytest.mark.parametrize(
    "name", ["videos/labeled-00000.parquet", "folds.parquet", "findings.parquet"]
)
def test_fault_10_a_changed_table_is_exit_4(small_root, tmp_path, name):
    """A flipped bit loads silently in parquet."""
    work = tmp_path / "work"
    made, _ = run(small_root, work)
    data = bytearray((made.folder / name).read_bytes())
    data[len(data) // 3] ^= 1
    (made.folder / name).write_bytes(data)
    for use in (lambda: open_prepared(work), lambda: run(small_root, work)):
        with pytest.raises(
            IntegrityBroken, match=f"is damaged, 1 files differ from what was written: {name}"
        ):
            use()


def test_a_changed_archive_makes_another_dataset(small_root, tmp_path):
    first, _ = run(small_root, tmp_path / "work")
    small.pack(
        small.archive(small_root, "test", small.ids("test")[0]), small.frames(small.photos(2, 5))
    )
    second, had = run(small_root, tmp_path / "work")
    assert not had
    assert second.hash != first.hash
    assert second.facts.frame_counts["test"] == first.facts.frame_counts["test"] + 2


def test_fault_22_missing_and_extra_archives_are_counted_once(small_root, tmp_path):
    for i in (1, 2):
        small.archive(small_root, "labeled", small.ids("labeled")[i]).unlink()
    small.pack(
        small_root / "zip_frames" / "test" / "abc" / "abc.zip", small.frames(small.photos(1))
    )
    made, _ = run(small_root, tmp_path / "work")
    found = made.facts.findings
    assert found["archive.missing"]["count"] == 2
    assert found["archive.extra"] == {"count": 1, "places": ["test: abc/abc.zip"]}
    assert made.read_split("labeled")["frames"].to_list()[:4] == [0, 0, 0, 2]


def test_fault_21_rare_classes_are_told(small_root, tmp_path):
    rows = small.items("labeled")
    rows[0]["category_id"] = "1305"
    small.annotate(small_root, "labeled", rows)
    assert run(small_root, tmp_path / "work")[0].read_findings()["label.rare"] == {
        "count": 2,
        "places": ["0000", "1305"],
    }


def test_a_root_without_any_frame(small_root, tmp_path):
    shutil.rmtree(small_root / "zip_frames")
    (small_root / "zip_frames").mkdir()
    made, _ = run(small_root, tmp_path / "work")
    assert made.facts.frame_counts == {"labeled": 0, "test": 0, "unlabeled": 0}
    assert made.facts.findings["archive.missing"]["count"] == 20


def test_features_are_stored_as_they_are(tmp_path):
    made, _ = run(small.features(tmp_path / "data"), tmp_path / "work")
    assert made.facts.frame_format == "features"
    assert made.facts.frame_counts == {"labeled": 21, "test": 6, "unlabeled": 6}
    assert counted(made.facts) == {}
    (column,), random = (
        open_columns(made.folder / "frames", "labeled", ("features",), 12),
        np.random.default_rng(0),
    )
    for i in range(12):
        assert np.array_equal(column[i], random.normal(size=(i % 5, 6)).astype(np.float16))


@pytest.mark.parametrize(
    "bad",
    [
        np.array([{"a": 1}], object),
        np.full((2, 6), np.nan, np.float16),
        np.ones(6, np.float16),
        np.ones((2, 6), np.int64),
    ],
)
def test_fault_12_features_that_are_none_are_left_out_and_counted(tmp_path, bad):
    root = small.features(tmp_path / "data")
    names = [f"{name}.npy" for name in small.ids("test")]
    small.pack(
        root / "zip_feats" / "test.zip",
        {names[0]: small.numbers(bad), names[1]: small.numbers(np.ones((2, 6), np.float16))},
    )
    made, _ = run(root, tmp_path / "work")
    assert made.read_split("test")["frames"].to_list() == [0, 2, 0, 0]
    assert counted(made.facts) == {"archive.broken": 1, "archive.missing": 2}


@pytest.mark.parametrize(("split", "place"), [("labeled", 11), ("test", 0)])
def test_features_of_two_widths_are_exit_3(tmp_path, split, place):
    """In one shard or in two, it would end as a shape error hours later."""
    root = small.features(tmp_path / "data")
    rows = {
        f"{name}.npy": small.numbers(np.ones((2, 7 if i == place else 6), np.float16))
        for i, name in enumerate(small.ids(split))
    }
    small.pack(root / "zip_feats" / f"{split}.zip", rows)
    with pytest.raises(
        DataInvalid,
        match=f"all features must have the same width, .*{small.ids(split)[place]} has 7",
    ):
        run(root, tmp_path / "work")


def test_the_nasty_root_is_survived(real_data, tmp_path):
    """121 faults in one data root: each item is kept, and every error is counted."""
    root = real_data / "nasty" / "wbdc_root" / "data"
    start = time.perf_counter()
    made, _ = run(root, tmp_path / "work", folds=2)
    assert time.perf_counter() - start < 30
    faults = {e["id"]: e for e in json.loads((root.parent / "faults.json").read_text())}
    rows = {
        row["id"]: row["frames"]
        for split in made.facts.video_counts
        for row in made.read_split(split).iter_rows(named=True)
    }
    assert set(faults) <= set(rows)
    lost = [
        e["from_file"] for name, e in faults.items() if e["verdict"] == "fine" and not rows[name]
    ]
    assert lost == []
    assert sum(e["count"] for e in made.facts.findings.values()) >= sum(
        e["verdict"] == "error" for e in faults.values()
    )


def again_later(path: Path, data: bytes) -> None:
    """Write a file of equal size at another time."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))


def test_a_repaired_archive_is_read_anew_and_stands_for_other_data(tmp_path):
    root, work = small.root(tmp_path / "data"), tmp_path / "work"
    path = small.archive(root, "labeled", small.ids("labeled")[4])
    whole = path.read_bytes()
    again_later(path, whole[:-20] + b"\xff" * 20)
    broken, _ = run(root, work)
    assert broken.facts.findings["archive.broken"]["count"] == 1
    again_later(path, whole)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))
    mended, had = run(root, work)
    assert not had
    assert mended.hash != broken.hash
    assert "archive.broken" not in mended.facts.findings
    assert open_prepared(work).hash == mended.hash
    assert run(root, tmp_path / "other")[0].hash == broken.hash, (
        "a fresh preparation bears the name that annotations and sizes give"
    )


def test_archives_that_were_only_copied_change_nothing(tmp_path):
    root, work = small.root(tmp_path / "data"), tmp_path / "work"
    first, _ = run(root, work)
    for path in (root / "zip_frames").rglob("*.zip"):
        again_later(path, path.read_bytes())
    for _ in range(2):
        second, had = run(root, work)
        assert had
        assert second.hash == first.hash
        assert len(list((work / "prepared").glob("*/DONE.json"))) == 1
    assert second.facts.archive_stamp != first.facts.archive_stamp
    assert content(second.folder).keys() == content(first.folder).keys()


def test_a_lost_shard_is_missed_and_made_anew(small_root, tmp_path):
    made, _ = run(small_root, tmp_path)
    before = content(made.folder)
    shards = sorted((made.folder / "frames").iterdir())
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    with pytest.raises(IntegrityBroken, match="2 shards of frames are missing or damaged"):
        open_prepared(tmp_path)
    again, had = run(small_root, tmp_path)
    assert not had
    assert content(again.folder) == before
    assert open_prepared(tmp_path).hash == made.hash


def test_moved_data_are_looked_for_where_they_lie_now(tmp_path):
    root = small.root(tmp_path / "data")
    run(root, tmp_path / "work")
    root.rename(tmp_path / "moved")
    _, had = run(tmp_path / "moved", tmp_path / "work")
    assert had
    assert open_prepared(tmp_path / "work").facts.data_folder == str(tmp_path / "moved")


def test_what_is_stored_takes_no_more_room(small_root, tmp_path, monkeypatch):
    made, _ = run(small_root, tmp_path)
    (made.folder / "DONE.json").unlink()
    taken = sum(p.stat().st_size for p in (made.folder / "frames").iterdir())
    free = shutil.disk_usage(tmp_path)._replace(free=2**28 + max(0, 1000 - taken))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: free)
    assert run(small_root, tmp_path)[0].hash == made.hash


def test_a_work_folder_may_be_called_anything(small_root, tmp_path):
    made, _ = run(small_root, tmp_path / "w[1]*")
    assert (
        open_prepared(tmp_path / "w[1]*").read_split("labeled").equals(made.read_split("labeled"))
    )
    assert len(made.read_rows("labeled", range(2), ["id"])) == 2


def test_labels_of_other_splits_may_be_anything(tmp_path):
    root = small.root(tmp_path / "data")
    small.annotate(root, "test", [item | {"category_id": ["0101"]} for item in small.items("test")])
    made, _ = run(root, tmp_path / "work")
    assert made.facts.findings["label.unexpected"]["count"] == 4
    assert made.facts.statistics["test"]["classes"] == 0
