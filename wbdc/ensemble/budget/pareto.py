"""Budget: which members are worth their seconds, and which of them together answer best within the
judge's time.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, combinations
from typing import NamedTuple

from wbdc.core.errors import OverBudget
from wbdc.ensemble.blend_weights import fit_weights
from wbdc.ensemble.budget.candidates import CandidatePool, Subset
from wbdc.ensemble.evaluation import Gain
from wbdc.ensemble.mixture import true_class_likelihoods

MAX_EXHAUSTIVE_MEMBERS = 12  # candidates of which every subset is tried, 4,095 at most
Tried = dict[Subset, tuple[float, float]]  # (seconds, score)


class BudgetChoice(NamedTuple):
    """An ensemble that no other beats in both respects.

    seconds: for all items, margin included; score: nested out-of-fold mean, as `assess` tells it;
    weights: learned on all rows, those to ship;
    search: "exhaustive" (every subset was tried) or "greedy".
    """

    members: tuple[str, ...]
    seconds: float
    score: float
    weights: dict[str, float]
    search: str

    def as_dict(self) -> dict:
        """Return plain values, ready for JSON."""
        return {**self._asdict(), "members": list(self.members)}


class DroppedMember(NamedTuple):
    """A candidate that was left out. seconds: what it would add, margin included; gain: of the
    ensemble with it over the one without.
    """

    name: str
    seconds: float
    gain: Gain

    def as_dict(self) -> dict:
        """Return plain values, ready for JSON."""
        return {
            "name": self.name,
            "seconds": self.seconds,
            "gain": {**self.gain._asdict(), "verdict": self.gain.verdict},
        }


def pareto_frontier(
    pool: CandidatePool, *, exhaustive_up_to: int = MAX_EXHAUSTIVE_MEMBERS
) -> list[BudgetChoice]:
    """Find the ensembles that score higher than all that cost as much or less, cheapest first.

    Every subset of up to 12 candidates is tried; of more, see `_greedy`. The search scores quickly,
    what it found is judged by `nested`.
    No label of a fold moves that fold's answers, but the subsets are picked on these rows: a score
    here is rather too high than too low.
    """
    exhaustive = len(pool.candidates) <= exhaustive_up_to
    judged = {
        s: (pool.seconds(s), pool.score(pool.answers(s)))
        for s in efficient_trials(_exhaustive(pool) if exhaustive else _greedy(pool))
    }
    return [
        _choice(pool, s, *judged[s], "exhaustive" if exhaustive else "greedy")
        for s in efficient_trials(judged)
    ]


def best_within_limit(choices: Sequence[BudgetChoice], limit: float) -> BudgetChoice:
    """Choose from a frontier the highest score that fits `limit` seconds, the cheaper of equals.
    Raises OverBudget when none fits.
    """
    cheapest = min(choices, key=lambda c: c.seconds)
    if not cheapest.seconds <= limit:
        needs = f"the cheapest ensemble, {' + '.join(cheapest.members)}, needs {cheapest.seconds:,.2f} s with its margin"
        raise OverBudget(
            f"{needs}, the limit is {limit:,.2f} s; serve fewer frames or train a smaller kit"
        )
    return max((c for c in choices if c.seconds <= limit), key=lambda c: (c.score, -c.seconds))


def choice_gain(
    pool: CandidatePool,
    choices: Sequence[BudgetChoice],
    chosen: BudgetChoice,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Gain | None:
    """Bound how much a choice is above the next cheaper one of its frontier; None for the cheapest."""
    cheaper = [c for c in choices if c.seconds < chosen.seconds]
    return (
        pool.gain(pool.places(chosen.members), pool.places(cheaper[-1].members), draws, seed)
        if cheaper
        else None
    )


def dropped_members(
    pool: CandidatePool, chosen: BudgetChoice, *, draws: int = 1000, seed: int = 0
) -> list[DroppedMember]:
    """Tell for each candidate left out what it would add in seconds and in score. It takes the
    place of other forms of its run.
    """
    old, found = pool.places(chosen.members), []
    for place in sorted(set(range(len(pool.candidates))) - set(old)):
        new = tuple(sorted((place, *(i for i in old if pool.allows((i, place))))))
        found.append(
            DroppedMember(
                pool.candidates[place].name,
                pool.seconds(new) - pool.seconds(old),
                pool.gain(new, old, draws, seed),
            )
        )
    return found


def _exhaustive(pool: CandidatePool) -> Tried:
    places = range(len(pool.candidates))
    every = chain.from_iterable(combinations(places, size) for size in range(1, len(places) + 1))
    return {subset: _trial(pool, subset) for subset in every if pool.allows(subset)}


def _greedy(pool: CandidatePool) -> Tried:
    """Go forward from single candidates, adding, exchanging or removing one, wherever no subset
    tried so far is better and cheaper.

    The highest score goes first, as in forward selection (Caruana et al. 2004); it ends when no
    such step is left (Paquete et al. 2004).
    """
    tried: Tried = {(place,): _trial(pool, (place,)) for place in range(len(pool.candidates))}
    left: set[Subset] = set()
    while fresh := [subset for subset in efficient_trials(tried) if subset not in left]:
        left.add(fresh[-1])
        tried |= {near: _trial(pool, near) for near in _near(pool, fresh[-1]) if near not in tried}
    return tried


def _near(pool: CandidatePool, subset: Subset) -> Iterator[Subset]:
    """List the allowed subsets with one candidate more, one exchanged, and one less."""
    others = set(range(len(pool.candidates))) - set(subset)
    shorter = [tuple(i for i in subset if i != gone) for gone in subset]
    longer = (tuple(sorted((*kept, new))) for kept in (subset, *shorter) for new in sorted(others))
    return (near for near in dict.fromkeys(chain(longer, shorter)) if near and pool.allows(near))


def efficient_trials(tried: Tried) -> list[Subset]:
    """Keep of what was tried all that scores higher than everything that costs as much or less,
    cheapest first; of equals the smaller subset.
    """
    kept: list[Subset] = []
    for subset in sorted(tried, key=lambda s: (tried[s][0], -tried[s][1], len(s), s)):
        if not kept or tried[subset][1] > tried[kept[-1]][1]:
            kept.append(subset)
    return kept


def _trial(pool: CandidatePool, subset: Subset) -> tuple[float, float]:
    return pool.seconds(subset), pool.quick(subset)


def _choice(
    pool: CandidatePool, subset: Subset, seconds: float, score: float, search: str
) -> BudgetChoice:
    names, weights = (
        [pool.candidates[i].name for i in subset],
        fit_weights(true_class_likelihoods(pool.members[list(subset)], pool.truth)).values.tolist(),
    )
    return BudgetChoice(
        tuple(names), seconds, score, dict(zip(names, weights, strict=True)), search
    )
