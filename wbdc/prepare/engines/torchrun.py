"""Torchrun: every process that torchrun starts, on one or more machines, writes some shards."""

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta

from wbdc.core.errors import UsageFault
from wbdc.core.ranks import RANK_VARIABLES, join_ranks, rank_and_size
from wbdc.prepare.engines import Engine, MakeShard
from wbdc.prepare.shards import ShardJob

# ranks wait this long for the slowest; torchrun itself ends all of them if one dies
BARRIER_TIMEOUT = timedelta(days=7)


class Torchrun(Engine):
    """Rank r of n runs jobs r, r + n, ...; then all ranks wait. Rank 0 is the main one.

    If a process dies, torchrun ends the others; the same command then continues with the missing
    shards. All machines need the data and the work folder under the same paths.
    """

    shares_cpus = True

    def __init__(self):
        if missing := [name for name in RANK_VARIABLES if name not in os.environ]:
            command = "torchrun --nproc-per-node 2 -m wbdc prepare --data DIR --engine torchrun"
            raise UsageFault(
                f"engine 'torchrun' needs torchrun, which sets {', '.join(missing)}; run: {command}"
            )
        self.rank, self.ranks = rank_and_size()
        self.is_main = self.rank == 0

    def run_jobs(self, make: MakeShard, jobs: Sequence[ShardJob]) -> Iterator[ShardJob]:
        # all ranks use the list of rank 0: a later listing would find more shards on disk
        broadcast = [list(jobs)]
        join_ranks().broadcast_object_list(broadcast)
        (shared_jobs,) = broadcast
        for job in shared_jobs[self.rank :: self.ranks]:
            make(job)
            yield job

        self.barrier()
        for number, job in enumerate(shared_jobs):
            if number % self.ranks != self.rank:
                yield job

    def barrier(self) -> None:
        join_ranks().monitored_barrier(timeout=BARRIER_TIMEOUT)  # names a rank that is missing
