"""wbdc init: describe a contest whose data are a table, without code."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.cli import console, shared_options

if TYPE_CHECKING:
    from wbdc.prepare.contest_draft import ContestDraft

MAX_EXAMPLE_CHARACTERS = 40


@click.command()
@click.argument("table", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--test",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table of the test rows; by default rows without a label.",
)
@click.option("--id", "id_column", metavar="COLUMN", help="Column of the ids.")
@click.option("--label", "label_column", metavar="COLUMN", help="Column of the classes.")
@click.option(
    "--frames",
    "frame_column",
    metavar="COLUMN",
    help="Column of paths: an image, a video or a zip of images.",
)
@click.option(
    "--text",
    "text_columns",
    metavar="COLUMN",
    multiple=True,
    help="Column of text. Repeatable.",
)
@click.option("--metric", default="accuracy", show_default=True, help="Score of the contest.")
@click.option("--kit", "parent", default="dual_stream", show_default=True, help="Kit to extend.")
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    help="Folder to write to; by default the current one.",
)
@shared_options.as_json
def init(
    table: Path,
    test: Path | None,
    id_column: str | None,
    label_column: str | None,
    frame_column: str | None,
    text_columns: tuple[str, ...],
    metric: str,
    parent: str,
    into: Path,
    as_json: bool,
) -> None:
    """Describe a contest from a table, without code.

    Guesses the use of each column of a CSV, TSV, JSON Lines or Parquet file, and
    writes two files: the contest (TABLE.toml) and a kit (TABLE_kit.toml). Parquet
    is converted to CSV beside it.

    \b
    Example:
      wbdc init data.csv
      wbdc prepare --data . --competition ./data.toml
      wbdc train --kit ./data_kit.toml --tiny --fold each
    """
    from wbdc.competitions import open_competition
    from wbdc.core.errors import UsageFault
    from wbdc.core.files import check_writable, publish_bytes
    from wbdc.prepare.contest_draft import convert_parquet, draft_contest
    from wbdc.train.kit import open_kit
    from wbdc.train.kit_draft import draft_kit

    contest_file = into / f"{table.stem}.toml"
    kit_file = into / f"{table.stem}_kit.toml"
    for file in (contest_file, kit_file):
        if file.exists():
            raise UsageFault(f"{file} exists; remove it, or choose another folder with --into")
    check_writable(into)

    draft = draft_contest(
        convert_parquet(table),
        test=convert_parquet(test) if test else None,
        id_column=id_column,
        label_column=label_column,
        frame_column=frame_column,
        text_columns=text_columns,
        metric=metric,
    )
    splits = ["labeled", *(["unlabeled"] if draft.unlabeled else [])]
    kit = draft_kit(parent, f"./{contest_file.name}", draft.text, splits)
    publish_bytes(contest_file, draft.to_toml().encode())
    publish_bytes(kit_file, kit.encode())
    try:
        open_competition(str(contest_file))
        open_kit(str(kit_file))
    except UsageFault:
        contest_file.unlink()
        kit_file.unlink()
        raise

    if as_json:
        facts = {"competition": str(contest_file), "kit": str(kit_file), "columns": draft.roles}
        console.print_json({**facts, "classes": list(draft.classes)})
    else:
        _print(draft, contest_file, kit_file)


def _print(draft: "ContestDraft", contest_file: Path, kit_file: Path) -> None:
    rows = [
        (column.name, draft.roles[column.name], column.filled, _shorten(column.example))
        for column in draft.columns
    ]
    console.print_table("Columns", ("column", "used as", "rows", "example"), rows)
    console.print_text(f"{len(draft.classes)} classes, score: {draft.metric}.")
    if not draft.test_exists:
        console.print_text(f"There are no test rows yet: put {draft.test} beside the table.")
    console.print_text(f"Wrote {contest_file} and {kit_file}. Correct them where a guess is wrong.")
    words = ["--data", str(draft.folder), "--competition", os.path.join(".", contest_file)]
    console.log(f"Next: {shlex.join(['wbdc', 'prepare', *words])}")


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_EXAMPLE_CHARACTERS else f"{line[:MAX_EXAMPLE_CHARACTERS]}…"
