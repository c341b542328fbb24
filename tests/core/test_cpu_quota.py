"""CPU quotas of containers, in made-up folders of control groups."""

import os
from pathlib import Path

import pytest

from wbdc.core.cpu_quota import available_cpus, explain_quota, read_quota

V2 = "30 25 0:26 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 30 0:29 {root} {mount} rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
OTHER = "34 30 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


@pytest.fixture(autouse=True)
def _sixty_four_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))


def make_process(home: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """Write a process's folder and its control groups, and return the former.

    files: content by path below the mount, which is `home`/cgroup folder.
    """
    process, mount = home / "self", home / "cgroup folder"
    process.mkdir()
    (process / "cgroup").write_text(groups)
    escaped = str(mount).replace(" ", "\\040")  # as the kernel does
    (process / "mountinfo").write_text(OTHER + mounts.replace("{mount}", escaped))
    for name, content in files.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(content)
    return process


def v1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{folder}cpu.cfs_quota_us": f"{quota}\n", f"{folder}cpu.cfs_period_us": f"{period}\n"}


AT_ROOT = V2.replace("{root}", "/")
CASES = {
    "v2, own namespace": ("0::/\n", AT_ROOT, {"cpu.max": "200000 100000\n"}, 2),
    "v2, half a CPU": ("0::/\n", AT_ROOT, {"cpu.max": "50000 100000\n"}, 1),
    "v2, 2.9 CPUs": ("0::/\n", AT_ROOT, {"cpu.max": "290000 100000\n"}, 2),
    "v2, no limit": ("0::/\n", AT_ROOT, {"cpu.max": "max 100000\n"}, 64),
    "v2, more than visible": ("0::/\n", AT_ROOT, {"cpu.max": "9900000 100000\n"}, 64),
    "v2, a group above is tighter": (
        "0::/a.slice/b.scope\n",
        AT_ROOT,
        {"a.slice/b.scope/cpu.max": "800000 100000\n", "a.slice/cpu.max": "300000 100000\n"},
        3,
    ),
    "v2, mounted by the host": (
        "0::/docker/ab12\n",
        V2.replace("{root}", "/docker/ab12"),
        {"cpu.max": "400000 100000\n"},
        4,
    ),
    "v2, outside of the namespace": (
        "0::/../other\n",
        AT_ROOT,
        {"cpu.max": "500000 100000\n"},
        5,
    ),
    "v1": (
        "5:cpu,cpuacct:/docker/ab12\n4:memory:/x\n0::/system.slice\n",
        V1.replace("{root}", "/docker/ab12"),
        v1("", 200_000),
        2,
    ),
    "v1, on the host": (
        "5:cpu,cpuacct:/jobs/7\n",
        V1.replace("{root}", "/"),
        v1("jobs/7/", 150_000, 50_000) | v1("", -1),
        3,
    ),
    "v1, no limit": ("5:cpu:/\n", V1.replace("{root}", "/"), v1("", -1), 64),
    "no control groups": ("", "", {}, 64),
}


@pytest.mark.parametrize("name", CASES)
def test_threads_follow_the_quota_of_the_container(name, tmp_path):
    groups, mounts, files, expected = CASES[name]
    process = make_process(tmp_path, groups, mounts, files)
    assert available_cpus(process) == expected
    assert bool(explain_quota(process)) == (expected < 64)


def test_the_sentence_names_the_file_the_quota_and_the_choice(tmp_path):
    process = make_process(tmp_path, "0::/\n", AT_ROOT, {"cpu.max": "250000 100000\n"})
    file = tmp_path / "cgroup folder/cpu.max"
    assert read_quota(process) == (2.5, file)
    assert explain_quota(process) == (
        f"uses 2 of 64 visible CPUs, because {file} limits this container to the time of 2.5; "
        "--threads changes the number of threads"
    )


def test_without_proc_there_is_no_quota(tmp_path):
    assert read_quota(tmp_path / "missing") is None
    assert available_cpus(tmp_path / "missing") == 64
