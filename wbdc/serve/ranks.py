"""Ranks: several processes started by torchrun answer a part of the groups each; rank 0 puts the
parts together by group.
"""

from collections import Counter

from wbdc.core.findings import Findings
from wbdc.core.ranks import join_ranks
from wbdc.serve.engine import Groups, GroupScores


def shard_groups(groups: Groups, rank: int, count: int) -> Groups:
    """Return every `count`-th group: whole groups, so that each video keeps its neighbours, and its
    bits.
    """
    return {number: rows for number, rows in groups.items() if number % count == rank}


def gather_ranks(scored: GroupScores) -> GroupScores | None:
    """Send what this rank scored to rank 0, which returns all of it; the others return None. Every
    rank must call it.
    """
    ranks = join_ranks()
    all_of_it = [None] * ranks.get_world_size() if ranks.get_rank() == 0 else None
    ranks.gather_object(scored, all_of_it)
    ranks.barrier()  # whoever sent may end as soon as it was received
    return merge_ranks(all_of_it) if all_of_it else None


def merge_ranks(parts: list[GroupScores]) -> GroupScores:
    """Put the parts of several ranks together. Seconds are those of the rank that took longest at a
    stage.
    """
    said, stages, findings = {}, Counter(), Findings()
    for scored in parts:
        said |= scored.said
        stages |= Counter(scored.stages)
        findings.merge(scored.findings)
    return GroupScores(said, dict(stages), findings.report())
