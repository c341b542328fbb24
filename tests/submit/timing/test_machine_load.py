"""A busy machine is distinguished from a package that waits, by CPU seconds alone."""

import os
import subprocess
import sys

import pytest

from wbdc.submit.timing import machine_load
from wbdc.submit.timing.machine_load import CpuMeter, CpuUse, busy_reason


@pytest.mark.parametrize(
    ("cpus", "run_seconds", "other_seconds", "threads", "busy"),
    [
        pytest.param(2, 20.0, 178.0, 2, True, id="ten other processes on two CPUs"),
        pytest.param(2, 100.0, 98.0, 2, True, id="half of what it could use"),
        pytest.param(2, 190.0, 8.0, 2, False, id="alone on the machine"),
        pytest.param(2, 172.0, 18.0, 2, False, id="others use too little"),
        pytest.param(2, 5.0, 4.0, 2, False, id="it sleeps or waits for a disk"),
        pytest.param(2, 5.0, 60.0, 2, False, id="it waits, and CPUs are idle"),
        pytest.param(2, 99.0, 95.0, 1, False, id="one thread with a CPU for it"),
        pytest.param(16, 200.0, 300.0, 16, False, id="a GPU works, 11 CPUs are idle"),
        pytest.param(16, 300.0, 1290.0, None, True, id="16 busy CPUs"),
    ],
)
def test_busy_machine_took_cpus_that_the_run_needed(
    cpus, run_seconds, other_seconds, threads, busy
):
    use = CpuUse(100.0, cpus, run_seconds, other_seconds)
    assert bool(busy_reason([use], threads)) is busy


def test_run_without_duration_is_not_busy():
    assert busy_reason([CpuUse(0.0, 2, 0.0, 0.0)], 2) is None


def test_one_busy_run_is_enough():
    calm = CpuUse(100.0, 2, 190.0, 5.0)
    busy = CpuUse(10.0, 2, 2.0, 17.0)
    assert busy_reason([calm, calm]) is None
    assert "85%" in busy_reason([calm, busy])


def test_busy_seconds_count_the_given_cpus_and_stolen_time(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu 9 9 9 9 9 9 9 9 0 0\n"
        "cpu0 1 2 4 100 100 8 16 32 0 0\n"
        "cpu1 9 9 9 9 9 9 9 9 0 0\n"
        "intr 7\n"
    )
    monkeypatch.setattr(machine_load, "STAT_FILE", stat)
    ticks = os.sysconf("SC_CLK_TCK")
    assert machine_load.busy_seconds({0}) == 63 / ticks
    assert machine_load.busy_seconds({0, 1}) == (63 + 54) / ticks
    stat.unlink()
    assert machine_load.busy_seconds({0}) == 0.0


def test_cpu_meter_counts_a_child_process():
    meter = CpuMeter()
    subprocess.run(
        [sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True
    )
    use = meter.read()
    assert 0.5 <= use.run_seconds < 2
    assert use.seconds >= 0.4
    assert use.cpus >= 1
    assert use.other_seconds <= use.seconds * use.cpus + 0.5


BUSY = """
import time
while time.process_time() < 0.5: pass
print(flush=True)
input()
"""


def test_cpu_meter_counts_other_processes():
    """Those that it does not wait for, which need not be of this user."""
    if not machine_load.STAT_FILE.is_file():
        pytest.skip("this kernel does not report busy CPUs")
    meter = CpuMeter()
    command = [sys.executable, "-I", "-S", "-c", BUSY]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as other:
        other.stdout.readline()
        use = meter.read()
        other.communicate(b"\n")
    assert use.run_seconds == 0
    assert use.other_seconds > 0.4, "the ticks of the kernel are coarse"
