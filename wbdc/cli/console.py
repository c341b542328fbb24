"""The console: the only place where anything is printed. Results to stdout, progress and log to
stderr.
"""

import json
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.core.processes import MAX_THREADS
from wbdc.core.progress import ProgressCallback

if TYPE_CHECKING:
    from rich.console import Console

    from wbdc.competitions import Competition


class FiniteRange(click.FloatRange):
    """A number in a range; neither infinite nor "nan", which passes every comparison of a plain
    range.
    """

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


_work = click.option(
    "--work",
    type=click.Path(path_type=Path),
    default="work",
    show_default=True,
    envvar="WBDC_WORK",
    help="Where data, runs and ensembles lie.",
)
verify_files = click.option(
    "--verify",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    help="Hash every file that is read, also those unchanged since they were hashed last.",
    callback=lambda context, option, value: _hash_always(value),
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."
)
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto (the first GPU, else the CPU), cpu, cuda, cuda:1.",
)
threads = click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    help="CPU threads; by default all this process may use. Part of what makes bits equal.",
)
seed = click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Everything random follows from it.",
)
prepared = click.option(
    "--prepared", help="Hash of the prepared data (or its start); by default the one prepared last."
)
dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
store = click.option(
    "--store",
    type=click.Choice(["auto", "jpeg", "raw"]),
    default="auto",
    show_default=True,
    envvar="WBDC_STORE",
    help="Frames of later epochs: decoded anew, or raw pixels; auto: raw while they take at most half of the free disk.",
)
weights = click.option(
    "--weights",
    type=click.Path(exists=True, file_okay=False),
    envvar="WBDC_WEIGHTS",
    help="Folder of pretrained weights, by their usual names.",
)


def work(command: Callable) -> Callable:
    """Add the option of the work folder; what killed commands left in it is swept before the
    command runs.
    """

    @wraps(command)
    def sweep_and_run(*values: object, **options: object) -> object:
        from wbdc.core.folders import sweep_work

        if not any(options.get(name) for name in ("dry_run", "check_only")):
            sweep_work(options["work"])
        return command(*values, **options)

    return _work(sweep_and_run)


WIDTH = 140  # columns of a table that no terminal shows
SHORT_CELL = 16  # columns: a cell of a table that is not longer never wraps


def next_command(
    *words: str, tiny: bool, changes: Sequence[str], work: Path, **options: object
) -> str:
    """Write the command that goes on after this one, as it can be typed. options: those given, by
    name; None is left out.
    """
    import shlex

    words = [
        *words,
        *(["--tiny"] if tiny else []),
        *(word for change in changes for word in ("--set", change)),
    ]
    options = {"work": None if str(work) == "work" else work} | options
    for name, value in options.items():
        words += [] if value is None else [f"--{name}", str(value)]
    return shlex.join(["wbdc", *words])


def kit_options(command: Callable) -> Callable:
    """Add the options that choose and change a kit."""
    for option in (
        click.option(
            "--set",
            "changes",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override one setting, such as train.epochs=3 (TOML). Repeatable.",
        ),
        click.option(
            "--tiny",
            is_flag=True,
            help="The kit's [tiny] recipe: random weights, minutes on two CPU cores.",
        ),
        click.option(
            "--kit", required=True, help="Name of a kit (see `wbdc kits`), or a path to one."
        ),
    ):
        command = option(command)
    return command


def training_options(command: Callable) -> Callable:
    """Add the options that say where and on what a stage trains."""
    save = click.option(
        "--save-every",
        type=click.IntRange(0),
        default=0,
        help="Steps between saved states; by default the end of each epoch.",
    )
    for option in (
        as_json,
        work,
        verify_files,
        dry_run,
        threads,
        store,
        device,
        weights,
        prepared,
        seed,
        save,
    ):
        command = option(command)
    return command


def _hash_always(on: bool) -> None:
    from wbdc.core.integrity import hash_always

    hash_always(on)


def use_weights(folder: str | None) -> None:
    """Let pretrained weights be looked up in a folder."""
    if folder:
        os.environ["WBDC_WEIGHTS"] = folder


