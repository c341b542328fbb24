"""Serving with several processes that torchrun starts: each rank scores a part of the groups."""

from collections import Counter

from wbdc.core.findings import Findings
from wbdc.core.ranks import join_ranks
from wbdc.serve.engine import GroupScores
from wbdc.serve.scoring_run import Groups


def shard_groups(groups: Groups, rank: int, count: int) -> Groups:
    """Return every `count`-th group, from `rank` on.

    Groups stay whole, so that each video is predicted beside the same videos, to the same bits.
    """
    return {number: rows for number, rows in groups.items() if number % count == rank}


def gather_ranks(scored: GroupScores) -> GroupScores | None:
    """Send the scores of this rank to rank 0, which returns all of them; the others return None.

    Every rank must call it.
    """
    ranks = join_ranks()
    parts = [None] * ranks.get_world_size() if ranks.get_rank() == 0 else None
    ranks.gather_object(scored, parts)
    ranks.barrier()  # a sender may end as soon as its scores were received
    return merge_ranks(parts) if parts else None


def merge_ranks(parts: list[GroupScores]) -> GroupScores:
    """Merge the scores of several ranks. Each stage has the seconds of its slowest rank."""
    probabilities = {}
    stages = Counter()
    findings = Findings()
    for scored in parts:
        probabilities |= scored.probabilities
        stages |= Counter(scored.stages)
        findings.merge(scored.findings)
    return GroupScores(probabilities, dict(stages), findings.report())
