"""Preparing twenty videos end to end: stored files, interrupted runs, damage, unchanged data."""

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
from wbdc.core.errors import DataFault, FolderInUse, IntegrityFault, OutOfResources, UsageFault
from wbdc.core.files import list_files, lock_folder
from wbdc.data import store
from wbdc.data.store import open_columns, split_images
from wbdc.prepare.build import prepare_data
from wbdc.prepare.dataset import DatasetFacts, PreparedData, open_prepared

pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture
def small_shards(monkeypatch):
    """Store several shards for each split."""
    monkeypatch.setattr(store, "SHARD_VIDEOS", 4)


def run(root: Path, work: Path, **settings: object) -> tuple[PreparedData, bool]:
    """Prepare a data folder; return the dataset, and whether it existed already."""
    return prepare_data(root, work, WeChat2022(), **{"folds": 3} | settings)


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a folder, by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in list_files(folder)}


def counted(facts: DatasetFacts) -> dict[str, int]:
    """Count the findings, without those of the small synthetic texts and classes."""
    return {
        code: entry["count"]
        for code, entry in facts.findings.items()
        if not code.startswith(("duplicate", "label.rare", "shift"))
    }


def test_prepare_writes_tables_frames_and_folds(small_root, tmp_path):
    calls = []
    prepared, existed = run(
        small_root, tmp_path / "work", progress=lambda *call: calls.append(call)
    )
    facts = prepared.facts
    assert not existed
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
    rows = prepared.read_split("labeled")
    assert rows.columns == ["id", "title", "asr", "ocr", "label", "frames"]
    assert rows["frames"].to_list()[:5] == [0, 1, 2, 2, 4]
    assert rows["label"].to_list() == [small.LABELS[i % 4] for i in range(12)]
    assert prepared.read_split("test")["label"].to_list() == [None] * 4
    assert sorted(prepared.read_folds().tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert prepared.hash == prepared.folder.name


def test_trap_26_ids_and_texts_are_stored_unchanged(small_root, tmp_path):
    """Ids of 20 digits beyond int64, leading zeros, "0001" as a class, and text like "NaN"."""
    rows = small.items("labeled")
    rows[1] |= {"title": "0001", "asr": "NaN", "category_id": "0001"}
    small.annotate(small_root, "labeled", rows)
    prepared, _ = run(small_root, tmp_path / "work")
    table = pl.concat(prepared.read_split(split) for split in ("labeled", "test", "unlabeled"))
    assert dict(zip(table.columns, table.dtypes, strict=True)) == dict.fromkeys(
        ("id", "title", "asr", "ocr", "label"), pl.String
    ) | {"frames": pl.Int32}
    assert table["id"].to_list() == [
        name for split in ("labeled", "test", "unlabeled") for name in small.ids(split)
    ]
    assert pl.read_parquet(prepared.folder / "folds.parquet")["id"].to_list() == small.ids(
        "labeled"
    )
    assert small.ids("labeled")[0].startswith("0000")
    assert table.row(1) == (small.ids("labeled")[1], "0001", "NaN", "字幕 0", "0001", 1)


def test_stored_frames_are_the_bytes_that_inference_decodes(small_root, tmp_path):
    prepared, _ = run(small_root, tmp_path / "work")
    data, sizes = open_columns(prepared.folder / "frames", "labeled", ("bytes", "sizes"), 12)
    for i in range(12):
        assert split_images(data[i], sizes[i]) == [
            b"" if (i, j) == (3, 1) else photo for j, photo in enumerate(small.photos(i % 5, i))
        ]


def test_a_second_run_reuses_the_dataset_quickly(small_root, tmp_path):
    work = tmp_path / "work"
    prepared, existed = run(small_root, work)
    before = content(prepared.folder)
    start = time.perf_counter()
    second, second_existed = run(small_root, work)
    assert (existed, second_existed) == (False, True)
    assert time.perf_counter() - start < 0.5
    assert second == prepared
    assert content(prepared.folder) == before


def test_trap_11_bytes_do_not_depend_on_threads_or_folder(small_root, tmp_path):
    one, _ = run(small_root, tmp_path / "a", threads=1)
    four, _ = run(small_root, tmp_path / "b", threads=4)
    assert content(one.folder) == content(four.folder)
    assert one.hash == four.hash


def test_seed_and_number_of_folds_are_part_of_the_hash(small_root, tmp_path):
    work = tmp_path / "work"
    hashes = [
        run(small_root, work, **settings)[0].hash
        for settings in ({}, {"seed": 1}, {"folds": 2}, {})
    ]
    assert len(set(hashes)) == 3
    assert open_prepared(work).hash == hashes[0]
    assert open_prepared(work, hashes[1][:6]).hash == hashes[1]
    with pytest.raises(UsageFault, match="0 prepared datasets .* begin with 'xyz'; available: "):
        open_prepared(work, "xyz")
    with pytest.raises(
        UsageFault, match="holds no prepared data; run `wbdc prepare --data DIR` first"
    ):
        open_prepared(tmp_path / "elsewhere")


KILLED_SCRIPT = """
import os, signal, sys
from pathlib import Path
from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core import files
from wbdc.data import store
from wbdc.prepare.build import prepare_data
store.SHARD_VIDEOS, remaining, replace = 4, int(sys.argv[3]), os.replace
os.fsync = lambda handle: None
def replace_or_die(*a):
    global remaining
    remaining -= 1
    os.kill(os.getpid(), signal.SIGKILL) if remaining < 0 else replace(*a)
os.replace = replace_or_die
prepare_data(Path(sys.argv[1]), Path(sys.argv[2]), WeChat2022(), folds=3)
"""


@pytest.mark.slow
def test_fault_2_a_killed_run_continues_and_writes_the_same_bytes(small_root, tmp_path):
    """Kill the process at each of five publications. Finished shards are not written again."""
    whole, _ = run(small_root, tmp_path / "whole")
    work = tmp_path / "work"
    for publications in (0, 2, 1, 2, 0):
        assert (
            small.python(KILLED_SCRIPT, small_root, work, publications).returncode
            == -signal.SIGKILL
        )
        with pytest.raises(UsageFault, match="holds no prepared data"):
            open_prepared(work)
    shards = {p: p.stat().st_mtime_ns for p in list_files(work / "prepared" / whole.hash)}
    assert len(shards) == 5
    assert list(work.rglob("*.tmp"))
    prepared, existed = run(small_root, work)
    assert not existed
    assert content(prepared.folder) == content(whole.folder)
    assert not list(work.rglob("*.tmp"))
    assert all(p.stat().st_mtime_ns == modified for p, modified in shards.items())


def test_fault_31_two_runs_at_the_same_time_are_refused(small_root, tmp_path):
    prepared, _ = run(small_root, tmp_path / "a")
    folder = tmp_path / "work" / "prepared" / prepared.hash
    in_use = pytest.raises(FolderInUse, match=f"in use by process {os.getpid()}")
    with lock_folder(folder), in_use:
        run(small_root, tmp_path / "work")
    assert run(small_root, tmp_path / "work")[1] is False


def test_fault_7_a_full_disk_keeps_finished_shards(small_root, tmp_path, monkeypatch):
    save_file, calls = store.save_file, []

    def fail_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        save_file(*arguments)

    monkeypatch.setattr(store, "save_file", fail_third)
    with pytest.raises(OutOfResources, match="labeled-00002.safetensors could not be written"):
        run(small_root, tmp_path / "work")
    prepared, existed = run(small_root, tmp_path / "work")
    assert not existed
    assert len(calls) == 6
    assert content(prepared.folder) == content(run(small_root, tmp_path / "whole")[0].folder)


@pytest.mark.parametrize(
    "name", ["videos/labeled-00000.parquet", "folds.parquet", "findings.parquet"]
)
def test_fault_10_a_damaged_table_is_exit_4(small_root, tmp_path, name):
    """Parquet itself does not notice a flipped bit."""
    work = tmp_path / "work"
    prepared, _ = run(small_root, work)
    data = bytearray((prepared.folder / name).read_bytes())
    data[len(data) // 3] ^= 1
    (prepared.folder / name).write_bytes(data)
    for read in (lambda: open_prepared(work), lambda: run(small_root, work)):
        with pytest.raises(
            IntegrityFault, match=f"is damaged, 1 files differ from what was written: {name}"
        ):
            read()


def test_a_changed_archive_changes_the_hash(small_root, tmp_path):
    first, _ = run(small_root, tmp_path / "work")
    small.pack(
        small.archive(small_root, "test", small.ids("test")[0]), small.frames(small.photos(2, 5))
    )
    second, existed = run(small_root, tmp_path / "work")
    assert not existed
    assert second.hash != first.hash
    assert second.facts.frame_counts["test"] == first.facts.frame_counts["test"] + 2


def test_fault_22_missing_and_extra_archives_are_counted_once(small_root, tmp_path):
    for i in (1, 2):
        small.archive(small_root, "labeled", small.ids("labeled")[i]).unlink()
    small.pack(
        small_root / "zip_frames" / "test" / "abc" / "abc.zip", small.frames(small.photos(1))
    )
    prepared, _ = run(small_root, tmp_path / "work")
    findings = prepared.facts.findings
    assert findings["archive.missing"]["count"] == 2
    assert findings["archive.extra"] == {"count": 1, "places": ["test: abc/abc.zip"]}
    assert prepared.read_split("labeled")["frames"].to_list()[:4] == [0, 0, 0, 2]


def test_fault_21_rare_classes_are_reported(small_root, tmp_path):
    rows = small.items("labeled")
    rows[0]["category_id"] = "1305"
    small.annotate(small_root, "labeled", rows)
    assert run(small_root, tmp_path / "work")[0].read_findings()["label.rare"] == {
        "count": 2,
        "places": ["0000", "1305"],
    }


def test_a_dataset_without_frames_is_prepared(small_root, tmp_path):
    shutil.rmtree(small_root / "zip_frames")
    (small_root / "zip_frames").mkdir()
    prepared, _ = run(small_root, tmp_path / "work")
    assert prepared.facts.frame_counts == {"labeled": 0, "test": 0, "unlabeled": 0}
    assert prepared.facts.findings["archive.missing"]["count"] == 20


def test_features_are_stored_unchanged(tmp_path):
    prepared, _ = run(small.features(tmp_path / "data"), tmp_path / "work")
    assert prepared.facts.frame_format == "features"
    assert prepared.facts.frame_counts == {"labeled": 21, "test": 6, "unlabeled": 6}
    assert counted(prepared.facts) == {}
    (column,), random = (
        open_columns(prepared.folder / "frames", "labeled", ("features",), 12),
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
def test_fault_12_invalid_features_are_skipped_and_counted(tmp_path, bad):
    root = small.features(tmp_path / "data")
    names = [f"{name}.npy" for name in small.ids("test")]
    small.pack(
        root / "zip_feats" / "test.zip",
        {names[0]: small.numbers(bad), names[1]: small.numbers(np.ones((2, 6), np.float16))},
    )
    prepared, _ = run(root, tmp_path / "work")
    assert prepared.read_split("test")["frames"].to_list() == [0, 2, 0, 0]
    assert counted(prepared.facts) == {"archive.broken": 1, "archive.missing": 2}


@pytest.mark.parametrize(("split", "row"), [("labeled", 11), ("test", 0)])
def test_features_of_two_widths_are_exit_3(tmp_path, split, row):
    """In one shard or in two; training would fail with a shape error hours later."""
    root = small.features(tmp_path / "data")
    rows = {
        f"{name}.npy": small.numbers(np.ones((2, 7 if i == row else 6), np.float16))
        for i, name in enumerate(small.ids(split))
    }
    small.pack(root / "zip_feats" / f"{split}.zip", rows)
    with pytest.raises(
        DataFault,
        match=f"all features must have the same width, .*{small.ids(split)[row]} has 7",
    ):
        run(root, tmp_path / "work")


def test_a_data_folder_with_121_faults_is_prepared(real_data, tmp_path):
    """Every item is stored, and every error is counted."""
    root = real_data / "nasty" / "wbdc_root" / "data"
    start = time.perf_counter()
    prepared, _ = run(root, tmp_path / "work", folds=2)
    assert time.perf_counter() - start < 30
    faults = {e["id"]: e for e in json.loads((root.parent / "faults.json").read_text())}
    rows = {
        row["id"]: row["frames"]
        for split in prepared.facts.video_counts
        for row in prepared.read_split(split).iter_rows(named=True)
    }
    assert set(faults) <= set(rows)
    lost = [
        e["from_file"] for name, e in faults.items() if e["verdict"] == "fine" and not rows[name]
    ]
    assert lost == []
    assert sum(e["count"] for e in prepared.facts.findings.values()) >= sum(
        e["verdict"] == "error" for e in faults.values()
    )


def rewrite(path: Path, data: bytes) -> None:
    """Write a file of equal size with another modification time."""
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))


def test_a_repaired_archive_is_read_again_and_changes_the_hash(tmp_path):
    root, work = small.root(tmp_path / "data"), tmp_path / "work"
    path = small.archive(root, "labeled", small.ids("labeled")[4])
    whole = path.read_bytes()
    rewrite(path, whole[:-20] + b"\xff" * 20)
    broken, _ = run(root, work)
    assert broken.facts.findings["archive.broken"]["count"] == 1
    rewrite(path, whole)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))
    repaired, existed = run(root, work)
    assert not existed
    assert repaired.hash != broken.hash
    assert "archive.broken" not in repaired.facts.findings
    assert open_prepared(work).hash == repaired.hash
    assert run(root, tmp_path / "other")[0].hash == broken.hash, (
        "without an earlier dataset, the hash depends on annotations and sizes only"
    )


