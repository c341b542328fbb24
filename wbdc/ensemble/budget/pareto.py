"""The ensembles that no other beats in both seconds and score, and the best within a limit."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, combinations
from typing import NamedTuple

from wbdc.core.errors import OverBudget
from wbdc.ensemble.blas_threads import one_blas_thread
from wbdc.ensemble.bootstrap import Gain
from wbdc.ensemble.budget.candidates import CandidatePool
from wbdc.ensemble.budget.subset_weights import Subset

MAX_EXHAUSTIVE_CANDIDATES = 12  # up to here every subset is tried, 4,095 at most
MAX_SCORING_THREADS = 4  # each holds two blends of all videos and classes
Trials = dict[Subset, tuple[float, float]]  # {subset: (seconds, score)}


class BudgetChoice(NamedTuple):
    """An ensemble of the Pareto frontier.

    seconds: for all items, margin included; score: nested out-of-fold mean, as in
    `evaluate_ensemble`; weights: learned on all rows, to ship; search: "exhaustive" (every subset
    was tried) or "greedy"; mean: "arithmetic" or "geometric".
    """

    members: tuple[str, ...]
    seconds: float
    score: float
    weights: dict[str, float]
    search: str
    mean: str = "arithmetic"

    def to_dict(self) -> dict:
        """Return plain values for JSON."""
        return {**self._asdict(), "members": list(self.members)}


class DroppedMember(NamedTuple):
    """A candidate that was not chosen.

    seconds: that it would add, margin included; gain: of the ensemble with it over the one without.
    """

    name: str
    seconds: float
    gain: Gain

    def to_dict(self) -> dict:
        """Return plain values for JSON."""
        return {"name": self.name, "seconds": self.seconds, "gain": self.gain.to_dict()}


@one_blas_thread()
def pareto_frontier(pool: CandidatePool, *, threads: int = 1) -> list[BudgetChoice]:
    """Find the ensembles that score higher than all that cost as much or less, cheapest first.

    Every subset is tried for up to MAX_EXHAUSTIVE_CANDIDATES candidates; for more, see
    `_greedy_trials`. The search uses approximate scores; its results are scored by nested
    cross-validation, `threads` of them at the same time, with the same bits for any number. The
    labels of a fold do not change that fold's predictions, but the subsets are chosen on these
    rows, so a score here tends to be too high.
    """
    exhaustive = len(pool.candidates) <= MAX_EXHAUSTIVE_CANDIDATES
    find_trials = _exhaustive_trials if exhaustive else _greedy_trials
    subsets = efficient_subsets(find_trials(pool, threads))

    def evaluate(subset: Subset) -> tuple[float, float]:
        return pool.seconds(subset), pool.score(pool.predictions(subset))

    subsets.sort(key=len, reverse=True)  # those that take longest first
    with ThreadPoolExecutor(min(threads, MAX_SCORING_THREADS)) as executor:
        scored = dict(zip(subsets, executor.map(evaluate, subsets), strict=True))
    search = "exhaustive" if exhaustive else "greedy"
    return [_choice(pool, subset, *scored[subset], search) for subset in efficient_subsets(scored)]


def best_within_limit(choices: Sequence[BudgetChoice], limit: float) -> BudgetChoice:
    """Return the choice with the highest score that fits `limit` seconds, the cheaper of equals.

    Raises OverBudget, naming the cheapest, when none fits.
    """
    cheapest = min(choices, key=lambda choice: choice.seconds)
    if not cheapest.seconds <= limit:
        raise OverBudget(
            f"the cheapest ensemble, {' + '.join(cheapest.members)}, needs"
            f" {cheapest.seconds:,.2f} s with its margin, the limit is"
            f" {limit:,.2f} s; serve fewer frames or train a smaller kit"
        )
    fitting = (choice for choice in choices if choice.seconds <= limit)
    return max(fitting, key=lambda choice: (choice.score, -choice.seconds))


def choice_gain(
    pool: CandidatePool,
    choices: Sequence[BudgetChoice],
    chosen: BudgetChoice,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Gain | None:
    """Bound how much a choice scores above the next cheaper one; None for the cheapest."""
    cheaper = [choice for choice in choices if choice.seconds < chosen.seconds]
    if not cheaper:
        return None
    new, old = pool.positions(chosen.members), pool.positions(cheaper[-1].members)
    return pool.gain(new, old, draws, seed)


@one_blas_thread()
def dropped_members(
    pool: CandidatePool,
    chosen: BudgetChoice,
    *,
    draws: int = 1000,
    seed: int = 0,
    threads: int = 1,
) -> list[DroppedMember]:
    """Return what each candidate that was not chosen would add in seconds and in score.

    It takes the place of other variants of its run. `threads` candidates are measured at the same
    time, with the same bits for any number.
    """
    old = pool.positions(chosen.members)

    def measure(position: int) -> DroppedMember:
        compatible = (i for i in old if pool.is_allowed((i, position)))
        new = tuple(sorted((position, *compatible)))
        name, seconds = pool.candidates[position].name, pool.seconds(new) - pool.seconds(old)
        return DroppedMember(name, seconds, pool.gain(new, old, draws, seed))

    with ThreadPoolExecutor(min(threads, MAX_SCORING_THREADS)) as executor:
        return list(executor.map(measure, sorted(set(range(len(pool.candidates))) - set(old))))


def efficient_subsets(trials: Trials) -> list[Subset]:
    """Return the subsets that score higher than all that cost as much or less, cheapest first.

    Of equals, the smaller subset is returned.
    """
    efficient: list[Subset] = []
    for subset in sorted(trials, key=lambda s: (trials[s][0], -trials[s][1], len(s), s)):
        if not efficient or trials[subset][1] > trials[efficient[-1]][1]:
            efficient.append(subset)
    return efficient


def _exhaustive_trials(pool: CandidatePool, threads: int = 1) -> Trials:
    positions = range(len(pool.candidates))
    sizes = range(1, len(positions) + 1)
    subsets = chain.from_iterable(combinations(positions, size) for size in sizes)
    return _trials(pool, [subset for subset in subsets if pool.is_allowed(subset)], threads)


def _greedy_trials(pool: CandidatePool, threads: int = 1) -> Trials:
    """Search from single candidates by adding, exchanging or removing one.

    Each round expands the efficient subset with the highest score that was not expanded yet, as in
    forward selection (Caruana et al. 2004), until none is left (Paquete et al. 2004).
    """
    trials = _trials(pool, [(i,) for i in range(len(pool.candidates))], threads)
    expanded: set[Subset] = set()
    while fresh := [subset for subset in efficient_subsets(trials) if subset not in expanded]:
        expanded.add(fresh[-1])
        neighbors = [s for s in _neighbors(pool, fresh[-1]) if s not in trials]
        trials |= _trials(pool, neighbors, threads)
    return trials


def _neighbors(pool: CandidatePool, subset: Subset) -> Iterator[Subset]:
    """List the allowed subsets with one candidate more, one exchanged, and one less."""
    outside = sorted(set(range(len(pool.candidates))) - set(subset))
    shorter = [tuple(i for i in subset if i != removed) for removed in subset]
    longer = (tuple(sorted((*base, new))) for base in (subset, *shorter) for new in outside)
    distinct = dict.fromkeys(chain(longer, shorter))
    return (neighbor for neighbor in distinct if neighbor and pool.is_allowed(neighbor))


def _trials(pool: CandidatePool, subsets: Sequence[Subset], threads: int) -> Trials:
    scores = pool.approximate_scores.scores(subsets, threads)
    return {
        subset: (pool.seconds(subset), score) for subset, score in zip(subsets, scores, strict=True)
    }


def _choice(
    pool: CandidatePool, subset: Subset, seconds: float, score: float, search: str
) -> BudgetChoice:
    names = tuple(pool.candidates[i].name for i in subset)
    weights = dict(zip(names, pool.weights(subset).tolist(), strict=True))
    return BudgetChoice(names, seconds, score, weights, search, pool.mean_of(subset))
