"""Threads: this process makes one shard after another; inside a shard, threads read the videos."""

from collections.abc import Iterator, Sequence

from wbdc.prepare.engines import Engine, Make
from wbdc.prepare.shards import ShardJob


class Threads(Engine):
    """The plainest place, and enough for one machine: decoders let other threads run."""

    def each(self, make: Make, jobs: Sequence[ShardJob]) -> Iterator[ShardJob]:
        for job in jobs:
            make(job)
            yield job
