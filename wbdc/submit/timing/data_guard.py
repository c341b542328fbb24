"""The data stay as they are while a packed folder runs: the judge mounts them read-only."""

import contextlib
import os
from pathlib import Path

from wbdc.core.errors import IntegrityBroken

MAX_NAMED_FILES = 5  # paths in a sentence

State = dict[str, tuple[int, int, int]]


def data_snapshot(root: Path) -> State:
    """List all below a folder, itself included: mode, bytes and time of the last change of each.

    A folder's time also tells of a file that was written and removed again.
    """
    state = {".": _state(os.stat(root))}
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            with contextlib.suppress(FileNotFoundError):
                state[os.path.relpath(path, root)] = _state(os.lstat(path))
    return state


def snapshot_differences(before: State, after: State) -> list[str]:
    """Name what was written, removed or changed between two snapshots."""
    paths = sorted(before.keys() | after.keys())
    return [
        f"{path} ({'removed' if path not in after else 'changed' if path in before else 'new'})"
        for path in paths
        if before.get(path) != after.get(path)
    ]


def check_data_unchanged(root: Path, before: State) -> None:
    """Compare the data with an earlier snapshot. Raises IntegrityBroken when they differ."""
    if changes := snapshot_differences(before, data_snapshot(root)):
        raise IntegrityBroken(
            f"{root} is not what it was before the packed folder ran, {len(changes)} differences: {', '.join(changes[:MAX_NAMED_FILES])}; "
            "the judge's data are read-only, so the package must write nothing there"
        )


def _state(stat: os.stat_result) -> tuple[int, int, int]:
    size = 0 if (stat.st_mode & 0o170000) == 0o040000 else stat.st_size
    return stat.st_mode, size, stat.st_mtime_ns
