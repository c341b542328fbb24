"""Threads: this process writes one shard after another; threads read the videos of a shard."""

from collections.abc import Iterator, Sequence

from wbdc.prepare.engines import Engine, MakeShard
from wbdc.prepare.shards import ShardJob


class Threads(Engine):
    """Runs all jobs in this process. Fast enough for one machine: decoders release the GIL."""

    def run_jobs(self, make: MakeShard, jobs: Sequence[ShardJob]) -> Iterator[ShardJob]:
        for job in jobs:
            make(job)
            yield job
