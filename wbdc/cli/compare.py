"""wbdc compare: is one run better than another, or is it noise?"""

from collections.abc import Sequence
from pathlib import Path

import click

from wbdc.cli import console, shared_options
from wbdc.cli.ensemble_report import print_support
from wbdc.cli.name_completion import RUN_NAME


@click.command()
@click.argument("run", type=RUN_NAME)
@click.argument("other", type=RUN_NAME)
@shared_options.draws()
@shared_options.seed
@shared_options.verify_files
@shared_options.work
@shared_options.as_json
def compare(run: str, other: str, draws: int, seed: int, work: Path, as_json: bool) -> None:
    """Compare RUN with OTHER on the videos that both held out.

    Prints a 95% confidence interval of the difference, from a paired bootstrap over the videos.

    \b
    Example:
      wbdc compare dual_stream-1a2b3c4d dual_stream-5e6f7a8b
    """
    from wbdc.ensemble.run_comparison import compare_runs
    from wbdc.train.runs import open_run

    first = open_run(work, run)
    comparison = compare_runs(first, open_run(work, other), draws=draws, seed=seed)
    if as_json:
        console.print_json(comparison)
    else:
        print_comparison(comparison, run, other, first.contest.score_components)


def print_comparison(
    comparison: dict, run: str, other: str, component_order: Sequence[str] = ()
) -> None:
    """Print the scores of two runs, and whether their difference is more than noise."""
    names = console.component_names(*comparison["scores"].values(), order=component_order)
    rows = [
        (run_name, *(scores[name] for name in names))
        for run_name, scores in comparison["scores"].items()
    ]
    console.print_table(f"Out of fold, {comparison['rows']:,} videos", ("", *names), rows)
    print_support(comparison["support"])
    interval = f"[{comparison['low']:+.4f}, {comparison['high']:+.4f}]"
    console.print_text(
        f"{run} over {other}: {comparison['difference']:+.4f} {interval}, {comparison['verdict']}."
    )
