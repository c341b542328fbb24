"""wbdc train: fine-tune a kit on one fold, several, or all data."""

from collections.abc import Sequence
from pathlib import Path

import click

from wbdc.cli import console


@click.command()
@console.kit_options
@click.option(
    "--fold",
    required=True,
    help="0, or 0,2, or each (all of them in turn), or all (every row, nothing held out).",
)
@click.option(
    "--without",
    type=click.Choice(["text", "frames"]),
    help="Ablation: take a modality away, in training and judging.",
)
@click.option(
    "--from",
    "source",
    default="auto",
    show_default=True,
    help="Pretrained run to start from: its name, auto (this kit's, where there is one), or none.",
)
@console.training_options
def train(
    kit: str,
    tiny: bool,
    changes: tuple[str, ...],
    work: Path,
    dry_run: bool,
    as_json: bool,
    weights: str | None,
    **asked: object,
) -> None:
    """Fine-tune a kit and judge it on what it did not see.

    Killed at any moment and started again, it goes on and ends with the same bits. Ctrl-C stops at
    a safe point (exit 11).

    \b
    Example:
      wbdc train --kit dual_stream --fold 0
      wbdc train --kit dual_stream --fold each --tiny --without frames
    """
    from wbdc.train.kit import open_kit
    from wbdc.train.session import open_session

    console.use_weights(weights)
    session = open_session("train", open_kit(kit, tiny=tiny, changes=changes), work, **asked)
    if dry_run:
        return console.show_plan(session, as_json)
    with console.progress(as_json) as progress:
        found = session.train(console.console_reporter(progress, as_json))
    if as_json:
        return console.print_json(
            {"run": session.run.name, "folder": str(session.run.folder), "folds": found}
        )
    print_folds(session.run.name, session.run.folder, found, session.plan.contest.score_components)


def print_folds(name: str, folder: Path, found: dict[str, dict], order: Sequence[str] = ()) -> None:
    """Print the scores of a run's folds, and where the run lies. order: of the score's components."""
    held = (facts["score"] for facts in found.values() if "score" in facts)
    names = console.components(*held, order=order)
    rows = [
        (f"fold {fold}", *console.score_table(facts, names), f"{facts['seconds']:.0f} s")
        for fold, facts in found.items()
    ]
    console.print_table(name, ("", *names, "official", "time"), rows)
    console.print_text(f"Lies in {folder}")
