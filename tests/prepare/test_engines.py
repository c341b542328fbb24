"""Engines: equal bytes from every engine, a second try after a killed worker, errors unchanged."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import rank_programs
import small
from run_ranks import on_ranks

from wbdc.core import plug
from wbdc.core.errors import DataFault, EnvironmentFault, UsageFault
from wbdc.prepare import engines
from wbdc.prepare.shards import ShardJob

WORKER_MODULE = '''
import os, signal, time
from wbdc.core.errors import DataFault
from wbdc.core.files import publish_bytes

def make(job):
    """Do what `frame_format` names, then write the shard."""
    tries = job.root / f"{job.path.name}.tries"
    tries.write_text(tries.read_text() + "x" if tries.is_file() else "x")
    if job.frame_format == "death" or (job.frame_format == "stumble" and tries.read_text() == "x"):
        os.kill(os.getpid(), signal.SIGKILL)
    if job.frame_format == "fault":
        raise DataFault(f"{job.ids[0]} is invalid")
    if job.frame_format == "bug":
        [][job.start]
    if job.frame_format == "sleep":
        publish_bytes(job.root / f"{os.getpid()}.pid", b"")
        time.sleep(60)
    publish_bytes(job.path, " ".join(job.ids).encode())
'''
SCRIPT = """
import sys
from pathlib import Path
import toy_worker
from wbdc.core import plug
from wbdc.prepare import engines
from wbdc.prepare.shards import ShardJob

if __name__ == "__main__":
    root = Path(sys.argv[1])
    jobs = [
        ShardJob(root / f"{i}.shard", root, "toy", "labeled", 2 * i, (str(2 * i), str(2 * i + 1)),
                 sys.argv[2], 1)
        for i in range(5)
    ]
