"""Engines: each file is a place where the shards of frames can be made, from one process to a
cluster.
"""

from collections.abc import Callable, Iterator, Sequence

from wbdc.core.errors import DataInvalid
from wbdc.prepare.shards import ShardJob

Make = Callable[
    [ShardJob], None
]  # a function of a module, so that another process finds it by name; it publishes the shard itself


class Engine:
    """Where shards are made. leads: whether this process writes what follows them; of several that
    run the same command, one does.

    rank, ranks: this process among those that run the same command.
    """

    rank: int = 0
    ranks: int = 1
    leads: bool = True
    crowded: bool = (
        False  # several workers share the CPUs of a machine, so each reads with one thread
    )

    def each(self, make: Make, jobs: Sequence[ShardJob]) -> Iterator[ShardJob]:
        """Do `make(job)` for every job and yield each job when its shard is there, in any order.

        Raises what `make` raised; DataInvalid, naming the job, when two workers died on it.
        """
        raise NotImplementedError

    def meet(self) -> None:
        """Wait until every process that runs the same command has come this far."""


Plug = Engine


def shard_failure(job: ShardJob) -> DataInvalid:
    """Name the shard on which two workers in a row died."""
    videos = f"videos {job.ids[0]} to {job.ids[-1]} of {job.split}"
    return DataInvalid(
        f"a worker died twice on {job.path.name}, {videos}: an archive kills its reader, or memory ran out; try fewer workers, then look at these archives"
    )
