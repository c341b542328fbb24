"""Build the best ensemble within a time limit: predict, measure costs, search, save."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from wbdc.competitions import Competition, Video
from wbdc.core.device import precision_name
from wbdc.core.errors import EnvironmentFault, OverBudget, UsageFault
from wbdc.core.findings import Findings
from wbdc.core.progress import ProgressCallback
from wbdc.core.time_margins import TIME_MARGIN
from wbdc.ensemble.budget.candidates import Candidate, CandidatePool
from wbdc.ensemble.budget.cost import COST_SAMPLE_VIDEOS, Cost, measure_costs, measure_start
from wbdc.ensemble.budget.pareto import (
    BudgetChoice,
    best_within_limit,
    choice_gain,
    dropped_members,
    efficient_subsets,
    pareto_frontier,
)
from wbdc.ensemble.build_ensemble import ensemble_command, save_ensemble
from wbdc.ensemble.ensemble_settings import DEFAULT_SETTINGS, EnsembleSettings
from wbdc.ensemble.out_of_fold import ServingHardware, out_of_fold_predictions
from wbdc.ensemble.shared_rows import shared_predictions
from wbdc.ensemble.variants import Variant, full_variant, list_variants
from wbdc.train.runs import ALL_FOLDS, Run


@dataclass(frozen=True)
class BudgetOptions:
    """How an ensemble within a limit is built.

    limit: seconds for `items` videos; frames, lengths: smaller values to try; clips, crops: views
    of a video to average; settings: of the chosen ensemble, by whose mean subsets are compared;
    requires_openvino: fail where OpenVINO cannot be tried, rather than search without it.
    """

    limit: float
    items: int
    frames: Sequence[int] = ()
    lengths: Sequence[int] = ()
    clips: Sequence[int] = ()
    crops: Sequence[int] = ()
    settings: EnsembleSettings = DEFAULT_SETTINGS
    requires_openvino: bool = False


class SearchResult(NamedTuple):
    """One search in one precision, with or without OpenVINO.

    tables: {variant name: out-of-fold predictions}; choices: the Pareto frontier.
    """

    hardware: ServingHardware
    variants: list[Variant]
    tables: dict[str, pl.DataFrame]
    cost: Cost
    pool: CandidatePool
    choices: list[BudgetChoice]

    @property
    def precision(self) -> str:
        """The name of the precision."""
        return precision_name(self.hardware.precision)

    @property
    def backend(self) -> dict:
        """What computes the networks, as plain values for JSON."""
        return {"precision": self.precision, "openvino": self.hardware.openvino}


def build_ensemble_within(
    work: Path,
    name: str,
    members: list[Variant],
    data: Path,
    hardware: Sequence[ServingHardware],
    options: BudgetOptions,
    *,
    log: Callable[[str], None],
    progress: ProgressCallback,
) -> dict:
    """Build the ensemble with the best score that predicts `items` videos within `limit` seconds.

    Members are tried as they are, and with fewer frames, shorter texts or several views. When not
    even the cheapest ensemble fits with all its folds, variants of one fold are tried: out-of-fold
    scores cannot measure what fewer folds lose.

    hardware: one for each precision to try, without and with OpenVINO; the first has the precision
    of the kits.
    Returns the report of `save_ensemble` with "budget": the frontier, the chosen ensemble, its lead
    over the next cheaper one, and the dropped candidates. Raises OverBudget when nothing fits,
    UsageFault or EnvironmentFault where a precision cannot be tried; one with OpenVINO is left out
    then unless `options` require it.
    """
    contest = members[0].run.contest
    results = _search_precisions(members, data, hardware, options, contest, log, progress)
    try:
        chosen, result = _best(results, options.limit)
    except OverBudget as error:
        log(f"{error}; trying single folds, for which out-of-fold scores do not measure the loss")
        results = [_search_single_folds(result, contest, options) for result in results]
        chosen, result = _best(results, options.limit)

    variants = [variant for variant in result.variants if variant.name in chosen.members]
    shared = shared_predictions(
        [variant.run for variant in variants], [result.tables[variant.name] for variant in variants]
    )
    return save_ensemble(
        work,
        name,
        variants,
        shared,
        extra_facts={"budget": _budget_report(results, chosen, result, options)},
        precision=result.precision if len({one.precision for one in results}) > 1 else None,
        openvino=result.hardware.openvino,
        settings=options.settings,
        command=_command(name, members, results, options),
    )


def _search_precisions(
    members: list[Variant],
    data: Path,
    hardware: Sequence[ServingHardware],
    options: BudgetOptions,
    contest: Competition,
    log: Callable[[str], None],
    progress: ProgressCallback,
) -> list[SearchResult]:
    """Predict and time every variant in each precision, and search among them."""
    variants = {
        variant.name: variant
        for member in members
        for variant in (member, *_variants(member.run, options))
    }
    variants = list(variants.values())
    sample, listing_seconds = _sample(contest, data, options.items, options.settings.seed)
    start_of = cache(measure_start)

    def search(one: ServingHardware) -> SearchResult:
        fixed = start_of(one.openvino) + listing_seconds
        tables = {
            variant.name: out_of_fold_predictions(
                variant,
                data,
                contest,
                one,
                progress,
                training_precision=one.precision == hardware[0].precision,
            )
            for variant in variants
        }
        cost = measure_costs(variants, sample, one, fixed=fixed, progress=progress)
        return _search(one, variants, tables, contest, cost, options)

    results = []
    for one in hardware:
        try:
            results.append(search(one))
        except (UsageFault, EnvironmentFault) as fault:
            if not one.openvino or options.requires_openvino:
                raise
            precision = precision_name(one.precision)
            log(f"OpenVINO in {precision} is left out of the search: {fault}")
    return results


def _variants(run: Run, options: BudgetOptions) -> list[Variant]:
    return list_variants(run, options.frames, options.lengths, options.clips, options.crops)


def _sample(contest: Competition, data: Path, items: int, seed: int) -> tuple[list[Video], float]:
    """Draw the videos that members are timed with.

    Returns (videos, seconds to list as many videos as the final run has).
    """
    start = time.perf_counter()
    split = contest.find_test_split(contest.splits(data))
    videos = list(contest.videos(data, split, Findings()))
    listing_seconds = (time.perf_counter() - start) * items / max(1, len(videos))
    order = np.random.default_rng(seed).permutation(len(videos))
    return [videos[i] for i in order[:COST_SAMPLE_VIDEOS]], listing_seconds


def _search(
    hardware: ServingHardware,
    variants: list[Variant],
    tables: dict[str, pl.DataFrame],
    contest: Competition,
    cost: Cost,
    options: BudgetOptions,
) -> SearchResult:
    shared = shared_predictions(
        [variant.run for variant in variants], [tables[variant.name] for variant in variants]
    )
    candidates = [
        Candidate(variant.name, variant.run.name, tuple(variant.models())) for variant in variants
    ]
    classes = variants[0].run.facts.classes
    pool = CandidatePool(
        candidates,
        *shared,
        classes,
        contest,
        cost,
        items=options.items,
        mean=options.settings.mean,
    )
    choices = pareto_frontier(pool, threads=hardware.threads)
    return SearchResult(hardware, variants, tables, cost, pool, choices)


def _search_single_folds(
    result: SearchResult, contest: Competition, options: BudgetOptions
) -> SearchResult:
    """Search again over the same variants with one fold each, the same for all."""
    folds = set.intersection(*(set(variant.folds) for variant in result.variants)) - {ALL_FOLDS}
    variants = [variant._replace(folds=(min(folds),)) for variant in result.variants]
    tables = {
        variant.name: result.tables[full_variant(variant.run)._replace(serve=variant.serve).name]
        for variant in variants
    }
    return _search(result.hardware, variants, tables, contest, result.cost, options)


def _best(results: list[SearchResult], limit: float) -> tuple[BudgetChoice, SearchResult]:
    """Choose across precisions. Raises OverBudget when nothing fits."""
    chosen = best_within_limit([choice for result in results for choice in result.choices], limit)
    return chosen, next(result for result in results if chosen in result.choices)


def _budget_report(
    results: list[SearchResult],
    chosen: BudgetChoice,
    result: SearchResult,
    options: BudgetOptions,
) -> dict:
    """Describe the frontier, the choice and what was dropped, in plain values for JSON."""
    draws, seed = options.settings.draws, options.settings.seed
    lead = choice_gain(result.pool, result.choices, chosen, draws=draws, seed=seed)
    threads = result.hardware.threads
    dropped = dropped_members(result.pool, chosen, draws=draws, seed=seed, threads=threads)
    return {
        "limit": options.limit,
        "items": options.items,
        "margin": TIME_MARGIN,
        "cost": result.cost._asdict(),
        **result.backend,
        "frontier": _frontier(results),
        "chosen": {**chosen.to_dict(), **result.backend},
        "lead": lead and lead.to_dict(),
        "dropped": [member.to_dict() for member in dropped],
    }


def _frontier(results: list[SearchResult]) -> list[dict]:
    """Return the Pareto frontier over all precisions, cheapest first, as plain values."""
    trials = {
        (i, j): (choice.seconds, choice.score)
        for i, result in enumerate(results)
        for j, choice in enumerate(result.choices)
    }
    return [
        {**results[i].choices[j].to_dict(), **results[i].backend}
        for i, j in efficient_subsets(trials)
    ]


def _command(
    name: str,
    members: list[Variant],
    results: list[SearchResult],
    options: BudgetOptions,
) -> str:
    """Return the command that builds the ensemble again."""
    other_precisions = list(dict.fromkeys(result.precision for result in results))[1:]
    words = ["--limit", str(options.limit), "--items", str(options.items)]
    words += _openvino_option([result.hardware for result in results])
    lists = {
        "--frames": options.frames,
        "--length": options.lengths,
        "--clips": options.clips,
        "--crops": options.crops,
        "--precision": other_precisions,
    }
    for option, values in lists.items():
        words += [option, ",".join(map(str, values))] if values else []
    return ensemble_command(name, members, words, options.settings)


def _openvino_option(tried: Sequence[ServingHardware]) -> list[str]:
    """Return what the command says about OpenVINO: nothing where it was left out in some precision,
    as the option would require it in each.
    """
    by_openvino = {one.precision for one in tried if one.openvino}
    if not by_openvino:
        return ["--no-openvino"]
    return ["--openvino"] if by_openvino == {one.precision for one in tried} else []
