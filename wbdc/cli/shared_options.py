"""Options that several commands share, each declared once."""

import math
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.cli.name_completion import KIT_NAME, TEACHER_NAME
from wbdc.core.process_tree import MAX_THREADS

if TYPE_CHECKING:
    from wbdc.competitions import Competition


class FiniteRange(click.FloatRange):
    """A finite number in a range. A plain range accepts "nan", which passes every comparison."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class ThreadCount(click.IntRange):
    """A number of threads; None for "auto"."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        return None if value == "auto" else super().convert(value, param, ctx)


_work_option = click.option(
    "--work",
    type=click.Path(path_type=Path),
    default="work",
    show_default=True,
    envvar="WBDC_WORK",
    help="Folder of prepared data, runs and ensembles.",
)
verify_files = click.option(
    "--verify",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    help="Hash every input file, even if it is unchanged since its last check.",
    callback=lambda context, option, value: _set_hash_always(value),
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."
)
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto (first GPU, else CPU), cpu, cuda, or cuda:1.",
)
_threads_option = click.option(
    "--threads",
    type=ThreadCount(1, MAX_THREADS),
    metavar="N|auto",
    help="CPU threads; auto, the default, is one on each CPU that this process may use, also by "
    "the CPU quota of its container. Results are reproducible bit for bit only with the same "
    "number.",
)
jobs = click.option(
    "--jobs",
    type=click.IntRange(1, MAX_THREADS),
    help="Folds to train at the same time on a CPU, each in a process of its own with --threads "
    "threads, by default 1. Without --jobs and --threads, the folds of a --tiny kit are trained on "
    "all CPUs, others in turn.",
)
seed = click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Random seed.",
)
prepared = click.option(
    "--prepared", help="Hash of the prepared data, or its first characters; by default the latest."
)
data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of the raw data; by default the folder that was prepared.",
)
teachers = click.option(
    "--from",
    "source",
    type=TEACHER_NAME,
    required=True,
    help="Ensemble or run whose models are teachers.",
)
top_k = click.option(
    "--top-k", type=click.IntRange(1), help="Classes kept for each video; default all."
)
dry_run = click.option("--dry-run", is_flag=True, help="Print the plan and exit.")
measure = click.option(
    "--measure",
    is_flag=True,
    help="With --dry-run and without finished folds of the same settings: estimate the time from a "
    "few training steps, which are discarded.",
)
store = click.option(
    "--store",
    type=click.Choice(["auto", "jpeg", "raw"]),
    default="auto",
    show_default=True,
    envvar="WBDC_STORE",
    help="How later epochs read frames: jpeg decodes them again, raw stores pixels; auto stores "
    "pixels that need at most half of the free disk space.",
)
weights_root = click.option(
    "--weights",
    type=click.Path(exists=True, file_okay=False),
    envvar="WBDC_WEIGHTS",
    help="Folder of pretrained weights, named by their Hugging Face ids.",
)
weights_folder = click.option(  # which may not exist yet
    "--weights",
    type=click.Path(file_okay=False),
    envvar="WBDC_WEIGHTS",
    help="Folder for pretrained weights.",
)


def work(command: Callable) -> Callable:
    """Add the --work option. Leftovers of killed commands are removed before the command runs."""

    @wraps(command)
    def sweep_and_run(*values: object, **options: object) -> object:
        from wbdc.core.folders import sweep_work
        from wbdc.core.ranks import rank_and_size
        from wbdc.train.progress_records import writes_records

        # of folds that are trained side by side, the process that starts them sweeps
        is_first = rank_and_size()[0] == 0 and not writes_records()
        if is_first and not any(options.get(name) for name in ("dry_run", "check_only")):
            sweep_work(options["work"])
        return command(*values, **options)

    return _work_option(sweep_and_run)


def threads(command: Callable) -> Callable:
    """Add the --threads option. Where the CPU quota of a container limits its default, the command
    first logs that.
    """

    @wraps(command)
    def explain_and_run(*values: object, **options: object) -> object:
        if options["threads"] is None and not options.get("as_json"):
            _explain_threads()
        return command(*values, **options)

    return _threads_option(explain_and_run)


