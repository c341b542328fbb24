"""Ray: the machines of a Ray cluster write shards in parallel."""

import importlib.util
import logging
import os
from collections.abc import Iterator, Sequence

from wbdc.core.errors import EnvironmentFault
from wbdc.prepare.engines import Engine, MakeShard, shard_failure
from wbdc.prepare.shards import ShardJob


class Ray(Engine):
    """Runs jobs as Ray tasks of one CPU each. The task of a worker that died runs once more.

    address: of a running cluster; "auto" for the cluster of this machine; "local" to start one
    here; by default RAY_ADDRESS, else "auto". workers: CPUs of a cluster that is started here.
    Every machine needs wbdc, and the data and the work folder under the same paths.
    """

    shares_cpus = True

    def __init__(self, *, address: str | None = None, workers: int | None = None):
        if importlib.util.find_spec("ray") is None:
            raise EnvironmentFault(
                "engine 'ray' needs Ray, which is not installed; run: pip install 'wbdc[ray]'"
            )
        self.address = address or os.environ.get("RAY_ADDRESS", "auto")
        self.workers = workers

    def run_jobs(self, make: MakeShard, jobs: Sequence[ShardJob]) -> Iterator[ShardJob]:
        import ray

        starts_connection = not ray.is_initialized()  # keep the connection of a calling program
        if starts_connection:
            _connect(self.address, self.workers)
        task = ray.remote(max_retries=1)(make)
        pending = {task.remote(job): job for job in jobs}
        try:
            while pending:
                (done,), _ = ray.wait(list(pending))
                job = pending.pop(done)
                _check_result(done, job)
                yield job
        finally:
            for unfinished in pending:
                ray.cancel(unfinished, force=True)
            if starts_connection:
                ray.shutdown()


def _connect(address: str, workers: int | None) -> None:
    """Connect to a cluster, or start one here. Raises EnvironmentFault if none responds."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a local cluster sends no statistics
    options = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except ConnectionError as error:
        raise EnvironmentFault(
            f"no Ray cluster responds at {address!r}; start one with `ray start --head`, "
            "or set RAY_ADDRESS=local"
        ) from error


def _check_result(done: object, job: ShardJob) -> None:
    """Raise what `make` raised, or DataFault if two workers died. done: reference to a finished
    task.
    """
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

    try:
        ray.get(done)
    except RayTaskError as error:
        raise error.cause from error  # Ray's own message has forty lines
    except (WorkerCrashedError, NodeDiedError, OutOfMemoryError) as error:
        raise shard_failure(job) from error
