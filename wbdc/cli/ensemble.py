"""wbdc ensemble: blend runs, and say what the blend is worth."""

from pathlib import Path

import click

from wbdc.cli import console


@click.command()
@click.option("--run", "runs", multiple=True, help="A run to take. Repeatable; by default every finished one of the prepared data.")
@click.option("--name", default="ensemble", show_default=True, help="What to call it.")
@click.option("--draws", type=click.IntRange(100), default=1000, show_default=True, help="Bootstrap draws for the intervals.")
@console.seed
@console.prepared
@console.dry_run
@console.work
@console.as_json
def ensemble(runs: tuple[str, ...], name: str, draws: int, seed: int, prepared: str | None, dry_run: bool, work: Path, as_json: bool) -> None:
    """Learn blend weights on out-of-fold predictions.

    The ensemble's score is its own: each fold is answered with weights learned on the others (nested cross-validation).
    Intervals are 95 % bootstrap over videos; a gain whose interval holds 0 is called within noise.

    \b
    Example:
      wbdc ensemble
      wbdc ensemble --run dual_stream-1a2b3c4d --run single_stream-5e6f7a8b --name two
    """
    from wbdc.ensemble.store import build, choose
    from wbdc.prepare.dataset import open_prepared

    chosen, left = choose(work, runs, open_prepared(work, prepared))
    for sentence in left:
        console.say(sentence)
    if dry_run:
        names = [run.name for run in chosen]
        return console.show({"members": names}) if as_json else console.tell(f"Would blend {', '.join(names)}.")
    report = build(work, name, chosen, draws=draws, seed=seed)
    console.show(report) if as_json else print_report(report, name)


def print_report(report: dict, name: str) -> None:
    """Print an ensemble's members, its own score and its gain."""
    rows = [(member, report["weights"][member], *_numbers(facts)) for member, facts in report["members"].items()]
    rows.append((name, "", *_numbers(report["ensemble"])))
    columns = ("out of fold", "weight", *console.COMPONENTS, "95 % interval", "official")
    console.table(f"{report['rows']:,} videos of folds {', '.join(report['folds'])}", columns, rows)
    gain = report["gain"]
    console.tell(f"Over {report['best']}: {gain['difference']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}], {gain['verdict']}.")


def _numbers(facts: dict) -> tuple:
    low, high = facts["interval"]
    return *(facts["score"][c] for c in console.COMPONENTS), f"{low:.4f} – {high:.4f}", facts["official"]["mean"]
