"""wbdc runs: list, show, compare and remove runs."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from wbdc.cli import console, shared_options
from wbdc.cli.name_completion import RUN_NAME

if TYPE_CHECKING:
    from wbdc.ensemble.run_summary import RunSummary
    from wbdc.train.runs import Run

# largest first, except for texts
SORT_KEYS = ("score", "mean", "seconds", "bytes", "finished", "name", "kit")
ASCENDING_KEYS = ("name", "kit")
MISSING = "-"
MAX_VALUE_LENGTH = 24  # of a changed setting in the table

draws_option = shared_options.draws(200)
submissions_option = click.option(
    "--submissions",
    type=click.Path(file_okay=False, path_type=Path),
    default="submissions",
    show_default=True,
    help="Folder of the packed folders, whose runs are not removed, beside WORK/submissions.",
)
remove_option = click.option(
    "--yes", "removes", is_flag=True, help="Remove them; otherwise they are only listed."
)


@click.group(invoke_without_command=True)
@click.option(
    "--sort",
    "key",
    type=click.Choice(SORT_KEYS),
    default="score",
    show_default=True,
    help="Column to sort by: the best, longest, largest or latest first.",
)
@draws_option
@click.option("--csv", "as_csv", is_flag=True, help="Print the table as CSV on stdout.")
@shared_options.verify_files
@shared_options.work
@shared_options.as_json
@click.pass_context
def runs(
    context: click.Context, key: str, draws: int, as_csv: bool, work: Path, as_json: bool
) -> None:
    """List the runs with their scores, or work on single ones.

    The score is that of the out-of-fold predictions of all finished folds, with a 95% bootstrap
    interval; "mean" and "sd" are over the folds.

    \b
    Example:
      wbdc runs
      wbdc runs --sort seconds --csv > runs.csv
      wbdc runs show dual_stream-1a2b3c4d
      wbdc runs diff dual_stream-1a2b3c4d dual_stream-5e6f7a8b
      wbdc runs gc
    """
    if context.invoked_subcommand:
        _refuse_options_before_command(context)
        return

    from wbdc.ensemble.run_summary import summarize_runs

    summaries = sort_summaries(summarize_runs(work, draws=draws), key)
    if as_json:
        console.print_json({"runs": [asdict(summary) for summary in summaries]})
    elif as_csv:
        click.echo(_csv_text(summaries), nl=False)
    elif summaries:
        _print_summaries(summaries)
    else:
        console.print_text(f"No runs in {work / 'runs'}; `wbdc train` makes one.")


@runs.command()
@click.argument("name", type=RUN_NAME)
@draws_option
@shared_options.verify_files
@shared_options.work
@shared_options.as_json
def show(name: str, draws: int, work: Path, as_json: bool) -> None:
    """Show one run: the score of each fold, what it was made from, and its command.

    \b
    Example:
      wbdc runs show dual_stream-1a2b3c4d
    """
    from wbdc.ensemble.run_summary import summarize_run
    from wbdc.train.runs import open_run

    run = open_run(work, name, stage=None)
    summary = summarize_run(run, draws=draws)
    folds = run.folds()
    if as_json:
        return console.print_json({**asdict(summary), "facts": folds})

    names = console.component_names(
        *(facts["score"] for facts in folds.values() if "score" in facts),
        order=run.contest.score_components if folds else (),
    )
    rows = [
        (f"fold {fold}", *console.score_cells(facts, names), f"{facts.get('seconds', 0):.0f} s")
        for fold, facts in folds.items()
    ]
    if rows:
        console.print_table(run.name, ("", *names, "official", "time"), rows)
    for label, value in _facts_of(summary, work):
        console.print_text(f"{label}: {value}")
    for fold, facts in folds.items():
        console.print_alarms(facts, f"fold {fold}: ")
        console.print_text(facts.get("command", ""), "dim")
    return None


@runs.command("diff")
@click.argument("run", type=RUN_NAME)
@click.argument("other", type=RUN_NAME)
@shared_options.work
@shared_options.as_json
def diff_two(run: str, other: str, work: Path, as_json: bool) -> None:
    """List the settings in which RUN and OTHER differ.

    `wbdc compare` tests whether their scores differ by more than noise.

    \b
    Example:
      wbdc runs diff dual_stream-1a2b3c4d dual_stream-5e6f7a8b
    """
    from wbdc.train.run_differences import diff_runs
    from wbdc.train.runs import open_run

    differences = diff_runs(*(open_run(work, name, stage=None) for name in (run, other)))
    if as_json:
        rows = [{"setting": name, run: old, other: new} for name, old, new in differences]
        return console.print_json({"differences": rows})
    if not differences:
        return console.print_text(f"{run} and {other} have the same settings.")
    rows = [(name, _value_text(old), _value_text(new)) for name, old, new in differences]
    return console.print_table("Differences", ("setting", run, other), rows)


@runs.command("rm")
@click.argument("names", nargs=-1, required=True, type=RUN_NAME)
@remove_option
@submissions_option
@shared_options.work
@shared_options.as_json
def remove_named(
    names: tuple[str, ...], removes: bool, submissions: Path, work: Path, as_json: bool
) -> None:
    """Remove runs by their names.

    Without --yes, they are only listed. A run that an ensemble, a submission or another run needs
    is not removed.

    \b
    Example:
      wbdc runs rm dual_stream-1a2b3c4d
      wbdc runs rm dual_stream-1a2b3c4d --yes
    """
    from wbdc.submit.runs_in_use import check_removable, runs_in_use
    from wbdc.train.runs import list_runs, open_run

    chosen = [open_run(work, name, stage=None) for name in dict.fromkeys(names)]
    check_removable(chosen, list_runs(work, None), runs_in_use(work, submissions))
    _remove(chosen, removes, as_json)


@runs.command("gc")
@remove_option
@submissions_option
@shared_options.work
@shared_options.as_json
def remove_unused(removes: bool, submissions: Path, work: Path, as_json: bool) -> None:
    """Remove all runs that no ensemble and no submission needs.

    Without --yes, they are only listed.

    \b
    Example:
      wbdc runs gc
      wbdc runs gc --yes
    """
    from wbdc.submit.runs_in_use import runs_in_use, unused_runs
    from wbdc.train.runs import list_runs

    _remove(unused_runs(list_runs(work, None), runs_in_use(work, submissions)), removes, as_json)


def sort_summaries(summaries: Sequence["RunSummary"], key: str) -> list["RunSummary"]:
    """Sort summaries by a field, the largest first; texts ascending; missing values last."""
    if key in ASCENDING_KEYS:
        return sorted(summaries, key=lambda one: (getattr(one, key), one.name))
    known = [one for one in summaries if getattr(one, key) is not None]
    unknown = [one for one in summaries if getattr(one, key) is None]
    return sorted(known, key=lambda one: (-getattr(one, key), one.name)) + unknown


def _refuse_options_before_command(context: click.Context) -> None:
    """Refuse `wbdc runs --work X show NAME`: the command would not see the option."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        if source == ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{parameter.opts[0]} stands before {context.invoked_subcommand}; put it after"
            )


