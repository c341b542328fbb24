"""A folder is replaced in one step, killed anywhere; names of folders lead nowhere else."""

import os
import signal

import pytest
from small import python

from wbdc.core import folders
from wbdc.core.errors import UsageFault

KILLED = """
import os, signal, shutil, sys
from pathlib import Path
from wbdc.core import folders
step, can_exchange, new, old = int(sys.argv[1]), sys.argv[2] == "True", Path(sys.argv[3]), Path(sys.argv[4])
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
folders._exchange = killed(folders._exchange) if can_exchange else lambda one, other: False
folders.replace_folder(new, old)
"""


@pytest.fixture
def pair(tmp_path):
    for name in ("new", "pack"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    return tmp_path / "new", tmp_path / "pack"


@pytest.mark.parametrize("can_exchange, step, content", [(True, 0, "pack"), (True, 1, "new"), (False, 0, "pack"), (False, 1, "pack"), (False, 2, "new")])
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
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    folders.replace_folder(new, old)
    assert (old / "content").read_text() == "new" and [p.name for p in old.parent.iterdir()] == ["pack"]


def test_a_second_rename_that_fails_brings_the_old_folder_back(pair, monkeypatch):
    new, old = pair
    monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda a, b: (_ for _ in ()).throw(OSError("no")) if a == new else rename(a, b))
    with pytest.raises(OSError, match="no"):
        folders.replace_folder(new, old)
    assert (old / "content").read_text() == "pack" and (new / "content").read_text() == "new"


@pytest.mark.parametrize("name", ["", ".", "..", "../../x", "/tmp/x", "a/b", ".hidden", "a\0b"])
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(UsageFault, match="--name .* is not a name"):
        folders.check_name(name, "--name")
    assert folders.check_name("two.1 字", "--name") == "two.1 字"