"""

# added to SCRIPT, inside its `if`
RUN_LOCAL = """
    engine = plug.build_plug(engines, {{"use": "local", "workers": {workers}}})
    list(engine.run_jobs(toy_worker.make, jobs))
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A module that workers can import."""
    home = tmp_path_factory.mktemp("toy")
    (home / "toy_worker.py").write_text(WORKER_MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(home)
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield importlib.import_module("toy_worker")


@pytest.fixture(scope="module")
def cluster(toy: ModuleType) -> Iterator[None]:
    """A Ray cluster of two workers, to which the engine connects."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'wbdc[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 * 2**20,
            log_to_driver=False,
            logging_level="error",
        )
        yield
        ray.shutdown()


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def engine_settings(request: pytest.FixtureRequest) -> dict:
    """Settings of an engine with workers that can die."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
        return {"use": "ray"}
    return {"use": "local", "workers": 2}


def jobs(root: Path, *actions: str) -> list[ShardJob]:
    """Return five jobs of two videos each; the last ones do `actions`."""
    actions = ("write",) * (5 - len(actions)) + actions
    return [
        ShardJob(
            root / f"{i}.shard",
            root,
            "toy",
            "labeled",
            2 * i,
            (str(2 * i), str(2 * i + 1)),
            action,
            1,
        )
        for i, action in enumerate(actions)
    ]


def shards(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.glob("*.shard")}


def tries(root: Path) -> list[int]:
    return [len((root / f"{i}.shard.tries").read_text()) for i in range(5)]


ALL_SHARDS = {f"{i}.shard": f"{2 * i} {2 * i + 1}".encode() for i in range(5)}


def test_threads_run_jobs_in_order(toy, tmp_path):
    engine = plug.build_plug(engines, {"use": "threads"})
    assert list(engine.run_jobs(toy.make, jobs(tmp_path))) == jobs(tmp_path)
    assert engine.is_main
    assert shards(tmp_path) == ALL_SHARDS


def test_fault_03_the_job_of_a_killed_worker_runs_again_with_equal_bytes(
    engine_settings, toy, tmp_path
):
    engine = plug.build_plug(engines, engine_settings)
    all_jobs = jobs(tmp_path, "stumble", "write")
    assert sorted(engine.run_jobs(toy.make, all_jobs)) == all_jobs
    assert engine.is_main
    assert shards(tmp_path) == ALL_SHARDS, "equal to the bytes that one process writes"
    assert tries(tmp_path) == [1, 1, 1, 2, 1]


def test_fault_03_a_job_that_kills_two_workers_is_named(engine_settings, toy, tmp_path):
    with pytest.raises(
        DataFault, match="a worker died twice on 3.shard, videos 6 to 7 of labeled"
    ) as caught:
        list(
            plug.build_plug(engines, engine_settings).run_jobs(
                toy.make, jobs(tmp_path, "death", "write")
            )
        )
    assert caught.value.code == 3
    assert len((tmp_path / "3.shard.tries").read_text()) == 2


@pytest.mark.slow
def test_errors_of_workers_are_raised_unchanged(engine_settings, toy, tmp_path):
    with pytest.raises(DataFault) as caught:
        list(plug.build_plug(engines, engine_settings).run_jobs(toy.make, jobs(tmp_path, "fault")))
    assert type(caught.value) is DataFault
    assert str(caught.value) == "8 is invalid"
    with pytest.raises(IndexError) as bug:
        list(plug.build_plug(engines, engine_settings).run_jobs(toy.make, jobs(tmp_path, "bug")))
    texts = [*getattr(bug.value, "__notes__", []), str(bug.value.__cause__)]
    assert any("[][job.start]" in text for text in texts), "the error names the line of the bug"


def processes(root: Path) -> list[int]:
    """List the workers that are alive."""
    return [int(path.stem) for path in root.glob("*.pid") if Path(f"/proc/{path.stem}").is_dir()]


def wait_until(condition: Callable[[], object], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_local_workers_end_with_their_parent(signal_number, toy, tmp_path):
    script = SCRIPT + RUN_LOCAL.format(workers=2)
    ignored = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background ignores it
    parent = small.python(script, tmp_path, "sleep", start=subprocess.Popen, start_new_session=True)
    signal.signal(signal.SIGINT, ignored)
    assert wait_until(lambda: len(processes(tmp_path)) == 2)
    if signal_number == signal.SIGINT:
        os.killpg(parent.pid, signal_number)  # Ctrl-C reaches all processes of a terminal
    else:
        parent.kill()
    stderr = parent.communicate(timeout=10)[1]
    assert wait_until(lambda: not processes(tmp_path), 5)
    assert stderr.count("Traceback") == (signal_number == signal.SIGINT), "none from workers"


def test_local_reports_workers_that_cannot_start(toy, tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        SCRIPT.replace('if __name__ == "__main__"', "if True") + RUN_LOCAL.format(workers=1)
    )
    stderr = subprocess.run(
        [sys.executable, script, tmp_path, "write"], check=False, capture_output=True, text=True
    ).stderr
    assert "a worker process ended with exit code 1 at 0.shard" in stderr
    assert "if __name__ == '__main__'" in stderr
    with pytest.raises(UsageFault, match="at least 1 worker, not workers = 0"):
        plug.build_plug(engines, {"use": "local", "workers": 0})


@pytest.mark.slow
def test_torchrun_ranks_share_the_jobs_of_rank_0(toy, tmp_path):
    """Rank 1 lists fewer jobs, as when it lists them after the first shard is written."""
    lists = [jobs(tmp_path), jobs(tmp_path)[1:]]
    names = sorted(ALL_SHARDS)
    assert on_ranks(rank_programs.write_shards, toy.make, lists) == [
        (True, [0, 4, 8, 2, 6], names),
        (False, [2, 6, 0, 4, 8], names),
    ], "first the jobs of the rank, then the others"
    assert shards(tmp_path) == ALL_SHARDS
    assert tries(tmp_path) == [1] * 5


@pytest.mark.slow
def test_torchrun_and_ray_name_what_is_missing(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageFault, match="run: torchrun --nproc-per-node 2 -m wbdc prepare"):
        plug.build_plug(engines, {"use": "torchrun"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'wbdc\[ray\]'"):
        plug.build_plug(engines, {"use": "ray"})
    with pytest.raises(UsageFault, match="no engine called 'thread'; did you mean 'threads'"):
        plug.build_plug(engines, {"use": "thread"})
