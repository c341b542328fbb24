"""Preparing a contest with sound: stored rows, findings, and what changes the dataset."""

import json
from pathlib import Path

import numpy as np
import pytest
import small

from wbdc.competitions import open_competition
from wbdc.core.errors import DataFault, UsageFault
from wbdc.data import store
from wbdc.data.store import open_columns
from wbdc.prepare.build import prepare_data
from wbdc.prepare.check import check_data
from wbdc.prepare.dataset import PreparedData

WIDTH = 3

pytestmark = pytest.mark.usefixtures("quick_disk")


def rows_of(number: int) -> bytes:
    """Return the file of a video: 1 to 4 rows that hold its number."""
    return small.numbers(np.full((number % 5, WIDTH), number, np.float32))


@pytest.fixture
def contest(tmp_path) -> Path:
    return small.audio_contest(tmp_path, "npy")


@pytest.fixture
def root(small_root) -> Path:
    return small.add_audio(small_root, "npy", rows_of)


def prepare(root: Path, work: Path, contest: Path) -> PreparedData:
    return prepare_data(root, work, open_competition(str(contest)), folds=3)[0]


def test_rows_are_stored_beside_the_frames(root, tmp_path, contest, monkeypatch):
    monkeypatch.setattr(store, "SHARD_VIDEOS", 4)  # several shards for each split
    prepared = prepare(root, tmp_path / "work", contest)
    counts = [i % 5 for i in range(12)]
    (column,) = open_columns(prepared.folder / "frames", "labeled", ["modality.audio"], 12)
    assert [column[i].tolist() for i in range(12)] == [
        [[float(i)] * WIDTH] * count for i, count in enumerate(counts)
    ]
    assert prepared.read_split("labeled")["audio"].to_list() == counts
    missing = prepared.facts.findings["modality.missing"]
    assert missing["count"] == sum((n + 4) // 5 for n in small.SPLITS.values())
    assert missing["places"][0] == f"labeled: audio of {small.ids('labeled')[0]}"


def test_damaged_files_are_counted_and_stored_as_missing(root, tmp_path, contest):
    name = small.ids("labeled")[3]
    small.audio(root, "labeled", name, "npy").write_bytes(b"\x93NUMPY")
    prepared = prepare(root, tmp_path / "work", contest)
    assert prepared.facts.findings["modality.broken"]["count"] == 1
    assert prepared.read_split("labeled")["audio"].to_list()[3] == 0


def test_other_sound_is_another_dataset_and_equal_sound_the_same(root, tmp_path, contest):
    first = prepare(root, tmp_path / "work", contest)
    assert prepare(root, tmp_path / "work", contest).hash == first.hash
    name = small.ids("test")[1]
    small.audio(root, "test", name, "npy").write_bytes(
        small.numbers(np.ones((9, WIDTH), np.float32))
    )
    assert prepare(root, tmp_path / "work", contest).hash != first.hash


def test_features_of_several_widths_are_refused(root, tmp_path, contest):
    name = small.ids("test")[1]  # of another split and shard than the others
    small.audio(root, "test", name, "npy").write_bytes(small.numbers(np.ones((2, 5), np.float32)))
    with pytest.raises(DataFault, match="all audio features must have the same width") as raised:
        prepare(root, tmp_path / "work", contest)
    assert f"{name} has 5" in str(raised.value)


def test_a_contest_that_yields_no_sources_is_refused(root, contest):
    own = open_competition(str(contest))
    own.videos = lambda *inputs: (
        video._replace(modalities={}) for video in type(own).videos(own, *inputs)
    )
    with pytest.raises(UsageFault, match=r"own.py: videos\(\) yields no source .* audio"):
        check_data(root, own)


def test_repeated_videos_have_their_sound(root, tmp_path, contest):
    own = open_competition(str(contest))
    own.repeat_videos(root, tmp_path / "long", "test", 2 * small.SPLITS["test"])
    rows = json.loads((tmp_path / "long" / "annotations" / "test.json").read_text())
    present = [small.audio(tmp_path / "long", "test", row["id"], "npy").is_file() for row in rows]
    assert present == [bool(i % 5) for i in range(small.SPLITS["test"])] * 2