def console_reporter(progress: ProgressCallback, quiet: bool) -> object:
    """Let a training session tell what it does."""
    from wbdc.train.reporter import Reporter

    return Reporter(progress, (lambda sentence: None) if quiet else log, log)


def print_plan(session: object, as_json: bool) -> None:
    """Print what a training session would do."""
    done = session.run.folds()
    plan = {
        "run": session.run.name,
        "data": session.plan.prepared.hash,
        "device": str(session.hardware.device),
        "threads": session.hardware.threads,
    }
    plan |= {
        "from": session.plan.source.name if session.plan.source else None,
        **({"note": session.note} if session.note else {}),
    }
    plan |= {"folds": {f: "finished" if f in done else "to train" for f in session.folds}}
    if as_json:
        return print_json(plan)
    for key, value in plan.items():
        print_text(
            f"{key}: {', '.join(f'{k} {v}' for k, v in value.items()) if isinstance(value, dict) else value}"
        )


def component_names(*score_tables: dict, order: Sequence[str] = ()) -> list[str]:
    """Return the names of a contest's scores that score tables hold: in the order that the contest
    states, others after these, the mean last.
    """
    held = dict.fromkeys(name for scores in score_tables for name in scores if name != "mean")
    names = dict.fromkeys([*(name for name in order if name in held), *held])
    return [*names, "mean"] if score_tables else []


def score_cells(facts: dict, names: Sequence[str]) -> list:
    """Return the named components of a score and the official mean; dashes when nothing was held
    out.
    """
    if "score" not in facts:
        return ["–"] * (len(names) + 1)
    return [*(facts["score"].get(name, "–") for name in names), facts["official"]["mean"]]


def log(sentence: str) -> None:
    """Write one line of log."""
    _err().print(sentence, style="dim", highlight=False, markup=False, soft_wrap=True)


def print_error(sentence: str) -> None:
    """Write the one sentence of an error."""
    _err().print(sentence, style="bold red", highlight=False, markup=False, soft_wrap=True)


def print_json(value: dict) -> None:
    """Print a result for machines."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=1, default=str))


def print_text(sentence: str, style: str = "") -> None:
    """Print a result for people; on a terminal, lines end between words."""
    console = _out()
    for line in sentence.split("\n"):
        parts = _wrapped(line, console.width) if console.is_terminal else [line]
        console.print("\n".join(parts), style=style, highlight=False, markup=False, soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: texts to the left, numbers to the right; no name and no number is ever split.

    Only longer texts wrap, between words. What is too narrow for that is printed row by row, as
    pairs.
    """
    print_text(title, "bold")
    texts = [all(isinstance(row[number], str) for row in rows) for number in range(len(columns))]
    cells = [[_cell(value) for value in row] for row in rows]
    widths = _column_widths([columns, *cells], _out().width - 3 * len(columns) - 1)

    if widths:
        _print_grid(columns, cells, widths, texts)
    else:
        _print_pairs(columns, cells)


def _cell(value: object) -> str:
    return (
        value
        if isinstance(value, str)
        else f"{value:.4f}"
        if isinstance(value, float)
        else f"{value:,}"
    )


