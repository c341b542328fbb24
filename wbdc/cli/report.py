"""wbdc report: one HTML page about a run, an ensemble, a submission, a sweep or prepared data."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.cli import console, name_completion, shared_options

if TYPE_CHECKING:
    from wbdc.report.subjects import Subject

LATEST_DATA = "latest"


@click.command()
@click.argument("name", required=False, type=name_completion.REPORT_NAME)
@click.option(
    "--prepared",
    is_flag=False,
    flag_value=LATEST_DATA,
    metavar="[HASH]",
    help="Report on prepared data instead, by default the latest.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The page to write; by default WORK/reports/NAME.html.",
)
@click.option(
    "--language",
    type=click.Choice(["en", "zh"]),
    default="en",
    show_default=True,
    help="Language of the page.",
)
@click.option(
    "--mistakes",
    type=click.IntRange(0, 5000),
    default=200,
    show_default=True,
    help="Mistakes in the error browser, those that cost most points.",
)
@click.option(
    "--label-errors",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the labels that may be wrong as CSV, for a review and `wbdc prepare "
    "--corrections`.",
)
@click.option(
    "--pictures/--no-pictures",
    default=True,
    show_default=True,
    help="Show frames of mistakes and near-duplicates as thumbnails.",
)
@shared_options.draws()
@shared_options.seed
@shared_options.verify_files
@shared_options.work
@shared_options.as_json
def report(
    name: str | None,
    prepared: str | None,
    out: Path | None,
    language: str,
    mistakes: int,
    label_errors: Path | None,
    pictures: bool,
    draws: int,
    seed: int,
    work: Path,
    as_json: bool,
) -> None:
    """Write an HTML page on a run, ensemble, submission or sweep.

    NAME is a run, an ensemble, a sweep, or the folder of a submission; by default the ensemble or
    run that was finished last. The page needs no network and no other file. It shows the labeled
    split only, since contests forbid printing test content.

    With --json, the numbers of the page are printed, and no page is written.

    \b
    Example:
      wbdc report
      wbdc report dual_stream-1a2b3c4d --out page.html
      wbdc report blend --label-errors review.csv
      wbdc report submissions/monday --language zh
      wbdc report space
      wbdc report --prepared
    """
    from wbdc.core.files import check_output, publish_bytes
    from wbdc.report.build_report import build_report
    from wbdc.report.report_options import ReportOptions

    subject = _subject(work, name, prepared)
    path = out or work / "reports" / f"{subject.name}.html"
    for output in ([] if as_json else [path]) + ([label_errors] if label_errors else []):
        check_output(output)
    options = ReportOptions(draws, seed, mistakes, pictures and not as_json)
    built = build_report(work, subject, options)
    if label_errors:
        publish_bytes(label_errors, _corrections(built.numbers).encode())
    if as_json:
        console.print_json(built.numbers)
        return

    from wbdc.report.page import save_page

    save_page(built, path, language)
    console.print_text(f"Report: {path}")


def _subject(work: Path, name: str | None, prepared: str | None) -> "Subject":
    """Return what the report is about. Raises UsageFault."""
    from wbdc.core.errors import UsageFault
    from wbdc.prepare.dataset import open_prepared
    from wbdc.report.subjects import Subject, find_subject

    if prepared is None:
        return find_subject(work, name)
    if name is not None:
        raise UsageFault("NAME and --prepared are mutually exclusive; give one of them")
    dataset = open_prepared(work, None if prepared == LATEST_DATA else prepared)
    return Subject("prepared", dataset.hash, dataset.folder)


def _corrections(numbers: dict) -> str:
    """Return the labels that may be wrong as CSV. Raises UsageFault for a report without
    predictions.
    """
    from wbdc.core.errors import UsageFault
    from wbdc.report.corrections_file import corrections_csv

    if "label_errors" not in numbers:
        raise UsageFault(
            f"--label-errors needs out-of-fold predictions, and the {numbers['kind']} "
            f"{numbers['name']} has none here; name a run or an ensemble with a held-out fold"
        )
    return corrections_csv(numbers["label_errors"])
