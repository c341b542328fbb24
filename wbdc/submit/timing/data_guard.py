"""Detect changes of the data folder while a packed folder runs: the judge mounts it read-only."""

import contextlib
import os
import stat
from pathlib import Path

from wbdc.core.errors import IntegrityFault

MAX_NAMED_FILES = 5  # paths in an error message

Snapshot = dict[str, tuple[int, int, int]]  # path -> mode, bytes, nanoseconds of the last change


def data_snapshot(root: Path) -> Snapshot:
    """Record mode, size and modification time of a folder and everything below it.

    A folder's own time also reveals a file that was written and removed again.
    """
    snapshot = {".": _entry(os.stat(root))}
    for parent, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            with contextlib.suppress(FileNotFoundError):
                snapshot[os.path.relpath(path, root)] = _entry(os.lstat(path))
    return snapshot


def snapshot_differences(before: Snapshot, after: Snapshot) -> list[str]:
    """List what is new, removed or changed between two snapshots."""
    differences = []
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) == after.get(path):
            continue
        change = "removed" if path not in after else "changed" if path in before else "new"
        differences.append(f"{path} ({change})")
    return differences


def check_data_unchanged(root: Path, before: Snapshot) -> None:
    """Compare the data with an earlier snapshot. Raises IntegrityFault when they differ."""
    differences = snapshot_differences(before, data_snapshot(root))
    if differences:
        named = ", ".join(differences[:MAX_NAMED_FILES])
        raise IntegrityFault(
            f"{root} changed while the packed folder ran, {len(differences)} differences: {named}; "
            "the judge's data folder is read-only, so write to a temporary folder instead"
        )


def _entry(status: os.stat_result) -> tuple[int, int, int]:
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return status.st_mode, size, status.st_mtime_ns