def _column_widths(lines: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Share `room` among the columns of a table, the widest give most; None when words would be
    split.
    """
    natural = [max(display_width(cell) for cell in column) for column in zip(*lines, strict=True)]
    least = [
        max(display_width(_longest_piece(cell)) for cell in column)
        for column in zip(*lines, strict=True)
    ]
    for limit in range(max(natural), -1, -1):
        widths = [max(low, min(high, limit)) for low, high in zip(least, natural, strict=True)]
        if sum(widths) <= room:
            return widths

    return None


def _longest_piece(cell: str) -> str:
    """Return what must stand on one line: a short cell, or the longest word of a text."""
    return cell if display_width(cell) <= SHORT_CELL else max(cell.split(), key=display_width)


def _print_grid(
    columns: Sequence[str], cells: list[list[str]], widths: list[int], texts: list[bool]
) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table(show_header=any(columns))
    for column, width, text in zip(columns, widths, texts, strict=True):
        grid.add_column(column, width=width, justify="left" if text else "right")

    for row in cells:
        grid.add_row(*map(Text, row))
    _out().print(grid)


def _print_pairs(columns: Sequence[str], cells: list[list[str]]) -> None:
    """Print each row as its first cell, then the others as pairs of column and cell, aligned over
    all rows.
    """
    widths = [max(map(display_width, column)) for column in zip(*cells, strict=True)]
    room = _out().width - 2

    for row in cells:
        print_text(row[0], "bold")
        line = ""
        for column, cell, width in zip(columns[1:], row[1:], widths[1:], strict=True):
            pair = f"{column} {cell}".strip() if cell else " " * (display_width(column) + 1)
            pair += " " * (width - display_width(cell))
            if line and display_width(line) + 2 + display_width(pair) > room:
                print_text(f"  {line.rstrip()}")
                line = ""
            line += f"  {pair}" if line else pair
        if line.strip():
            print_text(f"  {line.rstrip()}")


def _wrapped(line: str, width: int) -> list[str]:
    """Break a line between words; a command in backticks, to be copied, and longer words stay
    whole.
    """
    indent = re.match(" *", line)[0] + "  "
    joined = re.sub("`[^`]*`", lambda quoted: quoted[0].replace(" ", "\0"), line)
    parts = textwrap.wrap(
        joined, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [part.replace("\0", " ") for part in parts] or [""]


def display_width(text: str) -> int:
    """Count the columns that a text takes on a terminal: Chinese characters take two."""
    from rich.cells import cell_len

    return cell_len(text)


@contextmanager
def progress(hidden: bool = False) -> Iterator[ProgressCallback]:
    """Show bars on stderr for the length of a block: call it with (what, done, of, note). Without a
    terminal: a line a task.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    whole = lambda: Column(no_wrap=True)  # noqa: E731: where it is narrow, only the bar gets shorter
    columns = (
        TextColumn("{task.description}"),
        BarColumn(table_column=Column(min_width=4)),
        MofNCompleteColumn(table_column=whole()),
        TimeElapsedColumn(table_column=whole()),
        TimeRemainingColumn(table_column=whole()),
        TextColumn("{task.fields[note]}"),
    )
    shown = not hidden and sys.stderr.isatty()
    bars = Progress(
        *columns, console=_err(), disable=not shown, transient=True, redirect_stdout=False
    )
    tasks: dict[str, int] = {}

    def step(what: str, done: int, of: int, note: str = "") -> None:
        if done < of and what not in tasks:
            tasks[what] = bars.add_task(what, total=of, note=note)
        if what in tasks:
            bars.update(tasks[what], completed=done, total=of, note=note)
        if done == of and what in tasks:
            bars.remove_task(tasks.pop(what))
        if done == of and not hidden:
            log(f"{what}: {of:,} done" + (f"  {note}" if note else ""))

    with bars:
        yield step


# the one Console of each stream: a second one would write into the bars of the first
_consoles: dict = {}


def _out() -> "Console":
    return _console("stdout")


def _err() -> "Console":
    return _console("stderr")


def _console(name: str) -> "Console":
    """Return the Console of "stdout" or "stderr"; without a terminal or COLUMNS it is 140 columns
    wide.
    """
    from rich.console import Console

    stream = getattr(sys, name)
    stream = getattr(
        stream, "rich_proxied_file", stream
    )  # while bars are shown, rich puts a proxy in its place
    if name not in _consoles or _consoles[name].file is not stream:
        measured = stream.isatty() or os.environ.get("COLUMNS", "").isdecimal()
        _consoles[name] = Console(file=stream, width=None if measured else WIDTH)

    return _consoles[name]


def final_run_items(contest: "Competition") -> int:
    """Return how many videos a competition's final run has. Raises UsageFault when it does not say."""
    from wbdc.core.errors import UsageFault

    if contest.limits is None:
        raise UsageFault(f"competition {contest.name} states no number of videos; give --items")
    return contest.limits.items
