"""The CPUs that this process may use: those of its affinity, limited by the quota of its container.

A container with 64 visible CPUs and a quota of 2 gets 2 CPUs' worth of time. With 64 threads it
would use up that time at once, and then wait for the next period.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wbdc.core.files import read_text

PROC_SELF = Path("/proc/self")
QUOTA_FILE = "cpu.max"  # of cgroups v2: "200000 100000", or "max 100000" without a limit
# of cgroups v1; a quota of -1 is no limit
OLD_QUOTA_FILE = "cpu.cfs_quota_us"
OLD_PERIOD_FILE = "cpu.cfs_period_us"
NO_QUOTA = ("max", "-1")


class CpuQuota(NamedTuple):
    """CPUs' worth of time that a control group may use, and the file that limits it."""

    cpus: float
    file: Path


class Mount(NamedTuple):
    """A mounted hierarchy of control groups. root: the group that is visible at its folder."""

    folder: Path
    root: str
    version: int


def available_cpus(process: Path = PROC_SELF) -> int:
    """Return how many threads this process can run at the same time, at least 1.

    process: its folder below /proc. Of a quota of 2.5 CPUs, 2 are used: a third thread would stop
    all three for a part of each period.
    """
    visible = len(os.sched_getaffinity(0))
    quota = read_quota(process)
    return max(1, min(visible, int(quota.cpus))) if quota else visible


def explain_quota(process: Path = PROC_SELF) -> str:
    """Explain the default number of threads where a quota limits it; "" elsewhere."""
    visible = len(os.sched_getaffinity(0))
    quota = read_quota(process)
    if quota is None or quota.cpus >= visible:
        return ""
    return (
        f"uses {available_cpus(process)} of {visible} visible CPUs, because {quota.file} limits "
        f"this container to the time of {quota.cpus:g}; --threads changes the number of threads"
    )


def read_quota(process: Path = PROC_SELF) -> CpuQuota | None:
    """Return the tightest CPU quota of the control groups of a process, of cgroups v2 or v1; None
    without one.

    process: its folder below /proc, whose files name its groups and where they are mounted.
    """
    groups = dict(_list_groups(process / "cgroup"))
    quotas = [
        quota
        for mount in _list_mounts(process / "mountinfo")
        if mount.version in groups
        for folder in _group_folders(mount, groups[mount.version])
        if (quota := _quota_of_group(folder, mount.version))
    ]
    return min(quotas, default=None)


def _list_groups(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the version of each hierarchy that may limit CPUs, and the path of the group in it."""
    for line in _read_lines(file):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            yield 2, path
        elif "cpu" in controllers.split(","):
            yield 1, path


def _list_mounts(file: Path) -> Iterator[Mount]:
    """Yield the mounts of control groups that may limit CPUs; proc(5) describes the file."""
    for line in _read_lines(file):
        mounted, _, kind = line.partition(" - ")
        root, folder = map(_unescape, mounted.split()[3:5])
        kind_name, *_, options = kind.split()
        if kind_name == "cgroup2":
            yield Mount(Path(folder), root, 2)
        elif kind_name == "cgroup" and "cpu" in options.split(","):
            yield Mount(Path(folder), root, 1)


def _unescape(text: str) -> str:
    r"""Decode the spaces and other characters that the kernel writes as \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _group_folders(mount: Mount, group: str) -> Iterator[Path]:
    """Yield the folders of a group and of those above it: each of them limits the process.

    A container may see its own group at the root of the mount, whatever the group's path is.
    """
    is_inside = Path(group).is_relative_to(mount.root) and ".." not in Path(group).parts
    folder = mount.folder / Path(group).relative_to(mount.root) if is_inside else mount.folder
    yield from (path for path in (folder, *folder.parents) if path.is_relative_to(mount.folder))


def _quota_of_group(folder: Path, version: int) -> CpuQuota | None:
    """Return the quota of one control group; None without a limit."""
    file = folder / (QUOTA_FILE if version == 2 else OLD_QUOTA_FILE)
    words = " ".join(_read_lines(file)).split()
    if version == 1:
        words += _read_lines(folder / OLD_PERIOD_FILE)
    if len(words) != 2 or words[0] in NO_QUOTA:
        return None
    return CpuQuota(int(words[0]) / int(words[1]), file)


def _read_lines(file: Path) -> list[str]:
    """Return the lines of a file of the kernel; none where it is missing or must not be read."""
    try:
        return read_text(file).splitlines()
    except OSError:
        return []
