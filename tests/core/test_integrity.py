"""Sealed files are verified when they are read, and again after a change or with `--verify`."""

import errno
import os
import time

import pytest

from wbdc.core import files, integrity, user_cache
from wbdc.core.errors import IntegrityFault
from wbdc.core.integrity import has_hash, verify_seal


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(integrity, "FRESH_SECONDS", -3600)  # files of this test may be remembered
    integrity.hash_always(False)
    return tmp_path / "cache" / "wbdc" / "hashed"


@pytest.fixture
def folder(tmp_path):
    files.publish_bytes(tmp_path / "run" / "a.bin", b"abc")
    files.seal_folder(tmp_path / "run", {"command": "wbdc train --kit k --fold 0"})
    return tmp_path / "run"


@pytest.fixture
def hashed(monkeypatch):
    names = []
    sha256 = files.file_sha256
    monkeypatch.setattr(
        integrity, "file_sha256", lambda path: (names.append(path.name), sha256(path))[1]
    )
    monkeypatch.setattr(has_hash, "__defaults__", (lambda path: integrity.file_sha256(path),))
    return names


def forget():
    """What another process remembers: only the cache file."""
    integrity._read_states.cache_clear()


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_an_unchanged_file_is_hashed_once(cache, folder, hashed):
    for _ in range(3):
        forget()
        verify_seal(folder)
    assert hashed == ["a.bin"]
    integrity.hash_always()
    verify_seal(folder)
    integrity.hash_always(False)
    assert hashed == ["a.bin", "a.bin"]


def test_fault_10_a_changed_byte_is_noticed_although_the_times_were_put_back(cache, folder):
    before = (folder / "a.bin").stat()
    verify_seal(folder)
    flip(folder / "a.bin")
    os.utime(folder / "a.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    message = (
        "1 files differ from what was written: a.bin; "
        "delete .*run `wbdc train --kit k --fold 0` again"
    )
    with pytest.raises(IntegrityFault, match=message):
        verify_seal(folder)


def test_a_file_that_was_just_written_is_not_remembered(cache, folder, hashed, monkeypatch):
    monkeypatch.setattr(integrity, "FRESH_SECONDS", 2)
    monkeypatch.setattr(time, "time", lambda: (folder / "a.bin").stat().st_mtime + 1)
    verify_seal(folder)
    verify_seal(folder)
    assert hashed == ["a.bin", "a.bin"]
    assert not cache.exists()


def test_a_file_is_remembered_with_its_hash(cache, folder):
    """The seal of another file in its place, or a damaged seal, is not what was compared."""
    verify_seal(folder)
    facts = files.read_seal(folder)
    files.publish_json(folder / files.SEAL_FILE, facts | {"files": {"a.bin": "0" * 64}})
    with pytest.raises(IntegrityFault, match="a.bin"):
        verify_seal(folder)


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(cache, folder):
    path, expected = folder / "a.bin", files.file_sha256(folder / "a.bin")

    def hash_slowly(path):
        before = files.file_sha256(path)
        flip(path)
        return before

    has_hash(path, expected, hash_slowly)
    assert not cache.exists()
    assert not has_hash(path, expected)


@pytest.mark.parametrize("kind", ["folder", "pipe", "below a file"])
def test_a_path_that_is_not_a_file_is_damaged(cache, folder, kind):
    path = folder / "a.bin"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"abc")
        path = path / "b.bin"
    assert not has_hash(path, "0" * 64)


def test_a_file_that_cannot_be_read_is_exit_4(cache, folder):
    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(IntegrityFault, match="a.bin cannot be read: Input/output error"):
        has_hash(folder / "a.bin", "0" * 64, fail)


def test_a_large_cache_is_deleted(cache, folder, hashed, monkeypatch):
    monkeypatch.setattr(user_cache, "MAX_CACHE_BYTES", 100)
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"x\n" * 51)
    verify_seal(folder)
    assert cache.stat().st_size == 65
    forget()
    verify_seal(folder)
    assert hashed == ["a.bin"]


@pytest.mark.parametrize("damage", ["missing", "garbage", "cut", "a folder", "no folder for it"])
def test_a_damaged_cache_only_costs_another_hash(cache, folder, hashed, damage):
    verify_seal(folder)
    whole = cache.read_bytes()
    cache.unlink()
    if damage == "garbage":
        cache.write_bytes(b"\xff\0" * 100)
    if damage == "cut":
        cache.write_bytes(whole[:-9])
    if damage == "a folder":
        cache.mkdir()
    if damage == "no folder for it":
        cache.parent.rmdir()
        cache.parent.write_bytes(b"")
    forget()
    verify_seal(folder)
    assert hashed == ["a.bin", "a.bin"]
    flip(folder / "a.bin")
    with pytest.raises(IntegrityFault):
        verify_seal(folder)


def test_without_a_home_nothing_is_written(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(integrity, "FRESH_SECONDS", -3600)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    verify_seal(folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_a_file_that_the_seal_does_not_list_is_not_trusted(cache, folder):
    files.publish_bytes(folder / "more.bin", b"x")
    verify_seal(folder)
    with pytest.raises(IntegrityFault, match="more.bin"):
        verify_seal(folder, ("more.bin",))


def test_tests_do_not_write_to_the_cache_of_the_user(tmp_path_factory):
    assert user_cache.cache_file(integrity.HASHES_FILE).is_relative_to(
        tmp_path_factory.getbasetemp()
    )
