"""Shards: ragged rows are read back as written; files are complete or absent."""

import numpy as np
import pytest
import small
from safetensors.numpy import save_file

from wbdc.core import integrity
from wbdc.core.errors import IntegrityFault
from wbdc.data import store
from wbdc.data.store import (
    ShardFile,
    join_images,
    open_columns,
    shard_path,
    shard_starts,
    split_images,
    write_shard,
)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(store, "SHARD_VIDEOS", 4)


def write(folder, rows):
    for part in shard_starts(len(rows)):
        write_shard(shard_path(folder, "x", part.start), {"c": [rows[i] for i in part]})
    return open_column(folder, len(rows))


def open_column(folder, count):
    return open_columns(folder, "x", ["c"], count)[0]


@pytest.mark.parametrize(
    ("kind", "shape"), [(np.uint8, (3, 2, 2)), (np.float16, (5,)), (np.int32, ()), (np.int64, ())]
)
@pytest.mark.parametrize(
    "lengths", [(1, 2, 3, 4, 5, 6, 7, 8, 9), (0, 3, 0, 0), (0, 0, 0, 0, 0, 1), (0, 0), (2,)]
)
def test_ragged_rows_are_read_back(tmp_path, kind, shape, lengths):
    random = np.random.default_rng(0)
    rows = [random.integers(0, 99, (n, *shape)).astype(kind) for n in lengths]
    column = write(tmp_path, rows)
    for i, row in enumerate(rows):
        assert column[i].dtype == kind
        assert np.array_equal(column[i], row)


def test_an_empty_row_does_not_determine_the_width(tmp_path):
    empty, full = np.zeros((0, 0), np.float16), np.ones((2, 7), np.float16)
    column = write(tmp_path, [empty, full, empty])
    assert column[0].shape == (0, 7) == column[2].shape
    assert np.array_equal(column[1], full)
    assert write(tmp_path / "none", [empty, empty])[1].shape == (0, 0)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 8, 1000])
def test_shards_cover_every_row_once(count):
    assert [i for part in shard_starts(count) for i in part] == list(range(count))
    assert len(
        {shard_path(small.Path("f"), "x", part.start) for part in shard_starts(count)}
    ) == len(shard_starts(count))


@pytest.mark.parametrize("encoded", [[], [b"abc", b"", b"d"], [b""], [b"", b""]])
def test_images_are_read_back_byte_for_byte(encoded):
    joined = join_images(encoded)
    assert split_images(joined["bytes"], joined["sizes"]) == encoded


def test_equal_rows_give_equal_bytes_and_facts(tmp_path):
    for name in ("a", "b"):
        write_shard(tmp_path / name, {"c": [np.arange(3)]}, {"found": {"帧": 1}, "counts": [1]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert ShardFile(tmp_path / "a").facts == {"counts": [1], "found": {"帧": 1}}


def header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


DAMAGE = {
    "cut": lambda d: d[:-5],
    "cut in the header": lambda d: d[:30],
    "empty": lambda d: b"",
    "longer": lambda d: d + b"x",
    "a giant header": lambda d: b"\xff" * 20,
    "a nested header": lambda d: header(b"[" * 100_000),
    "no UTF-8": lambda d: header(b'{"__metadata__": "\xff"}'),
    "a list": lambda d: header(b"[]"),
    "no metadata": lambda d: header(b"{}"),
    "metadata of another type": lambda d: header(b'{"__metadata__": [1]}'),
    "no hash": lambda d: header(b'{"__metadata__": {"shard": "\\ud800"}}'),
    "another column": lambda d: d.replace(b'"c"', b'"d"'),
    "an unknown type": lambda d: d.replace(b"I64", b"BF8"),
    "another shape": lambda d: d.replace(b"[9]", b"[8]"),
    "other facts": lambda d: d.replace(b"kept", b"lost"),
    "another hash": lambda d: d.replace(b'"shard":"', b'"shard":"0', 1),
    "a flipped byte": lambda d: d[:-1] + bytes([d[-1] ^ 1]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize(
    ("folder", "command"), [("frames", "`wbdc prepare`"), ("pixels", "the same command")]
)
def test_fault_10_a_damaged_shard_is_exit_4_and_named(tmp_path, damage, folder, command):
    path = shard_path(tmp_path / folder, "x", 0)
    write_shard(path, {"c": [np.arange(3)] * 3}, {"what": "kept"})
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole

    readers = (
        lambda: open_column(path.parent, 3),
        lambda: ShardFile(path).rows("c"),
    )
    for read in readers:
        with pytest.raises(
            IntegrityFault, match=f"{path.name} .*; delete this file and run {command} again$"
        ) as caught:
            read()
        assert caught.value.code == 4
        assert "\n" not in str(caught.value)


def test_every_byte_of_a_shard_counts(tmp_path):
    path = shard_path(tmp_path, "x", 0)
    write_shard(path, {"c": [np.arange(2)]}, {"what": "kept"})
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(IntegrityFault, match=path.name):
            open_column(tmp_path, 1)


@pytest.fixture
def hashed_paths(monkeypatch):
    """Every shard that is hashed, each time."""
    paths, content_hash = [], store._content_hash
    monkeypatch.setattr(
        store, "_content_hash", lambda path: (paths.append(path), content_hash(path))[1]
    )
    return paths


def test_a_fresh_shard_is_hashed_once_for_all_its_columns(tmp_path, hashed_paths):
    paths = [shard_path(tmp_path, "x", start) for start in (0, 4)]
    for path in paths:
        write_shard(path, {"c": [np.arange(3)] * 4, "d": [np.arange(5)] * 4}, {"what": "kept"})
    del hashed_paths[:]

    c, d = open_columns(tmp_path, "x", ["c", "d"], 8)
    assert (len(c[7]), len(d[7])) == (3, 5)
    assert hashed_paths == paths

    shard = ShardFile(paths[0])
    assert (len(shard.rows("c")), len(shard.rows("d")), shard.facts) == (4, 4, {"what": "kept"})
    assert hashed_paths == [*paths, paths[0]]


def test_an_unchanged_shard_is_hashed_once(tmp_path, monkeypatch, hashed_paths):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        integrity, "FRESH_SECONDS", -3600
    )  # the files of this test may be remembered

    write(tmp_path, [np.arange(3)] * 6)
    del hashed_paths[:]
    integrity._read_states.cache_clear()  # as another process or another rank begins
    open_column(tmp_path, 6)
    assert hashed_paths == []

    path = shard_path(tmp_path, "x", 4)
    path.write_bytes(path.read_bytes())
    open_column(tmp_path, 6)
    assert hashed_paths == [path]


def test_a_shard_of_an_earlier_version_is_refused(tmp_path):
    save_file(
        {"c": np.arange(3), "c_ends": np.array([3])}, shard_path(tmp_path, "x", 0), {"facts": "{}"}
    )
    with pytest.raises(
        IntegrityFault,
        match="by an earlier version of wbdc, without a hash; run `wbdc prepare` again",
    ):
        open_column(tmp_path, 1)


def test_fault_10_a_missing_or_foreign_shard_is_exit_4(tmp_path):
    write(tmp_path, [np.arange(3)] * 6)
    with pytest.raises(IntegrityFault, match="holds 2 videos, not 3"):
        open_column(tmp_path, 7)
    shard_path(tmp_path, "x", 4).unlink()
    with pytest.raises(IntegrityFault, match="x-00001.safetensors cannot be read"):
        open_column(tmp_path, 6)
