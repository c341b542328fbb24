"""Files: complete or absent, whatever happens while they are written. Locks of folders."""

import errno
import fcntl
import json
import os
import resource
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file
from small import ended_process, python

from wbdc.core import files
from wbdc.core.errors import (
    DataFault,
    EnvironmentFault,
    FolderInUse,
    IntegrityFault,
    OutOfResources,
    UsageFault,
    WbdcError,
)
from wbdc.core.integrity import verify_seal

OLD, NEW = b"old" * 1000, b"new" * 2000


@pytest.fixture
def path(tmp_path):
    (tmp_path / "kept.bin").write_bytes(OLD)
    return tmp_path / "kept.bin"


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_publish_replaces_and_makes_folders(tmp_path, path):
    files.publish_bytes(path, NEW)
    files.publish_bytes(tmp_path / "a" / "b" / "c.bin", NEW)
    assert path.read_bytes() == NEW
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == NEW
    assert names(tmp_path) == ["a", "kept.bin"]
    assert names(tmp_path / "a" / "b") == ["c.bin"]


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.ENOENT, "gone")]
)
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(path, error):
    def write(temporary):
        temporary.write_bytes(NEW[:100])
        raise error

    with pytest.raises(type(error)):
        files.publish_file(path, write)
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["kept.bin"]


def test_publish_syncs_the_file_before_the_rename_and_the_folder_after(path, monkeypatch):
    """Fault 6, power loss: an unsynced file may be empty after the rename, an unsynced folder may
    not know the new name.
    """
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        "os.fsync",
        lambda handle: (
            done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"),
            sync(handle),
        ),
    )
    monkeypatch.setattr("os.replace", lambda a, b: (done.append("rename"), replace(a, b)))
    files.publish_bytes(path, NEW)
    assert done == ["file", "rename", "folder"]


KILLED = """
import os, signal, sys
from pathlib import Path
from wbdc.core import files
where, path = sys.argv[1], Path(sys.argv[2])
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
def wrap(call, before):
    def wrapped(*a):
        die() if before else call(*a)
        die()
    return wrapped
def write(temporary):
    with temporary.open("wb") as file:
        file.write(b"new" * 1000); file.flush()
        die() if where == "write" else None
        file.write(b"new" * 1000)
if where == "sync": os.fsync = wrap(os.fsync, True)
if where == "rename": os.replace = wrap(os.replace, True)
if where == "renamed": os.replace = wrap(os.replace, False)
files.publish_file(path, write)
"""


@pytest.mark.parametrize(
    ("moment", "content"), [("write", OLD), ("sync", OLD), ("rename", OLD), ("renamed", NEW)]
)
def test_fault_1_kill_9_leaves_the_old_file_or_the_new_one(path, moment, content):
    assert python(KILLED, moment, path).returncode == -signal.SIGKILL
    assert path.read_bytes() == content
    with files.lock_folder(path.parent):  # the next start sweeps what the killed one left
        assert [n for n in names(path.parent) if n.endswith(".tmp")] == []
    assert files.list_files(path.parent) == [path]


