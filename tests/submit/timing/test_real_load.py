"""The time check with a short cap, of processes that never end."""

import os
import shutil
import time
from pathlib import Path

from wbdc.submit.check.manifest import read_manifest
from wbdc.submit.pipeline import time_package
from wbdc.submit.timing import rehearse as rehearse_module
from wbdc.submit.timing.options import RehearsalOptions

SLEEP_SECONDS = 300  # of each process of the slow package
EXTRA_SECONDS = 60  # beyond the cap, on a busy machine


def test_package_slower_than_the_cap_is_ended(package, data, tmp_path, monkeypatch):
    """It is ended with all its processes; INCONCLUSIVE, and no receipt."""
    copy = shutil.copytree(package, tmp_path / "copy")
    mark = f"wbdc-cap-{os.getpid()}"
    nap = f"sleep {SLEEP_SECONDS}; : {mark}"
    (copy / "run.sh").write_text(f"sh -c '{nap}' &\nsetsid sh -c '{nap}' &\n{nap}\n")
    # run.sh differs from the packed one
    monkeypatch.setattr(rehearse_module, "check_files", read_manifest)
    start = time.monotonic()
    latency = time_package(
        copy, data, RehearsalOptions(device="cpu", cap_seconds=2.0), lambda *step: None
    )
    assert time.monotonic() - start < 2 + EXTRA_SECONDS < SLEEP_SECONDS
    assert latency["verdict"] == "INCONCLUSIVE"
    assert latency["code"] == 6
    assert "did not end within 2 s" in latency["sentence"]
    assert "--cap" in latency["sentence"]
    assert not (copy / "latency.json").exists()
    assert not running(mark)


def running(mark: str) -> list[int]:
    """List the running processes whose command line contains a mark."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                processes.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return processes
