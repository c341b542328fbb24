"""Engines: each file runs the jobs that write the shards of frames, from threads to a cluster."""

from collections.abc import Callable, Iterator, Sequence

from wbdc.core.errors import DataFault
from wbdc.prepare.shards import ShardJob

# A module-level function, so that another process can import it. It publishes the shard itself.
MakeShard = Callable[[ShardJob], None]


class Engine:
    """Runs the jobs that write shards.

    rank, ranks: of this process among all processes that run the same command; is_main: whether
    this process writes the other files of the dataset, which exactly one process does; shares_cpus:
    whether several workers share the CPUs of a machine, so that each reads with one thread.
    """

    rank: int = 0
    ranks: int = 1
    is_main: bool = True
    shares_cpus: bool = False

    def run_jobs(self, make: MakeShard, jobs: Sequence[ShardJob]) -> Iterator[ShardJob]:
        """Call `make(job)` for every job, and yield each job when its shard exists, in any order.

        Raises what `make` raises; DataFault, which names the job, if two workers died on it.
        """
        raise NotImplementedError

    def barrier(self) -> None:
        """Wait until every process that runs the same command has called this."""


Plug = Engine


def shard_failure(job: ShardJob) -> DataFault:
    """Return the error for a shard on which two workers died."""
    videos = f"videos {job.ids[0]} to {job.ids[-1]} of {job.split}"
    return DataFault(
        f"a worker died twice on {job.path.name}, {videos}: an archive crashes the decoder, or "
        "memory ran out; use fewer workers (--threads), then check these archives"
    )
