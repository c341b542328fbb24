"""wbdc train: fine-tune a kit on one fold, several, or all data."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from wbdc.cli import console, shared_options, training
from wbdc.cli.name_completion import PSEUDO_LABELS_NAME, RUN_NAME


@click.command()
@shared_options.kit_options
@click.option(
    "--fold",
    required=True,
    help="0, or 0,2, or each (every fold), or all (every row, nothing held out).",
)
@click.option(
    "--without",
    metavar="MODALITY",
    help="Ablation: train and evaluate without text, frames or one of [modality].",
)
@click.option(
    "--from",
    "source",
    type=RUN_NAME,
    default="auto",
    show_default=True,
    help="Pretrained run to start from: its name, auto (this kit's, if there is one) or none.",
)
@click.option(
    "--pseudo",
    type=PSEUDO_LABELS_NAME,
    metavar="NAME",
    help="Also train on videos with pseudo-labels of `wbdc pseudo`; short for --set "
    "'train.pseudo.name=\"NAME\"'.",
)
@shared_options.measure
@shared_options.training_options
def train(
    kit: str,
    tiny: bool,
    changes: tuple[str, ...],
    pseudo: str | None,
    work: Path,
    dry_run: bool,
    measure: bool,
    as_json: bool,
    weights: str | None,
    **options: object,
) -> None:
    """Fine-tune a kit and score it on the held-out videos.

    Run the same command again to resume a training that was stopped or killed; it ends with the
    same bits. Ctrl-C stops at the next safe point (exit code 11). Several GPUs train together when
    torchrun starts one process for each.

    \b
    Example:
      wbdc train --kit dual_stream --fold 0
      wbdc train --kit dual_stream --fold each --tiny --without frames
      wbdc train --kit ngrams --fold each --jobs 5
      torchrun --nproc-per-node 2 -m wbdc train --kit dual_stream --fold 0
    """
    if pseudo:
        changes = (*changes, f"train.pseudo.name={json.dumps(pseudo)}")
    train_and_print(kit, tiny, changes, work, dry_run, measure, as_json, weights, options)


def train_and_print(
    kit: str,
    tiny: bool,
    changes: tuple[str, ...],
    work: Path,
    dry_run: bool,
    measure: bool,
    as_json: bool,
    weights: str | None,
    options: dict[str, object],
) -> None:
    """Fine-tune a kit and print its scores. options: of `open_session`."""
    trained = training.run_session(
        "train", kit, tiny, changes, work, dry_run, measure, as_json, weights, options
    )
    if trained is None:
        return

    session, folds = trained
    run = session.run
    source = session.plan.source
    if as_json:
        note = {"note": session.note} if session.note else {}
        console.print_json(
            {
                "run": run.name,
                "folder": str(run.folder),
                "from": source.name if source else None,
                **note,
                "folds": folds,
            }
        )
        return

    print_folds(run.name, run.folder, folds, session.plan.contest.score_components)
    if source:
        console.print_text(f"Started from the pretrained run {source.name}")


def _statistics_rows(folds: dict[str, dict], names: Sequence[str]) -> list[tuple]:
    """Return the mean and the standard deviation of the scores over folds as two rows of a table;
    none where fewer than two folds were scored.
    """
    from wbdc.train.fold_statistics import OFFICIAL, score_over_folds

    mean, deviation = score_over_folds(folds)
    if None in deviation.values() or not deviation:
        return []
    columns = [*names, OFFICIAL]
    return [
        ("mean", *(mean[name] for name in columns), ""),
        ("sd", *(deviation[name] for name in columns), ""),
    ]


def print_folds(
    run_name: str, folder: Path, folds: dict[str, dict], component_order: Sequence[str] = ()
) -> None:
    """Print the scores of a run's folds, and the folder of the run."""
    scores = [facts["score"] for facts in folds.values() if "score" in facts]
    names = console.component_names(*scores, order=component_order)
    rows = [
        (f"fold {fold}", *console.score_cells(facts, names), f"{facts['seconds']:.0f} s")
        for fold, facts in folds.items()
    ]
    rows += _statistics_rows(folds, names)
    console.print_table(run_name, ("", *names, "official", "time"), rows)
    for fold, facts in folds.items():
        console.print_alarms(facts, f"fold {fold}: ")
    if optimistic := [fold for fold, facts in folds.items() if "selected_on" in facts]:
        console.print_text(
            f"Scores of fold {', '.join(optimistic)} are optimistic: the held-out videos also "
            "selected the weights."
        )
    console.print_text(f"Saved in {folder}")