def _print_summaries(summaries: Sequence["RunSummary"]) -> None:
    rows = [
        (
            one.name,
            ", ".join(map(_short_change, one.changes)) or MISSING,
            _origin(one),
            ",".join(one.folds) or MISSING,
            _number(one.score),
            _interval(one),
            _mean_text(one),
            f"{one.seconds:,.0f} s",
            f"{one.bytes / console.MEGABYTE:,.1f} MB",
            one.device or MISSING,
        )
        for one in summaries
    ]
    columns = (
        "run",
        "changes",
        "from",
        "folds",
        "score",
        "95 %",
        "mean ± sd",
        "time",
        "size",
        "device",
    )
    console.print_table("Runs", columns, rows)


def _facts_of(summary: "RunSummary", work: Path) -> list[tuple[str, str]]:
    """Return what `show` prints below the scores: [(label, value)]."""
    return [
        ("score", f"{_number(summary.score)} {_interval(summary)}, {summary.rows:,} videos"),
        ("over folds", _mean_text(summary)),
        ("kit", ", ".join([summary.kit, *summary.changes])),
        ("from", _origin(summary)),
        ("data", summary.data),
        ("seed", str(summary.seed)),
        ("device", summary.device or MISSING),
        ("time", f"{summary.seconds:,.0f} s"),
        ("size", f"{summary.bytes / console.MEGABYTE:,.1f} MB"),
        ("folder", str(work / "runs" / summary.name)),
    ]


def _origin(summary: "RunSummary") -> str:
    """Return what a run was made from besides its kit and the labeled videos."""
    parts = [summary.source] if summary.source else []
    parts += [f"pseudo-labels {name}" for name in summary.pseudo]
    return ", ".join(parts) or MISSING


def _short_change(change: str) -> str:
    """Return a change without its value where that is long, as that of a list of plugs."""
    name, _, value = change.partition("=")
    return f"{name}=..." if len(value) > MAX_VALUE_LENGTH else change


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4f}"


def _interval(summary: "RunSummary") -> str:
    if summary.low is None or summary.high is None:
        return MISSING
    return f"{summary.low:.3f}-{summary.high:.3f}"


def _mean_text(summary: "RunSummary") -> str:
    if summary.mean is None:
        return MISSING
    deviation = "" if summary.deviation is None else f" ± {summary.deviation:.4f}"
    return f"{summary.mean:.4f}{deviation}"


def _value_text(value: object) -> str:
    return MISSING if value is None else str(value)


def _csv_text(summaries: Sequence["RunSummary"]) -> str:
    """Return the summaries as CSV; lists are joined by spaces."""
    import polars as pl

    from wbdc.ensemble.run_summary import RunSummary

    rows = [
        {key: " ".join(v) if isinstance(v, list) else v for key, v in asdict(one).items()}
        for one in summaries
    ]
    names = [field.name for field in fields(RunSummary)]
    return pl.DataFrame(rows, schema=names, infer_schema_length=None).write_csv()


def _remove(chosen: Sequence["Run"], removes: bool, as_json: bool) -> None:
    """List runs with their sizes, and remove them if `removes`."""
    from wbdc.core.files import folder_bytes
    from wbdc.submit.runs_in_use import remove_run

    sizes = {run.name: folder_bytes(run.folder) for run in chosen}
    if removes:
        for run in chosen:
            remove_run(run)
    if as_json:
        console.print_json({"removed" if removes else "to remove": sizes})
        return

    for name, size in sizes.items():
        console.print_text(f"{name}: {size / console.MEGABYTE:,.1f} MB")
    total = f"{len(sizes)} runs, {sum(sizes.values()) / console.MEGABYTE:,.1f} MB"
    ending = "removed." if removes else "would be removed with --yes."
    console.print_text(f"{total} {ending}" if sizes else "No run to remove.")
