"""Torchrun: every process that torchrun starts, on one machine or several, makes its part of the
shards.
"""

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta

from wbdc.core.errors import UsageFault
from wbdc.core.ranks import RANK_VARIABLES, join_ranks, rank_and_size
from wbdc.prepare.engines import Engine, Make
from wbdc.prepare.shards import ShardJob

PATIENCE = timedelta(days=7)  # the slowest is waited for; torchrun itself ends all when one dies


class Torchrun(Engine):
    """Rank r of n makes jobs r, r + n, ...; then all wait for each other, and rank 0 leads.

    When a process dies torchrun ends the others, and the same command goes on from what is
    finished.
    All machines must see the data and the work folder under the same paths: sharing that disk is up
    to you.
    """

    crowded = True

    def __init__(self):
        if missing := [name for name in RANK_VARIABLES if name not in os.environ]:
            command = "torchrun --nproc-per-node 2 -m wbdc prepare --data DIR --engine torchrun"
            raise UsageFault(
                f"engine 'torchrun' is started by torchrun, which sets {', '.join(missing)}; run: {command}"
            )
        self.rank, self.ranks = rank_and_size()
        self.leads = self.rank == 0

    def each(self, make: Make, jobs: Sequence[ShardJob]) -> Iterator[ShardJob]:
        ranks = join_ranks()
        agreed = [list(jobs)]
        ranks.broadcast_object_list(
            agreed
        )  # rank 0's list: one who looked later would find other shards missing
        for job in agreed[0][self.rank :: self.ranks]:
            make(job)
            yield job
        self.meet()
        yield from (job for i, job in enumerate(agreed[0]) if i % self.ranks != self.rank)

    def meet(self) -> None:
        join_ranks().monitored_barrier(timeout=PATIENCE)  # names the rank that did not come
