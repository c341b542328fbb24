"""wbdc oof: export the out-of-fold predictions of a run."""

from pathlib import Path

import click

from wbdc.cli import console, shared_options
from wbdc.cli.name_completion import RUN_NAME


@click.command()
@click.argument("run", type=RUN_NAME)
@click.option("--csv", "as_csv", is_flag=True, help="Print one row for each video on stdout.")
@click.option(
    "--probabilities",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the probabilities of all classes to a .csv, .parquet or .npz file.",
)
@shared_options.verify_files
@shared_options.work
@shared_options.as_json
def oof(run: str, as_csv: bool, probabilities: Path | None, work: Path, as_json: bool) -> None:
    """Export the out-of-fold predictions of RUN.

    --csv and --json print, for each held-out video: id, fold, label, prediction, probability (of
    the prediction), label_probability and label_rank (1 where the prediction is right). The file of
    --probabilities has the columns id and one for each class, as `wbdc ensemble --with` reads it.

    \b
    Example:
      wbdc oof dual_stream-1a2b3c4d --csv > oof.csv
      wbdc oof dual_stream-1a2b3c4d --probabilities oof.parquet
    """
    from wbdc.core.errors import UsageFault
    from wbdc.ensemble.oof_table import oof_table, write_oof_probabilities
    from wbdc.train.runs import open_run

    if not (as_csv or as_json or probabilities):
        raise UsageFault("nothing to export; give --csv, --json or --probabilities FILE")
    opened = open_run(work, run)
    if probabilities:
        rows = write_oof_probabilities(opened, probabilities)
        console.log(f"{probabilities}: {rows:,} videos, {len(opened.facts.classes)} classes")
    if as_csv:
        click.echo(oof_table(opened).write_csv(), nl=False)
    if as_json:
        console.print_json({"run": opened.name, "rows": oof_table(opened).to_dicts()})
