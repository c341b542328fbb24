"""Changes of the data folder are detected, also when modification times are restored."""

import os

import pytest

from wbdc.core.errors import IntegrityFault
from wbdc.submit.timing.data_guard import check_data_unchanged, data_snapshot


def restore_times(path, change):
    """Change a file and restore its times."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "a size, times restored": (
        lambda root: restore_times(root / "a/x", lambda path: path.write_bytes(b"12")),
        "a/x (changed)",
    ),
    "a mode": (lambda root: (root / "a/x").chmod(0o600), "a/x (changed)"),
    "a time": (lambda root: os.utime(root / "a/x", (1, 1)), "a/x (changed)"),
    "a file removed": (
        lambda root: restore_times(root / "a", lambda path: (path / "x").unlink()),
        "a/x (removed)",
    ),
    "an empty folder": (
        lambda root: restore_times(root / "a", lambda path: (path / "new").mkdir()),
        "a/new (new)",
    ),
    "a file that came and went": (
        lambda root: ((root / "y").touch(), (root / "y").unlink()),
        ". (changed)",
    ),
    "a link": (
        lambda root: restore_times(root / "a", lambda path: (path / "y").symlink_to("x")),
        "a/y (new)",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_changes_are_named(tmp_path, kind):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_bytes(b"1")
    (tmp_path / "a/x").chmod(0o644)
    for path in (tmp_path / "a/x", tmp_path / "a", tmp_path):
        os.utime(path, (10**9, 10**9))
    before = data_snapshot(tmp_path)
    check_data_unchanged(tmp_path, before)

    change, named = CHANGES[kind]
    change(tmp_path)
    with pytest.raises(IntegrityFault) as caught:
        check_data_unchanged(tmp_path, before)
    assert f"1 differences: {named}; the judge's data folder is read-only" in str(caught.value)
