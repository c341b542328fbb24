"""Engines: the same bytes wherever shards are made, a killed worker's job done once more, and every
error as it was raised.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import small

from wbdc.core import plug
from wbdc.core.errors import DataInvalid, EnvironmentLacks, UsageFault
from wbdc.prepare import engines
from wbdc.prepare.shards import ShardJob

TOY = '''
import os, signal, time
from wbdc.core.errors import DataInvalid
from wbdc.core.files import publish_bytes

def make(job):
    """What a job does beside its file is stated by `frame_format`."""
    tries = job.root / f"{job.path.name}.tries"
    tries.write_text(tries.read_text() + "x" if tries.is_file() else "x")
    if job.frame_format == "death" or (job.frame_format == "stumble" and tries.read_text() == "x"):
        os.kill(os.getpid(), signal.SIGKILL)
    if job.frame_format == "fault":
        raise DataInvalid(f"{job.ids[0]} is not as it should be")
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
import toy_work
from wbdc.core import plug
from wbdc.prepare import engines
from wbdc.prepare.shards import ShardJob

if __name__ == "__main__":
    root = Path(sys.argv[1])
    jobs = [ShardJob(root / f"{i}.shard", root, "toy", "labeled", 2 * i, (str(2 * i), str(2 * i + 1)), sys.argv[2], 1) for i in range(5)]
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A module that workers can import, as they import the real one."""
    home = tmp_path_factory.mktemp("toy")
    (home / "toy_work.py").write_text(TOY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(home)
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield importlib.import_module("toy_work")


@pytest.fixture(scope="module")
def cluster(toy: ModuleType) -> Iterator[None]:
    """A Ray of two workers, which the engine joins."""
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


@pytest.fixture(params=["local", "ray"])
def way(request: pytest.FixtureRequest) -> dict:
    """An engine with workers that can die."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
        return {"use": "ray"}
    return {"use": "local", "workers": 2}


def jobs(root: Path, *does: str) -> list[ShardJob]:
    """Five jobs of two videos each; the last ones do what `does` says."""
    does = ("write",) * (5 - len(does)) + does
    return [
        ShardJob(
            root / f"{i}.shard",
            root,
            "toy",
            "labeled",
            2 * i,
            (str(2 * i), str(2 * i + 1)),
            what,
            1,
        )
        for i, what in enumerate(does)
    ]


def shards(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.glob("*.shard")}


def tries(root: Path) -> list[int]:
    return [len((root / f"{i}.shard.tries").read_text()) for i in range(5)]


WHOLE = {f"{i}.shard": f"{2 * i} {2 * i + 1}".encode() for i in range(5)}


def test_threads_do_one_job_after_another(toy, tmp_path, quick_disk):
    engine = plug.build_plug(engines, {"use": "threads"})
    assert list(engine.each(toy.make, jobs(tmp_path))) == jobs(tmp_path)
    assert engine.leads
    assert shards(tmp_path) == WHOLE


def test_fault_03_a_killed_worker_costs_one_more_try_and_the_shards_are_the_same(
    way, toy, tmp_path
):
    engine, asked = plug.build_plug(engines, way), jobs(tmp_path, "stumble", "write")
    assert sorted(engine.each(toy.make, asked)) == asked
    assert engine.leads
    assert shards(tmp_path) == WHOLE, "byte for byte what one process writes"
    assert tries(tmp_path) == [1, 1, 1, 2, 1]


def test_fault_03_a_job_that_always_kills_its_worker_is_named(way, toy, tmp_path):
    with pytest.raises(
        DataInvalid, match="a worker died twice on 3.shard, videos 6 to 7 of labeled"
    ) as caught:
        list(plug.build_plug(engines, way).each(toy.make, jobs(tmp_path, "death", "write")))
    assert caught.value.code == 3
    assert len((tmp_path / "3.shard.tries").read_text()) == 2


def test_errors_arrive_as_they_were_raised(way, toy, tmp_path):
    with pytest.raises(DataInvalid) as caught:
        list(plug.build_plug(engines, way).each(toy.make, jobs(tmp_path, "fault")))
    assert type(caught.value) is DataInvalid and str(caught.value) == "8 is not as it should be", (
        "the roof prints one sentence"
    )
    with pytest.raises(IndexError) as bug:
        list(plug.build_plug(engines, way).each(toy.make, jobs(tmp_path, "bug")))
    told = [*getattr(bug.value, "__notes__", []), str(bug.value.__cause__)]
    assert any("[][job.start]" in told for told in told), "the line of a bug is told"


def processes(root: Path) -> list[int]:
    """Tell which workers are alive."""
    return [int(path.stem) for path in root.glob("*.pid") if Path(f"/proc/{path.stem}").is_dir()]


def soon(met: Callable[[], object], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not met() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(met())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_local_workers_end_with_their_parent(how, toy, tmp_path):
    script = (
        SCRIPT
        + '    list(plug.build_plug(engines, {"use": "local", "workers": 2}).each(toy_work.make, jobs))'
    )
    parent = small.python(script, tmp_path, "sleep", start=subprocess.Popen, start_new_session=True)
    assert soon(lambda: len(processes(tmp_path)) == 2)
    os.killpg(
        parent.pid, how
    ) if how == signal.SIGINT else parent.kill()  # Ctrl-C reaches all processes of a terminal
    told = parent.communicate(timeout=10)[1]
    assert soon(lambda: not processes(tmp_path), 5)
    assert told.count("Traceback") == (how == signal.SIGINT), "workers say nothing of their own"


def test_local_says_when_workers_cannot_even_start(toy, tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        SCRIPT.replace('if __name__ == "__main__"', "if True")
        + '    list(plug.build_plug(engines, {"use": "local", "workers": 1}).each(toy_work.make, jobs))'
    )
    told = subprocess.run(
        [sys.executable, script, tmp_path, "write"], check=False, capture_output=True, text=True
    ).stderr
    assert "a worker process ended with exit code 1 at 0.shard" in told
    assert "if __name__ == '__main__'" in told
    with pytest.raises(UsageFault, match="at least 1 worker, not workers = 0"):
        plug.build_plug(engines, {"use": "local", "workers": 0})


def test_torchrun_ranks_share_the_jobs_of_the_leader(toy, tmp_path):
    script = tmp_path / "ranks.py"
    body = """
    import json
    engine = plug.build_plug(engines, {"use": "torchrun"})
    done = list(engine.each(toy_work.make, jobs[engine.rank :]))  # rank 1 looked when the first shard was there for a moment
    (root / f"{engine.rank}.rank").write_text(json.dumps([engine.leads, [job.start for job in done], sorted(p.name for p in root.glob("*.shard"))]))
"""
    script.write_text(SCRIPT + body)
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            script,
            tmp_path,
            "write",
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    ranks = [json.loads((tmp_path / f"{r}.rank").read_text()) for r in range(2)]
    assert ranks == [
        [True, [0, 4, 8, 2, 6], sorted(WHOLE)],
        [False, [2, 6, 0, 4, 8], sorted(WHOLE)],
    ], "its own first; then all are there"
    assert shards(tmp_path) == WHOLE
    assert tries(tmp_path) == [1] * 5


def test_torchrun_and_ray_say_what_they_lack(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageFault, match="run: torchrun --nproc-per-node 2 -m wbdc prepare"):
        plug.build_plug(engines, {"use": "torchrun"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentLacks, match=r"pip install 'wbdc\[ray\]'"):
        plug.build_plug(engines, {"use": "ray"})
    with pytest.raises(UsageFault, match="no engine called 'thread'; did you mean 'threads'"):
        plug.build_plug(engines, {"use": "thread"})
