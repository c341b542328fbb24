"""Folders are replaced in one step, also when the process is killed; remains of killed commands are
removed; names cannot be paths.
"""

import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
from small import ended_process, python

from wbdc.core import files, folders
from wbdc.core.errors import UsageFault

KILLED = """
import os, signal, shutil, sys
from pathlib import Path
from wbdc.core import folders
step, can_exchange = int(sys.argv[1]), sys.argv[2] == "True"
new, old = Path(sys.argv[3]), Path(sys.argv[4])
new = new.rename(new.with_name(f".pack.{os.getpid()}.tmp"))
done = 0
def killed(call):
    def wrapped(*a, **k):
        global done
        if done == step: os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return call(*a, **k)
    return wrapped
os.rename, shutil.rmtree = killed(os.rename), killed(shutil.rmtree)
exchange = killed(folders._exchange_paths)
folders._exchange_paths = exchange if can_exchange else lambda one, other: False
folders.replace_folder(new, old)
"""


@pytest.fixture
def pair(tmp_path):
    for name in ("new", "pack"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    return tmp_path / "new", tmp_path / "pack"


@pytest.mark.parametrize(
    ("can_exchange", "step", "content"),
    [
        (True, 0, "pack"),
        (True, 1, "new"),
        (False, 0, "pack"),
        (False, 1, "pack"),
        (False, 2, "new"),
    ],
)
def test_fault_2_kill_9_while_a_folder_is_replaced_loses_nothing(pair, can_exchange, step, content):
    new, old = pair
    assert python(KILLED, step, can_exchange, new, old).returncode == -signal.SIGKILL
    if can_exchange:
        assert (old / "content").read_text() == content, "never absent"
    folders.recover_folder(old)
    assert (old / "content").read_text() == content
    assert [p.name for p in old.parent.iterdir()] == ["pack"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_and_the_old_one_goes(pair, monkeypatch, can_exchange):
    new, old = pair
    if not can_exchange:
        monkeypatch.setattr(folders, "_exchange_paths", lambda one, other: False)
    folders.replace_folder(new, old)
    assert (old / "content").read_text() == "new"
    assert [p.name for p in old.parent.iterdir()] == ["pack"]


def test_a_second_rename_that_fails_brings_the_old_folder_back(pair, monkeypatch):
    new, old = pair
    monkeypatch.setattr(folders, "_exchange_paths", lambda one, other: False)
    rename = os.rename
    monkeypatch.setattr(
        os,
        "rename",
        lambda a, b: (_ for _ in ()).throw(OSError("no")) if a == new else rename(a, b),
    )
    with pytest.raises(OSError, match="no"):
        folders.replace_folder(new, old)
    assert (old / "content").read_text() == "pack"
    assert (new / "content").read_text() == "new"


@pytest.mark.parametrize("name", ["", ".", "..", "../../x", "/tmp/x", "a/b", ".hidden", "a\0b"])
def test_a_name_with_a_path_is_refused(name):
    with pytest.raises(UsageFault, match="--name .* is not a valid name"):
        folders.check_name(name, "--name")
    assert folders.check_name("two.1 字", "--name") == "two.1 字"


PUBLISHER = """
import os, signal, sys
from pathlib import Path
from wbdc.core.files import lock_output, publish_bytes
from wbdc.core.folders import publish_folder
path = Path(sys.argv[1])
with lock_output(path), publish_folder(path) as temporary:
    publish_bytes(temporary / "content", b"new")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _write_and_fail(folder: Path) -> None:
    files.publish_bytes(folder / "content", b"new")
    folder.mkdir()  # exists


def test_a_folder_is_published_completely_or_not_at_all(tmp_path):
    path = tmp_path / "pack"
    with folders.publish_folder(path) as temporary:
        files.publish_bytes(temporary / "content", b"old")
    with pytest.raises(FileExistsError), folders.publish_folder(path) as temporary:
        _write_and_fail(temporary)
    assert (path / "content").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_sweep_removes_the_remains_of_a_killed_ensemble(tmp_path):
    work, path = tmp_path / "work", tmp_path / "work" / "ensembles" / "two"
    assert python(PUBLISHER, path).returncode == -signal.SIGKILL
    assert len(list(path.parent.iterdir())) == 2, "its lock and its temporary folder"
    folders.sweep_work(work)
    assert list(work.iterdir()) == []

    for empty in ("ensembles/three", "ensembles/four", "runs/kit-1/fold-0", "prepared/1a2b/frames"):
        (work / empty).mkdir(parents=True)
    (work / "ensembles/four" / f".ensemble.json.{ended_process()}.tmp").write_text("{")
    (work / "runs/kit-1/run.json").write_text("{}")
    for lock in (
        "runs/kit-1/fold-0/.lock",
        "runs/kit-1/fold-0/.holder.lock",
        "prepared/1a2b/.lock",
    ):
        (work / lock).touch()
    folders.sweep_work(work)
    assert list(work.iterdir()) == []


def test_a_sweep_leaves_folders_with_content_or_a_lock(tmp_path):
    kept_folder = [
        "ensembles/one/blend.json",
        f"ensembles/.three.{os.getpid()}.tmp/blend.json",
        "prepared/1a2b/frames/labeled-00000.safetensors",
        "runs/kit-1/fold-0/state.json",
        "runs/kit-1/run.json",
        f"runs/kit-2/fold-0/.state-1.safetensors.{os.getpid()}.tmp",
        "runs/kit-3/notes.txt",
    ]
    for name in kept_folder:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "ensembles" / "two").mkdir()

    with (
        files.lock_output(tmp_path / "ensembles" / "two"),
        files.lock_folder(tmp_path / "runs/kit-4/fold-1"),
        files.lock_folder(tmp_path / "prepared/3c4d"),
    ):
        folders.sweep_work(tmp_path)
        for folder in ("ensembles/two", "runs/kit-4/fold-1", "prepared/3c4d"):
            assert (tmp_path / folder).is_dir(), "a live process holds it"
        assert all((tmp_path / name).is_file() for name in kept_folder)

    folders.sweep_work(tmp_path)
    assert sorted(
        str(p.relative_to(tmp_path))
        for p in tmp_path.rglob("*")
        if p.is_file() and not p.name.endswith(".lock")
    ) == sorted(kept_folder)
    assert not any(
        (tmp_path / folder).exists() for folder in ("ensembles/two", "runs/kit-4", "prepared/3c4d")
    )


def test_an_ensemble_that_was_moved_aside_when_its_process_was_killed_comes_back(tmp_path):
    aside = tmp_path / "ensembles" / f".two.{ended_process()}.old.tmp"
    aside.mkdir(parents=True)
    (aside / "blend.json").write_text("{}")
    folders.sweep_work(tmp_path)
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == [
        "ensembles",
        "ensembles/two",
        "ensembles/two/blend.json",
    ]


@pytest.mark.parametrize("hold", [files.lock_folder, files.lock_output])
def test_processes_that_begin_while_others_sweep_keep_their_folder(tmp_path, hold):
    """A sweep may remove a folder after another process has made it and before it locks it."""
    failures, ended = [], threading.Event()

    def work():
        for number in range(30):
            folder = (
                tmp_path / "ensembles" / "two"
                if hold is files.lock_output
                else tmp_path / f"runs/kit-{number}/fold-0"
            )
            try:
                with hold(folder):
                    files.publish_bytes(folder / "content", b"x")
                    if hold is files.lock_output:
                        shutil.rmtree(folder)
            except Exception as error:
                failures.append(error)
        ended.set()

    def sweep():
        while not ended.is_set():
            folders.sweep_work(tmp_path)

    threads = [threading.Thread(target=target) for target in (work, sweep)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert not failures
    assert hold is files.lock_output or len(list(tmp_path.glob("runs/*/fold-0/content"))) == 30


@pytest.mark.parametrize("hold", [files.lock_folder, files.lock_output])
def test_a_folder_that_a_sweep_removes_before_it_is_locked_is_made_again(
    tmp_path, monkeypatch, hold
):
    path, mkdir, removed = tmp_path / "runs" / "one", Path.mkdir, []
    folder = path if hold is files.lock_folder else path.parent

    def make_and_remove(self, *values, **options):
        mkdir(self, *values, **options)
        if self == folder and not removed:
            removed.append(self)
            self.rmdir()

    monkeypatch.setattr(Path, "mkdir", make_and_remove)
    with hold(path):
        assert removed
        assert folder.is_dir()


def test_a_read_only_work_folder_is_left_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "ensembles" / "two").mkdir(parents=True)
    monkeypatch.setattr(
        os, "open", lambda *a, **k: (_ for _ in ()).throw(PermissionError(13, "no"))
    )
    monkeypatch.setattr(
        os, "rmdir", lambda *a, **k: (_ for _ in ()).throw(PermissionError(13, "no"))
    )
    folders.sweep_work(tmp_path)
    assert (tmp_path / "ensembles" / "two").is_dir()
