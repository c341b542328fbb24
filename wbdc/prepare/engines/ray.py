"""Ray: the machines of a Ray cluster make shards side by side."""

import importlib.util
import logging
import os
from collections.abc import Iterator, Sequence

from wbdc.core.errors import EnvironmentLacks
from wbdc.prepare.engines import Engine, Make, shard_failure
from wbdc.prepare.shards import ShardJob


class Ray(Engine):
    """address: of a running cluster, "auto" for the one this machine belongs to, "local" to start
    one here; by default RAY_ADDRESS, else "auto".

    workers: CPUs of one started here.

    A task takes one CPU; when its worker dies it is done once more. Every machine must have wbdc
    installed and see the data and the
    work folder under the same paths: sharing that disk is up to you.
    """

    crowded = True

    def __init__(self, *, address: str | None = None, workers: int | None = None):
        if importlib.util.find_spec("ray") is None:
            raise EnvironmentLacks(
                "engine 'ray' needs Ray, which is not installed; run: pip install 'wbdc[ray]'"
            )
        self.address, self.workers = address or os.environ.get("RAY_ADDRESS", "auto"), workers

    def each(self, make: Make, jobs: Sequence[ShardJob]) -> Iterator[ShardJob]:
        import ray

        ours = not ray.is_initialized()  # a program that joined a cluster before goes on with it
        if ours:
            _join(self.address, self.workers)
        task = ray.remote(max_retries=1)(make)
        pending = {task.remote(job): job for job in jobs}
        try:
            while pending:
                (done,), _ = ray.wait(list(pending))
                job = pending.pop(done)
                _check(done, job)
                yield job
        finally:
            for left in pending:
                ray.cancel(left, force=True)
            if ours:
                ray.shutdown()


def _join(address: str, workers: int | None) -> None:
    """Join a cluster, or start one here. Raises EnvironmentLacks when none answers."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours tells nobody
    started = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **started)
    except ConnectionError as error:
        raise EnvironmentLacks(
            f"no Ray cluster answers at {address!r}; start one with `ray start --head`, or set RAY_ADDRESS=local"
        ) from error


def _check(done: object, job: ShardJob) -> None:
    """Raise what `make` raised, or DataInvalid when the job killed two workers. done: Ray's promise
    of a task that ended.
    """
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

    try:
        ray.get(done)
    except RayTaskError as error:
        raise error.cause from error  # Ray's own error says it in forty lines
    except (WorkerCrashedError, NodeDiedError, OutOfMemoryError) as error:
        raise shard_failure(job) from error
