"""Local: several processes of this machine write shards in parallel; a worker may die."""

import contextlib
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread

from wbdc.core.cpu_quota import available_cpus
from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.prepare.engines import Engine, MakeShard, shard_failure
from wbdc.prepare.shards import ShardJob

# a fork would share open archives, and locks that other threads hold
SPAWN_CONTEXT = get_context("spawn")


class Local(Engine):
    """Runs jobs in worker processes. The job of a worker that was killed runs once more.

    workers: number of processes; by default the CPUs that this process may use. Each worker has a
    connection of its own instead of a pool, because a pool does not report the job on which a
    worker died.
    """

    shares_cpus = True

    def __init__(self, *, workers: int | None = None):
        if workers is not None and workers < 1:
            raise UsageFault(f"engine 'local' needs at least 1 worker, not workers = {workers}")
        self.workers = workers or available_cpus()

    def run_jobs(self, make: MakeShard, jobs: Sequence[ShardJob]) -> Iterator[ShardJob]:
        pending = list(reversed(jobs))
        idle = []
        failed = set()
        processes: dict[Connection, BaseProcess] = {}
        running: dict[Connection, ShardJob] = {}
        try:
            while pending or running:
                while pending and len(running) < self.workers:
                    connection = idle.pop() if idle else _start_worker(make, processes)
                    running[connection] = pending.pop()
                    _send_job(connection, running[connection])

                for connection in wait(list(running)):
                    job = running.pop(connection)
                    if _is_done(connection):
                        idle.append(connection)
                        yield job
                    else:
                        _check_death(processes.pop(connection), job, is_second=job in failed)
                        failed.add(job)
                        pending.append(job)
        finally:  # also after Ctrl-C; an interrupted job leaves no shard
            for process in processes.values():
                process.kill()
                process.join()


def _start_worker(make: MakeShard, processes: dict[Connection, BaseProcess]) -> Connection:
    """Start a worker and return the connection to it."""
    connection, worker_end = SPAWN_CONTEXT.Pipe()
    process = SPAWN_CONTEXT.Process(target=_run_worker, args=(make, worker_end), daemon=True)
    process.start()
    worker_end.close()  # otherwise the connection would not end with the worker
    processes[connection] = process
    return connection


def _send_job(connection: Connection, job: ShardJob) -> None:
    # a worker that was just killed; its connection has ended, which `_is_done` notices
    with contextlib.suppress(ConnectionError):
        connection.send(job)


def _is_done(connection: Connection) -> bool:
    """Return True if the worker did its job, False if it died. Raises what `make` raised."""
    try:
        error = connection.recv()
    except (EOFError, OSError):
        return False
    if error is not None:
        raise error
    return True


def _check_death(process: BaseProcess, job: ShardJob, is_second: bool) -> None:
    """Raise DataFault if this is the second worker that died on a job, EnvironmentFault if the
    worker exited by itself.
    """
    process.join()
    # for example, a script without `if __name__ == "__main__"`, which every spawned process runs
    if process.exitcode >= 0:
        raise EnvironmentFault(
            f"a worker process ended with exit code {process.exitcode} at {job.path.name}; "
            "its output is above; engine 'threads' needs no worker processes"
        )
    if is_second:
        raise shard_failure(job)


def _run_worker(make: MakeShard, connection: Connection) -> None:
    """Run the jobs that arrive until the connection ends."""
    # Ctrl-C reaches all processes of a terminal; the parent handles it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_exit_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            job = connection.recv()
            try:
                make(job)
            except Exception as error:
                error.add_note(traceback.format_exc())  # a traceback itself cannot be sent
                connection.send(error)
                raise SystemExit from error  # without output: the parent raises the error
            connection.send(None)


def _exit_with_parent() -> None:
    """Exit when the parent ends, even if it was killed and a job is running."""
    parent_process().join()
    os._exit(0)
