"""The time check under real load and within a real cap: a tiny package in processes of its own."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wbdc.submit.check.manifest import read_manifest
from wbdc.submit.pipeline import time_package
from wbdc.submit.timing import rehearse as rehearse_module
from wbdc.submit.timing.options import RehearsalOptions
from wbdc.submit.timing.rehearse import rehearse

SLEEP_SECONDS = 300  # that each process of the slow package would take
EXTRA_SECONDS = 60  # seconds beyond the cap, on a busy machine


@pytest.fixture
def others():
    """Keep every CPU of this process busy with two processes of another session."""
    loop = [sys.executable, "-I", "-S", "-c", "while True: pass"]
    count = 2 * len(os.sched_getaffinity(0))
    loads = [subprocess.Popen(loop, start_new_session=True) for _ in range(count)]
    yield loads
    for load in loads:
        load.kill()
        load.wait()


@pytest.mark.slow
def test_a_package_beside_busy_processes(package, data, tmp_path, others):
    """It is fast enough, and does not pass: the sentence names the load."""
    copy = shutil.copytree(package, tmp_path / "copy")
    options = RehearsalOptions(items=8, seconds=3600.0, device="cpu", cold_starts=1)
    verdict = rehearse(copy, data, options)
    assert verdict.status == "INCONCLUSIVE"
    assert verdict.code == 6
    assert "The machine was busy: other processes used" in verdict.sentence
    assert verdict.facts["cpu_use"]["other_seconds"] > verdict.facts["cpu_use"]["seconds"] / 2
    assert all(load.poll() is None for load in others), "they are not the package's"


def test_a_package_that_takes_longer_than_the_cap(package, data, tmp_path, monkeypatch):
    """It is ended with all that it started, well before its time; INCONCLUSIVE, and no receipt."""
    copy, mark = shutil.copytree(package, tmp_path / "copy"), f"wbdc-cap-{os.getpid()}"
    nap = f"sleep {SLEEP_SECONDS}; : {mark}"
    (copy / "run.sh").write_text(f"sh -c '{nap}' &\nsetsid sh -c '{nap}' &\n{nap}\n")
    monkeypatch.setattr(
        rehearse_module, "check_files", read_manifest
    )  # run.sh is not what was packed
    start = time.monotonic()
    latency = time_package(
        copy, data, RehearsalOptions(device="cpu", cap_seconds=2.0), lambda *at: None
    )
    assert time.monotonic() - start < 2 + EXTRA_SECONDS < SLEEP_SECONDS
    assert latency["verdict"] == "INCONCLUSIVE"
    assert latency["code"] == 6
    assert "did not end within 2 s" in latency["sentence"]
    assert "--cap" in latency["sentence"]
    assert not (copy / "latency.json").exists()
    assert not named(mark)


def named(mark: str) -> list[int]:
    """List the running processes whose command line holds a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found
