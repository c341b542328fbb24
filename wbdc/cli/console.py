"""Console output. This is the only file that prints: results to stdout, progress and log to
stderr.
"""

import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.core.progress import ProgressCallback, format_seconds

if TYPE_CHECKING:
    from rich.console import Console

    from wbdc.train.fold_cost import SessionCost

COLUMNS_WITHOUT_TERMINAL = 140
MEGABYTE = 1e6
MAX_UNBROKEN_COLUMNS = 16  # shorter cells of a table never wrap
NO_SCORE = "–"
NO_ESTIMATE = "not measured yet"


def next_command(
    *words: str, tiny: bool, changes: Sequence[str], work: Path, **options: object
) -> str:
    """Return the command to run next, quoted for a shell. options: by name; None is left out."""
    import shlex

    words = [
        *words,
        *(["--tiny"] if tiny else []),
        *(word for change in changes for word in ("--set", change)),
    ]
    options = {"work": None if str(work) == "work" else work} | options
    for name, value in options.items():
        if value is not None:
            words += [f"--{name}", str(value)]
    return shlex.join(["wbdc", *words])


def console_reporter(progress: ProgressCallback, quiet: bool, is_main: bool = True) -> object:
    """Return a reporter that shows the progress and log of a training session.

    is_main: whether this process is the first one of a training; the others show nothing.
    """
    from wbdc.train.progress_records import writes_records
    from wbdc.train.reporter import Reporter

    if not is_main:
        return Reporter()
    if writes_records():
        return Reporter(*(partial(_print_record, kind) for kind in ("progress", "log", "warn")))
    return Reporter(progress, (lambda sentence: None) if quiet else log, log)


def print_plan(
    session: object, cost: "SessionCost | None", as_json: bool, *, measured: bool = False
) -> None:
    """Print what a training session would do.

    cost: estimated, None without an estimate; measured: whether --measure was given.
    """
    finished = session.run.folds()
    plan = {
        "run": session.run.name,
        "data": session.plan.prepared.hash,
        "device": str(session.hardware.device),
        "threads": session.hardware.threads,
        "jobs": session.jobs,
    }
    plan["from"] = session.plan.source.name if session.plan.source else None
    if session.note:
        plan["note"] = session.note
    folds = {fold: "finished" if fold in finished else "to train" for fold in session.folds}
    if as_json:
        print_json(plan | {"folds": folds, "cost": cost and cost._asdict()})
        return

    for name, value in plan.items():
        print_text(f"{name}: {value}")
    is_finished = set(folds.values()) == {"finished"}
    print_text(f"cost: {'none' if is_finished else _cost_text(cost, measured)}")
    print_text(f"folds: {', '.join(f'{fold} {state}' for fold, state in folds.items())}")


def _cost_text(cost: "SessionCost | None", measured: bool) -> str:
    """Return the estimate of a training session as text."""
    if cost is None and measured:
        return f"{NO_ESTIMATE}: an estimator is fitted in one step, which cannot be sampled"
    if cost is None:
        return (
            f"{NO_ESTIMATE}: no fold with these settings, device and threads is finished; add "
            "--measure to estimate it from a few training steps"
        )
    estimate = f"about {format_seconds(cost.seconds)} and {cost.bytes / 1e6:,.1f} MB"
    if cost.parts is not None:
        parts = ", ".join(f"{name} {format_seconds(s)}" for name, s in cost.parts.items())
        return f"{estimate}, by {cost.measured_steps} training steps: {parts}"
    folds = "1 fold" if cost.folds == 1 else f"{cost.folds} folds"
    return f"{estimate}, by {folds} with the same settings"


def component_names(*score_tables: dict, order: Sequence[str] = ()) -> list[str]:
    """Return the names of the score components in some score tables: those in `order` first, then
    the others, then the mean.
    """
    components = dict.fromkeys(name for scores in score_tables for name in scores)
    components.pop("mean", None)
    names = dict.fromkeys([*(name for name in order if name in components), *components])
    return [*names, "mean"] if score_tables else []


def score_cells(facts: dict, names: Sequence[str]) -> list:
    """Return the named components of a score and the official mean; dashes where no video was held
    out.
    """
    if "score" not in facts:
        return [NO_SCORE] * (len(names) + 1)
    return [*(facts["score"].get(name, NO_SCORE) for name in names), facts["official"]["mean"]]


def print_alarms(facts: dict, start: str = "") -> None:
    """Print the alarms of a fold, one line each. start: of every line."""
    for alarm in facts.get("alarms", []):
        ended = f" (until step {alarm['ended_step']})" if alarm["ended_step"] else ""
        print_text(f"{start}{alarm['message']}{ended}", "yellow")


def log(sentence: str) -> None:
    """Print a log line to stderr."""
    _err().print(sentence, style="dim", highlight=False, markup=False, soft_wrap=True)


def print_error(sentence: str) -> None:
    """Print an error to stderr."""
    from wbdc.train.progress_records import writes_records

    if writes_records():
        _print_record("error", sentence)
        return
    _err().print(sentence, style="bold red", highlight=False, markup=False, soft_wrap=True)


def _print_record(kind: str, *values: object) -> None:
    """Print a progress record to stderr."""
    from wbdc.train.progress_records import format_record

    click.echo(format_record(kind, *values), err=True)


