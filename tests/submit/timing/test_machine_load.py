"""A busy machine is told from a package that waits, by CPU seconds alone."""

import os
import subprocess
import sys

import pytest

from wbdc.submit.timing import machine_load
from wbdc.submit.timing.machine_load import CpuMeter, CpuUse, busy_reason


@pytest.mark.parametrize(
    ("use", "threads", "busy"),
    [
        (
            CpuUse(100.0, 2, run_seconds=20.0, other_seconds=178.0),
            2,
            True,
        ),  # ten others on two CPUs
        (
            CpuUse(100.0, 2, run_seconds=100.0, other_seconds=98.0),
            2,
            True,
        ),  # half of what it could use
        (
            CpuUse(100.0, 2, run_seconds=190.0, other_seconds=8.0),
            2,
            False,
        ),  # it has the machine to itself
        (
            CpuUse(100.0, 2, run_seconds=172.0, other_seconds=18.0),
            2,
            False,
        ),  # others took too little to matter
        (
            CpuUse(100.0, 2, run_seconds=5.0, other_seconds=4.0),
            2,
            False,
        ),  # it sleeps, or waits for a disk
        (
            CpuUse(100.0, 2, run_seconds=5.0, other_seconds=60.0),
            2,
            False,
        ),  # it waits, and others leave CPUs idle
        (
            CpuUse(100.0, 2, run_seconds=99.0, other_seconds=95.0),
            1,
            False,
        ),  # one thread, and a CPU for it
        (
            CpuUse(100.0, 16, run_seconds=200.0, other_seconds=300.0),
            16,
            False,
        ),  # a GPU does the work; 11 CPUs are idle
        (CpuUse(100.0, 16, run_seconds=300.0, other_seconds=1290.0), None, True),
        (CpuUse(0.0, 2, run_seconds=0.0, other_seconds=0.0), 2, False),
    ],
)
def test_a_busy_machine_is_one_whose_others_took_what_was_wanted(use, threads, busy):
    assert bool(busy_reason([use], threads)) is busy


def test_one_busy_run_is_enough():
    calm, busy = CpuUse(100.0, 2, 190.0, 5.0), CpuUse(10.0, 2, 2.0, 17.0)
    assert busy_reason([calm, calm]) is None
    assert "85%" in busy_reason([calm, busy])


def test_busy_seconds_are_those_of_the_given_cpus_stolen_ones_included(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu 9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 4 100 100 8 16 32 0 0\ncpu1 9 9 9 9 9 9 9 9 0 0\nintr 7\n"
    )
    monkeypatch.setattr(machine_load, "STAT_FILE", stat)
    ticks = os.sysconf("SC_CLK_TCK")
    assert machine_load.busy_seconds({0}) == 63 / ticks
    assert machine_load.busy_seconds({0, 1}) == (63 + 54) / ticks
    stat.unlink()
    assert machine_load.busy_seconds({0}) == 0.0


def test_cpu_seconds_of_a_child_are_its_own():
    meter = CpuMeter()
    subprocess.run(
        [sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True
    )
    use = meter.read()
    assert 0.5 <= use.run_seconds < 2
    assert use.seconds >= 0.4
    assert use.cpus >= 1
    assert use.other_seconds <= use.seconds * use.cpus + 0.5