def test_copied_archives_do_not_change_the_hash(tmp_path):
    root, work = small.root(tmp_path / "data"), tmp_path / "work"
    first, _ = run(root, work)
    for path in (root / "zip_frames").rglob("*.zip"):
        rewrite(path, path.read_bytes())
    for _ in range(2):
        second, existed = run(root, work)
        assert existed
        assert second.hash == first.hash
        assert len(list((work / "prepared").glob("*/DONE.json"))) == 1
    assert second.facts.archive_stamp != first.facts.archive_stamp
    assert content(second.folder).keys() == content(first.folder).keys()


def test_missing_shards_are_reported_and_written_again(small_root, tmp_path):
    prepared, _ = run(small_root, tmp_path)
    before = content(prepared.folder)
    shards = sorted((prepared.folder / "frames").iterdir())
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    with pytest.raises(IntegrityFault, match="2 shards of frames are missing or damaged"):
        open_prepared(tmp_path)
    repaired, existed = run(small_root, tmp_path)
    assert not existed
    assert content(repaired.folder) == before
    assert open_prepared(tmp_path).hash == prepared.hash


def test_moved_data_are_found_at_their_new_path(tmp_path):
    root = small.root(tmp_path / "data")
    run(root, tmp_path / "work")
    root.rename(tmp_path / "moved")
    _, existed = run(tmp_path / "moved", tmp_path / "work")
    assert existed
    assert open_prepared(tmp_path / "work").facts.data_folder == str(tmp_path / "moved")


def test_stored_shards_need_no_more_disk_space(small_root, tmp_path, monkeypatch):
    prepared, _ = run(small_root, tmp_path)
    (prepared.folder / "DONE.json").unlink()
    stored = sum(p.stat().st_size for p in (prepared.folder / "frames").iterdir())
    free = shutil.disk_usage(tmp_path)._replace(free=2**28 + max(0, 1000 - stored))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    assert run(small_root, tmp_path)[0].hash == prepared.hash


def test_a_work_folder_may_have_glob_characters_in_its_name(small_root, tmp_path):
    prepared, _ = run(small_root, tmp_path / "w[1]*")
    assert (
        open_prepared(tmp_path / "w[1]*")
        .read_split("labeled")
        .equals(prepared.read_split("labeled"))
    )
    assert len(prepared.read_rows("labeled", range(2), ["id"])) == 2


def test_labels_of_other_splits_are_ignored(tmp_path):
    root = small.root(tmp_path / "data")
    small.annotate(root, "test", [item | {"category_id": ["0101"]} for item in small.items("test")])
    prepared, _ = run(root, tmp_path / "work")
    assert prepared.facts.findings["label.unexpected"]["count"] == 4
    assert prepared.facts.statistics["test"]["classes"] == 0