def test_sweep_removes_the_temporaries_of_safetensors_too(tmp_path):
    (tmp_path / "deep").mkdir()
    dead, alive = ended_process(), os.getpid()
    (tmp_path / f".package.{dead}.tmp").mkdir()
    (tmp_path / f".package.{dead}.tmp" / "inner").write_bytes(b"1")
    (tmp_path / f".package.{alive}.tmp").mkdir()
    kept_file = f".z.{alive}.tmp"
    for name in (
        f".x.bin.{dead}.tmp",
        ".tmpA1b2C3",
        f"deep/.y.safetensors.{dead}.tmp",
        "deep/.tmpq",
        "x.bin",
        "deep/y.tmpl",
        kept_file,
    ):
        (tmp_path / name).write_bytes(b"1")
    assert [p.name for p in files.list_files(tmp_path) if p.name != "inner"] == [
        "y.tmpl",
        "x.bin",
    ]
    files.sweep_temporaries(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == sorted(
        [f".package.{alive}.tmp", kept_file, "deep", "x.bin", "y.tmpl"]
    )


def test_publishing_a_file_again_removes_what_a_killed_process_left_of_it(path):
    dead = ended_process()
    remaining, other = (
        path.with_name(f".kept.bin.{dead}.tmp"),
        path.with_name(f".other.bin.{dead}.tmp"),
    )
    remaining.write_bytes(b"half")
    other.write_bytes(b"somebody else's")
    files.publish_bytes(path, NEW)
    assert not remaining.exists()
    assert other.exists()
    assert path.read_bytes() == NEW


WRITERS = {
    "bytes": lambda temporary: temporary.write_bytes(NEW * 10),
    "safetensors": lambda temporary: save_file(
        {"x": np.random.default_rng(0).random(5000)}, temporary
    ),
    "parquet": pl.DataFrame({"x": np.random.default_rng(0).random(5000)}).write_parquet,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_follow_umask(path, writer, umask):
    before = os.umask(umask)
    try:
        files.publish_file(path, WRITERS[writer])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.fixture
def small_disk():
    """No file may grow beyond 4 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("writer", WRITERS)
def test_fault_7_a_full_disk_is_exit_9_and_keeps_the_old_file(path, small_disk, writer):
    """Writers in Rust raise their own errors, which are not OSError."""
    with pytest.raises(
        OutOfResources,
        match=r"kept.bin could not be written: File too large, [\d,]+ bytes are free",
    ):
        files.publish_file(path, WRITERS[writer])
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["kept.bin"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "os.mkdir"])
def test_fault_7_at_any_step(path, monkeypatch, call, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(call, fail)
    with pytest.raises(OutOfResources) as caught:
        files.publish_bytes(path.parent / "new" / "x.bin" if call == "os.mkdir" else path, NEW)
    assert caught.value.code == 9
    assert isinstance(caught.value.__cause__, OSError)
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["kept.bin"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_fault_9_a_read_only_folder_is_exit_7(path, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(
        EnvironmentFault, match="cannot be written: .*choose another path"
    ) as caught:
        files.publish_bytes(path, NEW)
    assert caught.value.code == 7
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["kept.bin"]


@pytest.mark.parametrize(
    "use",
    [
        lambda folder: files.publish_bytes(folder / "x", NEW),
        lambda folder: files.lock_folder(folder).__enter__(),
    ],
)
def test_fault_9_a_folder_that_cannot_be_made_is_exit_7(path, use):
    for folder in (path, path / "deeper"):  # a file stands in its place
        with pytest.raises(EnvironmentFault, match="cannot be written: "):
            use(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_fault_9_chmod(path):
    path.parent.chmod(0o500)
    try:
        for use in (
            lambda: files.publish_bytes(path, NEW),
            lambda: files.lock_folder(path.parent).__enter__(),
        ):
            with pytest.raises(EnvironmentFault):
                use()
    finally:
        path.parent.chmod(0o700)
    assert path.read_bytes() == OLD


def test_equal_values_give_equal_bytes(tmp_path):
    files.publish_json(tmp_path / "a.json", {"b": 1, "a": ["字", None]})
    files.publish_json(tmp_path / "b.json", {"a": ["字", None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert files.read_json(tmp_path / "a.json") == {"a": ["字", None], "b": 1}
    assert (
        files.json_digest({"b": 1, "a": 2})
        == files.json_digest({"a": 2, "b": 1})
        != files.json_digest({"a": 2, "b": 2})
    )


def test_names_that_are_not_utf8_can_be_written_and_hashed(tmp_path):
    name = os.fsdecode(b"\xff\xe5.zip")
    files.publish_json(tmp_path / "a.json", {"name": name})
    assert files.read_json(tmp_path / "a.json") == {"name": name}
    assert files.json_digest(name) != files.json_digest(name[1:])


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"a": "\xff"}'])
def test_fault_10_a_damaged_json_file_is_exit_4(tmp_path, content):
    if content is not None:
        (tmp_path / "facts.json").write_bytes(content)
    with pytest.raises(IntegrityFault, match="facts.json is (missing|damaged)") as caught:
        files.read_json(tmp_path / "facts.json")
    assert caught.value.code == 4


@pytest.fixture
def sealed(tmp_path):
    for name in ("a.bin", "b/c.bin", "b/d.bin"):
        files.publish_bytes(tmp_path / name, name.encode())
    assert files.sealed_facts(tmp_path) is None
    files.seal_folder(tmp_path, {"rows": 3})
    return tmp_path


def test_a_seal_stores_facts_and_hashes(sealed):
    facts = verify_seal(sealed)
    assert facts == files.sealed_facts(sealed)
    assert facts["rows"] == 3
    assert list(facts["files"]) == ["a.bin", "b/c.bin", "b/d.bin"]


@pytest.mark.parametrize(
    "change",
    [lambda p: p.write_bytes(b"b/x.bin"), lambda p: p.unlink(), lambda p: p.write_bytes(b"")],
)
def test_a_seal_names_the_files_that_changed(sealed, change):
    change(sealed / "b" / "c.bin")
    with pytest.raises(
        IntegrityFault,
        match=r"1 files differ from what was written: b/c.bin; "
        "delete .* and run the command that made it again",
    ):
        verify_seal(sealed)


def test_a_seal_is_written_last(tmp_path, monkeypatch):
    (tmp_path / "a.bin").write_bytes(b"a")
    monkeypatch.setattr(
        files, "file_sha256", lambda path: (_ for _ in ()).throw(OSError(errno.EIO, "broken disk"))
    )
    with pytest.raises(OSError, match="broken disk"):
        files.seal_folder(tmp_path, {})
    assert files.sealed_facts(tmp_path) is None


HOLDER = """
import sys, time
from pathlib import Path
from wbdc.core.files import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    with python(HOLDER, tmp_path, start=subprocess.Popen, stdin=subprocess.PIPE) as child:
        assert child.stdout.readline() == "held\n"
        yield child
        child.kill()


def test_fault_31_a_locked_folder_is_exit_8_at_once_and_names_the_holder(tmp_path, holder):
    start = time.perf_counter()
    message = f"in use by process {holder.pid};"
    with pytest.raises(FolderInUse, match=message) as caught, files.lock_folder(tmp_path):
        pass
    assert caught.value.code == 8
    assert time.perf_counter() - start < 1


def test_fault_31_the_lock_of_a_killed_process_is_released(tmp_path, holder):
    remaining = tmp_path / f".x.{ended_process()}.tmp"
    remaining.write_bytes(b"half")
    holder.kill()
    holder.wait()
    with files.lock_folder(tmp_path):
        assert not remaining.exists()


def test_fault_31_one_of_many_processes_gets_the_lock(tmp_path):
    won, lost, gate, leave = [], [], threading.Barrier(8), threading.Event()

    def race():
        gate.wait()
        try:
            with files.lock_folder(tmp_path):
                won.append(1)
                leave.wait(10)
        except FolderInUse:
            lost.append(1)
            leave.set() if len(lost) == 7 else None

    racers = [threading.Thread(target=race) for _ in range(8)]
    [r.start() for r in racers]
    [r.join() for r in racers]
    assert len(won) == 1
    assert len(lost) == 7
    with files.lock_folder(tmp_path):
        pass


def test_a_failing_holder_releases_its_lock(tmp_path):
    with pytest.raises(ValueError, match="a failure"), files.lock_folder(tmp_path):
        raise ValueError("a failure")
    with files.lock_folder(tmp_path):
        pass


def test_lines_are_appended_to_a_log(tmp_path):
    for step in range(3):
        files.append_line(tmp_path / "log.jsonl", json.dumps({"step": step}))
    assert [
        json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()
    ] == [0, 1, 2]


def test_a_waiting_process_gets_the_lock(tmp_path):
    """Two folds that start together need the same view."""
    turns = []

    def second():
        with files.lock_folder(tmp_path, wait=True):
            turns.append("second")

    with files.lock_folder(tmp_path):
        waiter = threading.Thread(target=second)
        waiter.start()
        time.sleep(0.05)
        turns.append("first")
    waiter.join(10)
    assert turns == ["first", "second"]


LONG = "x" * 300


@pytest.mark.parametrize(
    ("name", "fault", "message"),
    [
        (".", UsageFault, "is a folder; name a file"),
        ("pipe", UsageFault, "is not a regular file"),
        ("kept.bin/result.csv", EnvironmentFault, "Not a directory"),
        ("kept.bin/deeper/result.csv", EnvironmentFault, "Not a directory"),
        ("loop/result.csv", EnvironmentFault, "symbolic links"),
        (LONG, EnvironmentFault, "name too long"),
        (f"{LONG}/result.csv", EnvironmentFault, "name too long"),
        ("y" * 250, EnvironmentFault, "name too long"),  # only that of its temporary is
        ("/proc/nowhere/result.csv", EnvironmentFault, "cannot be written"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(path, name, fault, message):
    os.mkfifo(path.parent / "pipe")
    (path.parent / "loop").symlink_to("loop")
    before = names(path.parent)
    with pytest.raises(fault, match=message):
        files.check_output(path.parent / name)
    assert names(path.parent) == before


def test_an_output_that_can_be_written_leaves_no_trace_of_the_check(path):
    for good in (path, path.parent / "new.csv", path.parent / "new" / "deep" / "result.csv"):
        files.check_output(good)
    assert names(path.parent) == ["kept.bin"]


@pytest.mark.parametrize(
    ("folder", "message"),
    [("kept.bin", "Not a directory"), ("loop", "symbolic links"), (LONG, "name too long")],
)
def test_fault_9_a_folder_that_nobody_can_write_in_is_refused_before_any_work(
    path, folder, message
):
    (path.parent / "loop").symlink_to("loop")
    with pytest.raises(EnvironmentFault, match=message):
        files.check_writable(path.parent / folder / "work")


@pytest.mark.parametrize("number", [errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP])
def test_errors_of_the_system_become_one_sentence(number):
    explained = files.explain_os_error(OSError(number, os.strerror(number), "there"))
    assert explained.code == 7
    assert str(explained) == f"there cannot be used: {os.strerror(number)}; choose another path"
    assert files.explain_os_error(OSError(errno.ENOMEM, "")).code == 9
    assert files.explain_os_error(OSError(errno.EPIPE, "")) is None


def test_publishing_over_a_folder_is_exit_7(path):
    (path.parent / "folder").mkdir()
    with pytest.raises(EnvironmentFault, match="folder cannot be written: Is a directory"):
        files.publish_bytes(path.parent / "folder", NEW)


OUTPUT_HOLDER = """
import sys, time
from pathlib import Path
from wbdc.core import files
with files.lock_output(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_fault_31_an_output_is_made_by_one_process_at_a_time(path):
    process = python(OUTPUT_HOLDER, path, start=subprocess.Popen)
    try:
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(
                FolderInUse, match=f"kept.bin is being written by process {process.pid}; wait"
            ),
            files.lock_output(path),
        ):
            pass
    finally:
        process.kill()
        process.communicate()
    with files.lock_output(path):  # a killed holder holds nothing
        assert names(path.parent) == [".kept.bin.lock", "kept.bin"]
        with pytest.raises(FolderInUse), files.lock_output(path):
            pass
    assert names(path.parent) == ["kept.bin"]


def test_fault_31_a_lock_that_is_removed_while_others_wait_for_it_keeps_them_apart(path):
    """A process that opens the lock file just before its removal must not lock the removed file."""
    inside, counts_inside, done = [], [], []

    def race():
        while len(done) < 200:
            try:
                with files.lock_output(path):
                    inside.append(1)
                    counts_inside.append(len(inside))
                    done.append(1)
                    inside.pop()
            except FolderInUse:
                pass

    runners = [threading.Thread(target=race) for _ in range(4)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(20)
    assert max(counts_inside) == 1
    assert names(path.parent) == ["kept.bin"]


def test_fault_31_a_lock_file_that_was_removed_before_it_was_locked_is_no_lock(path, monkeypatch):
    flock, lock, calls = fcntl.flock, path.parent / ".kept.bin.lock", []

    def remove_then_lock(handle, operation):
        calls.append(operation)
        if len(calls) == 1:
            lock.unlink()
        return flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", remove_then_lock)
    with files.lock_output(path), pytest.raises(FolderInUse), files.lock_output(path):
        pass


def test_fault_31_a_lock_file_is_removed_while_it_is_locked(path, monkeypatch):
    close, lock, lock_exists = os.close, path.parent / ".kept.bin.lock", []
    with files.lock_output(path):
        monkeypatch.setattr(
            os, "close", lambda handle: (lock_exists.append(lock.exists()), close(handle))
        )
    monkeypatch.undo()
    assert lock_exists == [False], "whoever locks it after it was let go would lose it"


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOLCK, None), (errno.EOPNOTSUPP, None), (errno.EIO, 9), (errno.EACCES, 7)],
)
def test_a_file_system_without_locks_works_and_other_errors_are_raised(
    path, monkeypatch, number, code
):
    def fail(handle, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    if code is None:
        with files.lock_output(path):
            pass
    else:
        with pytest.raises(WbdcError, match="kept.bin") as caught, files.lock_output(path):
            pass
        assert caught.value.code == code


@pytest.fixture
def deadline():
    """End a test that hangs."""

    def ring(*_):
        raise TimeoutError("it waits for a writer that never comes")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_a_pipe_in_the_place_of_a_file_is_refused_and_does_not_hang(tmp_path, deadline):
    from wbdc.competitions import Source
    from wbdc.competitions.formats.json_stream import read_records
    from wbdc.core.findings import Findings
    from wbdc.core.weights import describe_weights
    from wbdc.data.archive import member_checksums, read_features, read_images
    from wbdc.data.store import ShardFile
    from wbdc.serve.entry import _read_sample

    for name in ("x.json", "x.zip", "x.mp4", "DONE.json"):
        os.mkfifo(tmp_path / name)
    result = Findings()
    with pytest.raises(DataFault, match="x.json cannot be read: not a regular file"):
        list(read_records(tmp_path / "x.json", result))
    assert read_images(Source(tmp_path / "x.zip"), 8, result) == []
    assert len(read_features(Source(tmp_path / "x.zip", "a.npy"), 8, result)) == 0
    assert result.report()["archive.broken"]["count"] == 2
    for read, fault in (
        (files.file_sha256, OSError),
        (member_checksums, OSError),
        (lambda p: describe_weights("x", p), OSError),
        (ShardFile, IntegrityFault),
        (_read_sample, UsageFault),
    ):
        with pytest.raises(fault, match="not a regular file"):
            read(tmp_path / "x.zip")
    with pytest.raises(IntegrityFault, match="x.json cannot be read: not a regular file"):
        files.read_json(tmp_path / "x.json")
    assert files.sealed_facts(tmp_path) is None


def test_a_folder_or_a_device_is_not_a_regular_file(tmp_path):
    for path, message in ((tmp_path, "Is a directory"), (Path("/dev/null"), "not a regular file")):
        with pytest.raises(OSError, match=message):
            files.open_regular(path)
