"""Within a budget: measure what members cost, choose those that answer best in time, and save them
as an ensemble.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from wbdc.competitions import Competition
from wbdc.core.device import precision_name
from wbdc.core.errors import OverBudget
from wbdc.core.findings import Findings
from wbdc.core.time_margins import TIME_MARGIN
from wbdc.ensemble.budget.candidates import Candidate, CandidatePool
from wbdc.ensemble.budget.cost import COST_SAMPLE_VIDEOS, Cost, measure_costs, measure_start
from wbdc.ensemble.budget.pareto import (
    BudgetChoice,
    best_within_limit,
    choice_gain,
    dropped_members,
    efficient_trials,
    pareto_frontier,
)
from wbdc.ensemble.ensembles import ensemble_command, save_ensemble, shared_predictions
from wbdc.ensemble.variants import (
    ServingHardware,
    Variant,
    full_variant,
    list_variants,
    out_of_fold_predictions,
)
from wbdc.train.runs import ALL_FOLDS


class SearchResult(NamedTuple):
    """One search: in which precision, over which forms, what they said out of fold, and the
    ensembles that no other beats.
    """

    precision: str
    forms: list[Variant]
    tables: dict[str, pl.DataFrame]
    pool: CandidatePool
    choices: list[BudgetChoice]


def build_ensemble_within(
    work: Path,
    name: str,
    members: list[Variant],
    data: Path,
    machines: Sequence[ServingHardware],
    *,
    limit: float,
    items: int,
    frames: Sequence[int] = (),
    lengths: Sequence[int] = (),
    class_priors: bool = True,
    draws: int = 1000,
    seed: int = 0,
    say: Callable[[str], None],
    progress: Callable[[str, int, int], None],
) -> dict:
    """Choose among members, also with fewer frames or shorter texts, what answers best within
    `limit` seconds for `items` videos; save it; return its report.

    machines: in one precision each; the first is the one that the kits serve in. The report has
    "budget" beside what `save` returns: the frontier, what was
    chosen, its lead over the next cheaper, what was left out and why. When not even the cheapest
    fits with all its folds, forms of one fold are tried
    too: out-of-fold scores cannot tell what fewer folds lose. Raises OverBudget when nothing fits.
    """
    contest = members[0].run.contest
    every = list(
        {
            form.name: form
            for member in members
            for form in (member, *list_variants(member.run, frames, lengths))
        }.values()
    )
    sample, listing = _sample(contest, data, items, seed)
    fixed, searched, costs = measure_start() + listing, [], []
    for number, machine in enumerate(machines):
        told = {
            form.name: out_of_fold_predictions(
                form, data, contest, machine, progress, own=number == 0
            )
            for form in every
        }
        costs.append(measure_costs(every, sample, machine, fixed=fixed, progress=progress))
        searched.append(
            _search(precision_name(machine.precision), every, told, contest, costs[-1], items)
        )
    try:
        chosen, found = _best(searched, limit)
    except OverBudget as error:
        say(
            f"{error}; trying single folds, whose out-of-fold scores do not tell what fewer folds lose"
        )
        searched = [_single(s, contest, cost, items) for s, cost in zip(searched, costs)]
        chosen, found = _best(searched, limit)
    over = choice_gain(found.pool, found.choices, chosen, draws=draws, seed=seed)
    told = {
        "limit": limit,
        "items": items,
        "margin": TIME_MARGIN,
        "cost": costs[searched.index(found)]._asdict(),
        "precision": found.precision,
        "frontier": [{**c.as_dict(), "precision": s.precision} for s, c in _frontier(searched)],
        "chosen": {**chosen.as_dict(), "precision": found.precision},
        "lead": over and {**over._asdict(), "verdict": over.verdict},
        "dropped": [
            d.as_dict() for d in dropped_members(found.pool, chosen, draws=draws, seed=seed)
        ],
    }
    kept = [form for form in found.forms if form.name in chosen.members]
    options = ["--limit", str(limit), "--items", str(items)]
    for option, values in (
        ("--frames", frames),
        ("--length", lengths),
        ("--precision", [precision_name(m.precision) for m in machines[1:]]),
    ):
        options += [option, ",".join(map(str, values))] if values else []
    command = ensemble_command(
        name, members, options, class_priors=class_priors, draws=draws, seed=seed
    )
    shared = shared_predictions(
        [form.run for form in kept], [found.tables[form.name] for form in kept]
    )
    return save_ensemble(
        work,
        name,
        kept,
        shared,
        {"budget": told},
        precision=found.precision if len(machines) > 1 else None,
        class_priors=class_priors,
        draws=draws,
        seed=seed,
        command=command,
    )


def _sample(contest: Competition, data: Path, items: int, seed: int) -> tuple[list, float]:
    """Draw the videos that members are timed with, and say how long it takes to list as many as the
    judge asks for.
    """
    start = time.perf_counter()
    videos = list(contest.videos(data, contest.find_test_split(contest.splits(data)), Findings()))
    listing = (time.perf_counter() - start) * items / max(1, len(videos))
    return [
        videos[i] for i in np.random.default_rng(seed).permutation(len(videos))[:COST_SAMPLE_VIDEOS]
    ], listing


def _search(
    precision: str,
    every: list[Variant],
    tables: dict[str, pl.DataFrame],
    contest: Competition,
    cost: Cost,
    items: int,
) -> SearchResult:
    shared = shared_predictions([form.run for form in every], [tables[form.name] for form in every])
    candidates = [Candidate(form.name, form.run.name, tuple(form.models())) for form in every]
    classes = every[0].run.facts.classes
    pool = CandidatePool(
        candidates,
        shared.members,
        shared.labels,
        shared.folds,
        classes,
        contest,
        cost,
        items=items,
        margin=TIME_MARGIN,
    )
    return SearchResult(precision, every, tables, pool, pareto_frontier(pool))


def _single(searched: SearchResult, contest: Competition, cost: Cost, items: int) -> SearchResult:
    """Search again over the same forms with one fold each, the same for all."""
    shared = sorted(set.intersection(*(set(form.folds) for form in searched.forms)) - {ALL_FOLDS})
    every = [form._replace(folds=(shared[0],)) for form in searched.forms]
    tables = {
        form.name: searched.tables[full_variant(form.run)._replace(serve=form.serve).name]
        for form in every
    }
    return _search(searched.precision, every, tables, contest, cost, items)


def _best(searched: list[SearchResult], limit: float) -> tuple[BudgetChoice, SearchResult]:
    """Choose across precisions. Raises OverBudget, naming the cheapest, when nothing fits."""
    chosen = best_within_limit([choice for s in searched for choice in s.choices], limit)
    return chosen, next(s for s in searched if chosen in s.choices)


def _frontier(searched: list[SearchResult]) -> list[tuple[SearchResult, BudgetChoice]]:
    """Keep of all precisions' choices those that score higher than all that cost as much or less,
    cheapest first.
    """
    tried = {
        (i, j): (choice.seconds, choice.score)
        for i, s in enumerate(searched)
        for j, choice in enumerate(s.choices)
    }
    return [(searched[i], searched[i].choices[j]) for i, j in efficient_trials(tried)]
