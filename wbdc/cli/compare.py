"""wbdc compare: is one run better than another, or is it noise?"""

from collections.abc import Sequence
from pathlib import Path

import click

from wbdc.cli import console


@click.command()
@click.argument("run")
@click.argument("other")
@click.option(
    "--draws", type=click.IntRange(100), default=1000, show_default=True, help="Bootstrap draws."
)
@console.seed
@console.verify
@console.work
@console.as_json
def compare(run: str, other: str, draws: int, seed: int, work: Path, as_json: bool) -> None:
    """Compare RUN with OTHER on the videos that both held out.

    The interval of the difference is a paired bootstrap, 95 %.

    \b
    Example:
      wbdc compare dual_stream-1a2b3c4d dual_stream-5e6f7a8b
    """
    from wbdc.ensemble.ensembles import compare_runs as judge
    from wbdc.train.runs import open_run

    first = open_run(work, run)
    found = judge(first, open_run(work, other), draws=draws, seed=seed)
    if as_json:
        return console.print_json(found)
    print_comparison(found, run, other, first.contest.score_components)


def print_comparison(found: dict, run: str, other: str, order: Sequence[str] = ()) -> None:
    """Print the scores of two runs, and whether their difference is more than noise. order: of the
    score's components.
    """
    names = console.components(*found["scores"].values(), order=order)
    rows = [(name, *(scores[c] for c in names)) for name, scores in found["scores"].items()]
    console.print_table(f"Out of fold, {found['rows']:,} videos", ("", *names), rows)
    console.print_text(
        f"{run} over {other}: {found['difference']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}], {found['verdict']}."
    )