def print_json(value: dict) -> None:
    """Print a result as JSON."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=1, default=str))


def print_text(sentence: str, style: str = "") -> None:
    """Print a result as text. On a terminal, lines break between words."""
    console = _out()
    for line in sentence.split("\n"):
        parts = _wrap(line, console.width) if console.is_terminal else [line]
        console.print("\n".join(parts), style=style, highlight=False, markup=False, soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: text aligned left, numbers right; no name or number is split.

    Longer texts wrap between words. On a terminal that is too narrow, each row is printed as pairs
    of column and cell.
    """
    print_text(title, "bold")
    is_text = [all(isinstance(row[i], str) for row in rows) for i in range(len(columns))]
    cells = [[_cell(value) for value in row] for row in rows]
    widths = _column_widths([columns, *cells], _out().width - 3 * len(columns) - 1)

    if widths:
        _print_grid(columns, cells, widths, is_text)
    else:
        _print_pairs(columns, cells)


def _cell(value: object) -> str:
    """Format a cell of a table."""
    if isinstance(value, str):
        return value
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _column_widths(rows: Sequence[Sequence[str]], available: int) -> list[int] | None:
    """Divide the available width among the columns of a table, shrinking the widest first. Returns
    None when words would be split.
    """
    columns = list(zip(*rows, strict=True))
    natural = [max(display_width(cell) for cell in column) for column in columns]
    minimal = [max(display_width(_longest_word(cell)) for cell in column) for column in columns]
    for limit in range(max(natural), -1, -1):
        widths = [max(low, min(high, limit)) for low, high in zip(minimal, natural, strict=True)]
        if sum(widths) <= available:
            return widths

    return None


def _longest_word(cell: str) -> str:
    """Return what must fit into one line: a short cell, or the longest word of a text."""
    if display_width(cell) <= MAX_UNBROKEN_COLUMNS:
        return cell
    return max(cell.split(), key=display_width)


def _print_grid(
    columns: Sequence[str], cells: list[list[str]], widths: list[int], is_text: list[bool]
) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table(show_header=any(columns))
    for column, width, left_aligned in zip(columns, widths, is_text, strict=True):
        grid.add_column(column, width=width, justify="left" if left_aligned else "right")

    for row in cells:
        grid.add_row(*map(Text, row))
    _out().print(grid)


def _print_pairs(columns: Sequence[str], cells: list[list[str]]) -> None:
    """Print the first cell of each row, then the others as pairs of column and cell, aligned over
    all rows.
    """
    widths = [max(map(display_width, column)) for column in zip(*cells, strict=True)]
    available = _out().width - 2

    for row in cells:
        print_text(row[0], "bold")
        line = ""
        for column, cell, width in zip(columns[1:], row[1:], widths[1:], strict=True):
            pair = f"{column} {cell}".strip() if cell else " " * (display_width(column) + 1)
            pair += " " * (width - display_width(cell))
            if line and display_width(line) + 2 + display_width(pair) > available:
                print_text(f"  {line.rstrip()}")
                line = ""
            line += f"  {pair}" if line else pair
        if line.strip():
            print_text(f"  {line.rstrip()}")


def _wrap(line: str, width: int) -> list[str]:
    """Break a line between words. Commands in backticks, which users copy, stay whole."""
    indent = re.match(" *", line)[0] + "  "
    joined = re.sub("`[^`]*`", lambda quoted: quoted[0].replace(" ", "\0"), line)
    parts = textwrap.wrap(
        joined, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [part.replace("\0", " ") for part in parts] or [""]


def display_width(text: str) -> int:
    """Return the columns that a text takes on a terminal: Chinese characters take two."""
    from rich.cells import cell_len

    return cell_len(text)


@contextmanager
def progress(hidden: bool = False) -> Iterator[ProgressCallback]:
    """Show progress bars on stderr during a block. Yields a callback: (task, done, total, note).

    A total of 0 removes the bar of a task that will not finish. Without a terminal, one log line is
    printed per finished task.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class NoteColumn(TextColumn):
        """A text of one line, whose end is cut on a narrow terminal: a task never takes two."""

        def render(self, task: Task) -> Text:
            text = super().render(task)
            text.no_wrap = True
            text.overflow = "ellipsis"
            return text

    # on a narrow terminal only the bar and the note get shorter
    columns = (
        TextColumn("{task.description}"),
        BarColumn(table_column=Column(min_width=4)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        NoteColumn("{task.fields[note]}", table_column=Column()),
    )
    is_visible = not hidden and sys.stderr.isatty()
    bars = Progress(
        *columns, console=_err(), disable=not is_visible, transient=True, redirect_stdout=False
    )
    task_ids: dict[str, int] = {}

    def report_step(task: str, done: int, total: int, note: str = "") -> None:
        if done < total and task not in task_ids:
            task_ids[task] = bars.add_task(task, total=total, note=note)
        if task in task_ids:
            bars.update(task_ids[task], completed=done, total=total, note=note)
        if done == total and task in task_ids:
            bars.remove_task(task_ids.pop(task))
        if done == total and total and not hidden:
            log(f"{task}: {total:,} done" + (f"  {note}" if note else ""))

    with bars:
        yield report_step


# one Console per stream: a second one would write into the bars of the first
_consoles: dict = {}


def _out() -> "Console":
    return _console("stdout")


def _err() -> "Console":
    return _console("stderr")


def _console(name: str) -> "Console":
    """Return the Console of "stdout" or "stderr"; 140 columns wide without a terminal."""
    from rich.console import Console

    stream = getattr(sys, name)
    # rich replaces the stream by a proxy while it shows bars
    stream = getattr(stream, "rich_proxied_file", stream)
    if name not in _consoles or _consoles[name].file is not stream:
        has_width = stream.isatty() or os.environ.get("COLUMNS", "").isdecimal()
        _consoles[name] = Console(
            file=stream, width=None if has_width else COLUMNS_WITHOUT_TERMINAL
        )

    return _consoles[name]
