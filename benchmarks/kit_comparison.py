"""Compare variants of a kit by scores on held-out videos: what several benchmarks share.

Every variant is trained with every seed, and the first is the reference. The gain of a variant is
the mean over the seeds, with a paired bootstrap interval over the videos that were held out.
Finished runs are reused, so an interrupted benchmark continues.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np

from wbdc.cli import console, shared_options
from wbdc.ensemble.bootstrap import RowScore, competition_scorer, paired_gain
from wbdc.ensemble.shared_rows import shared_predictions
from wbdc.train.kit import Kit
from wbdc.train.reporter import Reporter
from wbdc.train.runs import Run
from wbdc.train.session import open_session

NO_PRETRAINING = "none"


def comparison_options(seeds: str = "0,1", folds: str = "each") -> Callable[[Any], Any]:
    """Add the options of a comparison to a command. seeds, folds: their defaults."""
    options = (
        click.option("--kit", default="dual_stream", show_default=True),
        click.option("--seeds", default=seeds, show_default=True),
        click.option("--folds", default=folds, show_default=True),
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True),
        click.option("--draws", type=click.IntRange(100), default=1000, show_default=True),
        shared_options.work,
        shared_options.as_json,
    )

    def add_options(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add_options


def train_quietly(stage: str, kit: Kit, work: Path, **options: Any) -> Run:
    """Pretrain or train a kit without output, and return its run.

    stage: "pretrain" or "train". options: those of `open_session`.
    """
    session = open_session(stage, kit, work, **options)
    session.train(Reporter(log=lambda text: None))
    return session.run


def compare_variants(
    names: Iterable[str],
    train: Callable[[str, int], Run],
    seeds: str,
    folds: str,
    draws: int,
) -> list[dict]:
    """Train variants, and return a row of score and gain over the first variant for each.

    train: of the name of a variant and a seed. seeds, folds: numbers joined by commas; folds may
    be "each".
    """
    rows: list[dict] = []
    reference: RowScore | None = None
    for name in names:
        runs = [train(name, int(seed)) for seed in seeds.split(",")]
        scorer, count = _mean_scorer(runs, folds)
        reference = reference or scorer
        gain = paired_gain(scorer, reference, count, draws=draws)
        row = {"variant": name, "score": scorer(np.arange(count)), **gain.to_dict()}
        rows.append(row)
        click.echo(f"{name}: {row['score']:.4f} ({row['difference']:+.4f})", err=True)
    return rows


def _mean_scorer(runs: list[Run], folds: str) -> tuple[RowScore, int]:
    """Return the mean score of some runs as a function of row indices, and the number of rows."""
    shared = shared_predictions(runs, only_folds=[] if folds == "each" else folds.split(","))
    contest = runs[0].contest
    classes = runs[0].facts.classes
    scorers = [
        competition_scorer(contest, shared.truth, member.argmax(1), classes)
        for member in shared.members
    ]
    return lambda rows: float(np.mean([score(rows) for score in scorers])), len(shared.truth)


def print_comparison(
    kit: str,
    seeds: str,
    folds: str,
    rows: list[dict],
    as_json: bool,
    columns: tuple[str, ...] = (),
) -> None:
    """Print scores and gains as a table, or as JSON. columns: further keys of the rows to show."""
    if as_json:
        console.print_json({"kit": kit, "seeds": seeds, "folds": folds, "rows": rows})
        return

    table = [
        (
            row["variant"],
            row["score"],
            f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]",
            row["verdict"],
            *(f"{row.get(column, 0):,.0f}" for column in columns),
        )
        for row in rows
    ]
    title = f"{kit} --tiny, folds {folds}, seeds {seeds}"
    console.print_table(title, ("", "score", "gain", "", *columns), table)