def _explain_threads() -> None:
    from wbdc.cli import console
    from wbdc.core.cpu_quota import explain_quota
    from wbdc.core.ranks import rank_and_size

    if rank_and_size()[0] == 0 and (sentence := explain_quota()):
        console.log(sentence)


def kit_options(command: Callable) -> Callable:
    """Add the options that select and change a kit."""
    for option in (
        click.option(
            "--set",
            "changes",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override a setting, for example train.epochs=3 (TOML). Repeatable.",
        ),
        click.option(
            "--tiny",
            is_flag=True,
            help="Use the kit's [tiny] settings: random weights, minutes on two CPU cores.",
        ),
        click.option(
            "--kit",
            type=KIT_NAME,
            required=True,
            help="Name of a kit (see `wbdc kits`), or path of a kit file.",
        ),
    ):
        command = option(command)
    return command


def training_options(command: Callable) -> Callable:
    """Add the options about data, device and output of a training stage."""
    save = click.option(
        "--save-every",
        type=click.IntRange(0),
        default=0,
        help="Steps between checkpoints; by default one at the end of each epoch.",
    )
    loggers = click.option(
        "--logger",
        "loggers",
        multiple=True,
        metavar="NAME",
        help="Also log metrics to tensorboard, mlflow, wandb or a plug file (./mylogger.py). "
        "Repeatable.",
    )
    for option in (
        as_json,
        work,
        verify_files,
        dry_run,
        loggers,
        jobs,
        threads,
        store,
        device,
        weights_root,
        prepared,
        seed,
        save,
    ):
        command = option(command)
    return command


def final_run_options(limit_effect: str) -> Callable[[Callable], Callable]:
    """Return a decorator that adds --limit, --qps and --items: the time limit of the final run.

    limit_effect: how the command uses the limit, for the help.
    """

    def add_options(command: Callable) -> Callable:
        for option in (
            click.option(
                "--items",
                type=click.IntRange(1, 10**9),
                help="Number of videos in the final run; by default the competition's.",
            ),
            click.option(
                "--qps",
                type=FiniteRange(min=0, min_open=True),
                help="The limit in videos per second, instead of --limit.",
            ),
            click.option(
                "--limit",
                type=FiniteRange(min=0, min_open=True),
                help="Time limit in seconds for all videos, process start included; "
                f"{limit_effect}.",
            ),
        ):
            command = option(command)
        return command

    return add_options


def draws(default: int = 1000) -> Callable[[Callable], Callable]:
    """Return the --draws option."""
    return click.option(
        "--draws",
        type=click.IntRange(100),
        default=default,
        show_default=True,
        help="Bootstrap samples of each interval.",
    )


def check_measure(measure: bool, dry_run: bool) -> None:
    """Raise UsageFault for --measure without --dry-run."""
    from wbdc.core.errors import UsageFault

    if measure and not dry_run:
        raise UsageFault("--measure estimates what --dry-run plans; add --dry-run")


def check_one_limit(limit: float | None, qps: float | None) -> None:
    """Raise UsageFault when both forms of the time limit are given."""
    from wbdc.core.errors import UsageFault

    if limit and qps:
        raise UsageFault("--limit and --qps are mutually exclusive; give one of them")


def _set_hash_always(on: bool) -> None:
    from wbdc.core.integrity import hash_always

    hash_always(on)


def use_weights(folder: str | None) -> None:
    """Search pretrained weights in a folder."""
    if folder:
        os.environ["WBDC_WEIGHTS"] = folder


def final_run_items(contest: "Competition") -> int:
    """Return the number of videos of a competition's final run. Raises UsageFault when it is
    unknown.
    """
    from wbdc.core.errors import UsageFault

    if contest.limits is None:
        raise UsageFault(
            f"competition {contest.name} has no number of videos for the final run; give --items"
        )
    return contest.limits.items
