"""Within a budget: measure what members cost, choose those that answer best in time, and save them as an ensemble."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from wbdc import competitions
from wbdc.core import plug
from wbdc.core.errors import OverBudget
from wbdc.core.findings import Findings
from wbdc.ensemble.budget import best, dropped, frontier, lead
from wbdc.ensemble.cost import SAMPLE, measure, starting
from wbdc.ensemble.forms import Form, Machine, forms, said, whole
from wbdc.ensemble.pool import Candidate, Pool
from wbdc.ensemble.store import common, save
from wbdc.train.runs import ALL

MARGIN = 0.10  # by which measured seconds are raised, as the time check does


def build_within(
    work: Path, name: str, members: list[Form], data: Path, machine: Machine, *, limit: float, items: int, frames: Sequence[int] = (), lengths: Sequence[int] = (),
    priors: bool = True, draws: int = 1000, seed: int = 0, say: Callable[[str], None], progress: Callable[[str, int, int], None],
) -> dict:  # fmt: skip
    """Choose among members, also with fewer frames or shorter texts, what answers best within `limit` seconds for `items` videos; save it; return its report.

    The report has "budget" beside what `save` returns: the frontier, what was chosen, its lead over the next cheaper, what was left out and why.
    When not even the cheapest fits with all its folds, forms of one fold are tried too: out-of-fold scores cannot tell what fewer folds lose.
    Raises OverBudget when nothing fits.
    """
    contest = plug.build(competitions, {"use": members[0].run.facts["competition"]})
    every = list({form.name: form for member in members for form in (member, *forms(member.run, frames, lengths))}.values())
    tables = {form.name: said(form, data, contest, machine, progress) for form in every}
    listing = time.perf_counter()
    videos = list(contest.videos(data, contest.test_split(contest.splits(data)), Findings()))
    listing = (time.perf_counter() - listing) * items / max(1, len(videos))
    sample = [videos[i] for i in np.random.default_rng(seed).permutation(len(videos))[:SAMPLE]]
    cost = measure(every, sample, machine, fixed=starting() + listing, progress=progress)
    pool = _pool(every, tables, contest, cost, items)
    choices = frontier(pool)
    try:
        chosen = best(choices, limit)
    except OverBudget as error:
        say(f"{error}; trying single folds, whose out-of-fold scores do not tell what fewer folds lose")
        shared = sorted(set.intersection(*(set(form.folds) for form in every)) - {ALL})
        every = [form._replace(folds=(shared[0],)) for form in every]
        tables = {form.name: tables[whole(form.run)._replace(serve=form.serve).name] for form in every}
        pool = _pool(every, tables, contest, cost, items)
        choices = frontier(pool)
        chosen = best(choices, limit)
    over = lead(pool, choices, chosen, draws=draws, seed=seed)
    told = {
        "limit": limit, "items": items, "margin": MARGIN, "cost": cost._asdict(), "frontier": [c.as_dict() for c in choices], "chosen": chosen.as_dict(),
        "lead": over and {**over._asdict(), "verdict": over.verdict}, "dropped": [d.as_dict() for d in dropped(pool, chosen, draws=draws, seed=seed)],
    }  # fmt: skip
    kept = [form for form in every if form.name in chosen.members]
    shared = common([form.run for form in kept], [tables[form.name] for form in kept])
    return save(work, name, kept, shared, {"budget": told}, priors=priors, draws=draws, seed=seed)


def _pool(every: list[Form], tables: dict, contest: competitions.Competition, cost: object, items: int) -> Pool:
    shared = common([form.run for form in every], [tables[form.name] for form in every])
    candidates = [Candidate(form.name, form.run.name, tuple(form.models())) for form in every]
    return Pool(candidates, shared.members, shared.labels, shared.folds, every[0].run.facts["classes"], contest, cost, items=items, margin=MARGIN)
