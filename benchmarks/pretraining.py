"""Does pretraining help? Each objective alone, and sets of them, against training from nothing.

    wbdc prepare --data emojizh/data --work work
    python benchmarks/pretraining.py --work work
    python benchmarks/pretraining.py --work work --set mask_words --set mask_words+match --seeds 0,1
    python benchmarks/pretraining.py --work work --folds 0,1 --json

For every set and seed it pretrains the kit with --tiny on all splits, then fine-tunes the folds
from that run. Finished runs are reused, so an interrupted benchmark continues. The gain over
training without pretraining is the mean over the seeds, with a paired bootstrap interval over the
videos that were held out.
"""

from pathlib import Path

import click
import numpy as np

from wbdc.cli import console, shared_options
from wbdc.core import plug
from wbdc.ensemble.bootstrap import RowScore, competition_scorer, paired_gain
from wbdc.ensemble.shared_rows import shared_predictions
from wbdc.train import objectives
from wbdc.train.kit import open_kit
from wbdc.train.reporter import Reporter
from wbdc.train.runs import Run
from wbdc.train.session import open_session

NO_PRETRAINING = "none"
# settings that an objective needs, or that suit few and short texts
SETTINGS = {
    "mask_words": "share = 0.15",
    "match": "swap = 0.5",
}
# these need labels, or a file of predictions
LEFT_OUT = ("classify", "classify_frames", "pseudo_labels")


def objective_tables(names: str) -> str:
    """Return the value of pretrain.objective for "mask_words+match"."""
    tables = [f'{{ use = "{n}", {SETTINGS.get(n, "")} }}' for n in names.split("+")]
    return f"[{', '.join(table.replace(',  }', ' }') for table in tables)}]"


def train_folds(
    work: Path, kit_name: str, names: str, seed: int, folds: str, hardware: dict
) -> Run:
    """Pretrain with a set of objectives, fine-tune the folds, and return their run."""
    reporter = Reporter(log=lambda text: None)
    source = NO_PRETRAINING
    if names != NO_PRETRAINING:
        change = f"pretrain.objective = {objective_tables(names)}"
        kit = open_kit(kit_name, tiny=True, changes=(change,))
        pretraining = open_session("pretrain", kit, work, seed=seed, **hardware)
        pretraining.train(reporter)
        source = pretraining.run.name

    kit = open_kit(kit_name, tiny=True)
    session = open_session("train", kit, work, seed=seed, fold=folds, source=source, **hardware)
    session.train(reporter)
    return session.run


def mean_scorer(runs: list[Run], folds: str) -> tuple[RowScore, int]:
    """Return the mean score of some runs as a function of row indices, and the number of rows."""
    shared = shared_predictions(runs, only_folds=[] if folds == "each" else folds.split(","))
    contest = runs[0].contest
    classes = runs[0].facts.classes
    scorers = [
        competition_scorer(contest, shared.truth, member.argmax(1), classes)
        for member in shared.members
    ]
    return lambda rows: float(np.mean([score(rows) for score in scorers])), len(shared.truth)


def gain_row(scorer: RowScore, reference: RowScore, count: int, draws: int) -> dict:
    """Return a score and its gain over a reference on the same rows, with its interval."""
    gain = paired_gain(scorer, reference, count, draws=draws)
    return {"score": scorer(np.arange(count)), **gain.to_dict()}


def print_gains(title: str, column: str, rows: list[dict]) -> None:
    """Print a table of scores and gains. column: the key of the rows that names them."""
    table = [
        (
            row[column],
            row["score"],
            f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]",
            row["verdict"],
        )
        for row in rows
    ]
    console.print_table(title, ("", "score", "gain", ""), table)


@click.command()
@click.option("--kit", default="dual_stream", show_default=True)
@click.option("--set", "sets", multiple=True, help="Objectives joined by +; by default each alone.")
@click.option("--seeds", default="0,1", show_default=True)
@click.option("--folds", default="each", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--draws", type=click.IntRange(100), default=1000, show_default=True)
@shared_options.work
@shared_options.as_json
def main(
    kit: str,
    sets: tuple[str, ...],
    seeds: str,
    folds: str,
    threads: int,
    draws: int,
    work: Path,
    as_json: bool,
) -> None:
    """Compare sets of pretraining objectives with training from nothing."""
    hardware = {"threads": threads}
    each = [name for name in plug.plug_names(objectives) if name not in LEFT_OUT]
    rows = []
    scorers = {}
    for names in (NO_PRETRAINING, *(sets or each)):
        runs = [
            train_folds(work, kit, names, int(seed), folds, hardware) for seed in seeds.split(",")
        ]
        scorers[names], count = mean_scorer(runs, folds)
        row = gain_row(scorers[names], scorers[NO_PRETRAINING], count, draws)
        rows.append({"pretraining": names, **row})
        click.echo(f"{names}: {row['score']:.4f} ({row['difference']:+.4f})", err=True)

    if as_json:
        console.print_json({"kit": kit, "seeds": seeds, "folds": folds, "rows": rows})
    else:
        print_gains(f"{kit} --tiny, folds {folds}, seeds {seeds}", "pretraining", rows)


if __name__ == "__main__":
    main()
