"""Local: several processes of this machine make shards side by side, and survive the death of one."""

import contextlib
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread

from wbdc.core.errors import EnvironmentLacks, UsageFault
from wbdc.prepare.engines import Engine, Make, shard_failure
from wbdc.prepare.shards import ShardJob

SPAWN = get_context("spawn")  # a fork would share open archives, and locks that other threads hold


class Local(Engine):
    """workers: processes; as many as CPUs that this process may use when not given. A killed
    worker's job is done once more.

    A line to each worker, not a pool: a pool cannot say on which job a worker died.
    """

    crowded = True

    def __init__(self, *, workers: int | None = None):
        if workers is not None and workers < 1:
            raise UsageFault(f"engine 'local' cannot work with workers = {workers}; give 1 or more")
        self.workers = workers or len(os.sched_getaffinity(0))

    def each(self, make: Make, jobs: Sequence[ShardJob]) -> Iterator[ShardJob]:
        todo, free, lost = list(reversed(jobs)), [], set()
        crew: dict[Connection, BaseProcess] = {}
        busy: dict[Connection, ShardJob] = {}
        try:
            while todo or busy:
                while todo and len(busy) < self.workers:
                    line = free.pop() if free else _hire(make, crew)
                    busy[line] = todo.pop()
                    _send(line, busy[line])
                for line in wait(list(busy)):
                    job = busy.pop(line)
                    if _done(line):
                        free.append(line)
                        yield job
                    else:
                        _bury(crew.pop(line), job, again=job in lost)
                        lost.add(job)
                        todo.append(job)
        finally:  # also after Ctrl-C; a job cut short leaves no shard
            for process in crew.values():
                process.kill()
                process.join()


def _hire(make: Make, crew: dict[Connection, BaseProcess]) -> Connection:
    """Start a worker and return the line to it."""
    line, its = SPAWN.Pipe()
    process = SPAWN.Process(target=_work, args=(make, its), daemon=True)
    process.start()
    its.close()  # or the line would never end when the worker does
    crew[line] = process
    return line


def _send(line: Connection, job: ShardJob) -> None:
    with contextlib.suppress(
        ConnectionError
    ):  # a worker just killed; its line has ended, which `_done` finds
        line.send(job)


def _done(line: Connection) -> bool:
    """Tell whether the worker did its job or died. Raises what `make` raised."""
    try:
        error = line.recv()
    except (EOFError, OSError):
        return False
    if error is not None:
        raise error
    return True


def _bury(process: BaseProcess, job: ShardJob, again: bool) -> None:
    """Take leave of a worker. Raises DataInvalid when it is the second that a job killed,
    EnvironmentLacks when it was not killed but ended.
    """
    process.join()
    if (
        process.exitcode >= 0
        # such as a script without `if __name__ == "__main__"`, which every spawned process runs anew
    ):
        raise EnvironmentLacks(
            f"a worker process ended with exit code {process.exitcode} at {job.path.name}; what it said stands above; engine 'threads' needs none"
        )
    if again:
        raise shard_failure(job)


def _work(make: Make, line: Connection) -> None:
    """Do what comes down the line until it ends: the life of a worker."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all processes of a terminal; the parent answers it
    Thread(target=_follow_parent, daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            job = line.recv()
            try:
                make(job)
            except Exception as error:
                error.add_note(traceback.format_exc())  # a traceback itself cannot be sent
                line.send(error)
                raise SystemExit from error  # quietly: the parent raises it
            line.send(None)


def _follow_parent() -> None:
    """Die with the parent, also in the middle of a job, and also when it was killed."""
    parent_process().join()
    os._exit(0)
