"""wbdc sweep: search for settings of a kit, and confirm the best ones on other folds."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.cli import console, shared_options

if TYPE_CHECKING:
    from wbdc.sweep.run_sweep import SweepPlan

MAX_LISTED_TRIALS = 10
PRUNED = "pruned"


@click.command()
@shared_options.kit_options
@click.option(
    "--space",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file of the settings that vary.",
)
@click.option("--name", help="Of the sweep; by default that of the space's file.")
@click.option(
    "--trials",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Number of trials in all; a sweep that is started again continues to it.",
)
@click.option("--folds", default="0", show_default=True, help="Folds that trials are scored on.")
@click.option("--confirm", help="Folds that confirm the best trial; by default all others.")
@click.option(
    "--prune/--no-prune",
    "prunes",
    default=True,
    show_default=True,
    help="End trials early that score below the median of the earlier ones, validated each epoch.",
)
@click.option(
    "--from",
    "source",
    default="none",
    show_default=True,
    help="Pretrained run that trials start from.",
)
@shared_options.draws()
@shared_options.seed
@shared_options.prepared
@shared_options.weights_root
@shared_options.device
@shared_options.threads
@shared_options.dry_run
@shared_options.work
@shared_options.as_json
def sweep(
    kit: str,
    tiny: bool,
    changes: tuple[str, ...],
    space: Path,
    name: str | None,
    trials: int,
    folds: str,
    confirm: str | None,
    prunes: bool,
    source: str,
    draws: int,
    seed: int,
    prepared: str | None,
    weights: str | None,
    device: str,
    threads: int | None,
    dry_run: bool,
    work: Path,
    as_json: bool,
) -> None:
    """Search for settings of a kit, and confirm the best ones.

    Trials are drawn by Optuna (TPE). The file of --space lists values, or gives the bounds of a
    number:

    \b
      [train]
      epochs = [10, 20]
      learning_rate.rest = { low = 1e-4, high = 1e-2, log = true }

    The score of the best of many trials is too high, since it was selected by that score. So the
    best trial and the unchanged kit are trained on folds that no trial used, and the gain there is
    printed beside the promised one. Run the command again to continue a sweep that was stopped;
    run it in several shells to share the trials.

    \b
    Example:
      wbdc sweep --kit dual_stream --tiny --space space.toml --trials 30
      wbdc sweep --kit dual_stream --space space.toml --folds 0,1 --confirm 2,3,4
    """
    from wbdc.prepare.dataset import open_prepared
    from wbdc.sweep.run_sweep import SweepPlan, check_plan
    from wbdc.sweep.run_trial import SweptKit
    from wbdc.sweep.search_space import read_space
    from wbdc.train.session import parse_folds

    shared_options.use_weights(weights)
    data = open_prepared(work, prepared)
    count = data.facts.fold_count
    searched = tuple(parse_folds(folds, count))
    remaining = ",".join(str(i) for i in range(count) if str(i) not in searched)
    confirm = confirm or remaining
    options = {
        "prepared": data.hash,
        "source": source,
        "device": device,
        "threads": threads,
        "seed": seed,
    }
    plan = SweepPlan(
        name=name or space.stem,
        swept=SweptKit(kit, tiny, changes, work, options),
        space=read_space(space),
        folds=searched,
        confirm_folds=tuple(parse_folds(confirm, count)) if confirm else (),
        trials=trials,
        prunes=prunes,
        seed=seed,
    )
    if dry_run:
        check_plan(plan, computes=False)
        return _print_plan(plan, as_json)

    result = _run(plan, draws, as_json)
    return console.print_json(result) if as_json else _print_result(plan, result)


def _run(plan: "SweepPlan", draws: int, as_json: bool) -> dict:
    """Run the trials and the confirmation of a sweep; log the score of each trial."""
    from wbdc.sweep.run_sweep import confirm, search

    def log_trial(number: int, score: float | None) -> None:
        if not as_json:
            console.log(f"trial {number}: {PRUNED if score is None else f'{score:.4f}'}")

    with console.progress(as_json) as progress:
        reporter = console.console_reporter(progress, as_json)
        study = search(plan, reporter, log_trial)
        return confirm(plan, study, reporter, draws=draws)


def _print_plan(plan: "SweepPlan", as_json: bool) -> None:
    facts = {
        "sweep": plan.name,
        "settings": ", ".join(plan.space),
        "trials": plan.trials,
        "folds": ",".join(plan.folds),
        "confirm": ",".join(plan.confirm_folds),
        "folder": str(plan.folder),
    }
    if as_json:
        return console.print_json(facts)
    for name, value in facts.items():
        console.print_text(f"{name}: {value}")
    return None


def _print_result(plan: "SweepPlan", result: dict) -> None:
    """Print the best trials, and what the best one gains on the folds of the confirmation."""
    trials = result["trials"]
    rows = [
        (
            str(trial["number"]),
            PRUNED if trial["score"] is None else f"{trial['score']:.4f}",
            ", ".join(trial["settings"]),
        )
        for trial in trials[:MAX_LISTED_TRIALS]
    ]
    title = f"Best of {len(trials)} trials on fold {', '.join(result['folds'])}"
    console.print_table(title, ("trial", "score", "settings"), rows)

    gain = result["confirmed"]
    console.print_text(
        f"Gain of trial {result['best']['number']} over the unchanged kit, on the folds of the "
        f"search: {result['promised']:+.4f}."
    )
    console.print_text(
        f"On fold {', '.join(result['confirm_folds'])}, which no trial used: "
        f"{gain['difference']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}], {gain['verdict']}. "
        f"The search overstates the gain by {result['overstated']:+.4f}."
    )
    options = " ".join(f"--set '{change}'" for change in result["best"]["settings"])
    console.print_text(f"Settings of the best trial: {options}")
    console.print_text(f"Saved in {plan.folder}")
    console.print_text(f"A page of the trials: {shlex.join(['wbdc', 'report', str(plan.folder)])}")
