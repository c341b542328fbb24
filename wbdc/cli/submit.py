"""wbdc submit: pack a self-contained folder, compare its predictions with the runs, and time it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.cli import console, shared_options
from wbdc.cli.name_completion import ENSEMBLE_NAME, RUN_NAME
from wbdc.core.gpu_switches import GPU_SWITCHES

if TYPE_CHECKING:
    from wbdc.competitions import Competition
    from wbdc.submit.submission_source import SubmissionSource
    from wbdc.submit.timing.options import RehearsalOptions

DEFAULT_ENSEMBLE = "ensemble"
VERDICT_STYLES = {"PASS": "bold green", "FAIL": "bold red"}


@dataclass(frozen=True)
class TimeCheckOptions:
    """The options of the time check, by their names. Raises UsageFault."""

    check_latency: bool
    items: int | None
    limit: float | None
    qps: float | None
    sample: int
    cap: float
    quick: bool
    full: bool
    judge: Path | None

    def __post_init__(self) -> None:
        shared_options.check_one_limit(self.limit, self.qps)

    @property
    def is_requested(self) -> bool:
        """Whether the packed folder is timed."""
        return self.check_latency or self.quick or self.full

    def rehearsal(self) -> "RehearsalOptions":
        """Return the options of the rehearsal, without the limit."""
        from wbdc.core.files import read_json
        from wbdc.submit.timing.options import RehearsalOptions

        return RehearsalOptions(
            items=self.items,
            sample=self.sample,
            cap_seconds=self.cap,
            quick=self.quick,
            full=self.full,
            judge=read_json(self.judge) if self.judge else None,
        )

    def seconds(self, contest: "Competition") -> float | None:
        """Return the time limit in seconds; None for the competition's."""
        if not self.qps:
            return self.limit
        return (self.items or shared_options.final_run_items(contest)) / self.qps


@click.command()
@click.option(
    "--ensemble",
    type=ENSEMBLE_NAME,
    help='Ensemble to pack; by default "ensemble", or the only run when there is no ensemble.',
)
@click.option(
    "--run", type=RUN_NAME, help="Pack one run (the mean of its folds) instead of an ensemble."
)
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    help="Folder to create; by default submissions/<ensemble or run>.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="Also make another form, for example zip or audit (no models; train.sh trains them). "
    "Repeatable.",
)
@shared_options.data
@click.option(
    "--check-latency",
    is_flag=True,
    help="Time the packed folder: PASS (exit code 0), FAIL (5) or INCONCLUSIVE (6).",
)
@shared_options.final_run_options("by default the competition's")
@click.option(
    "--sample",
    type=click.IntRange(8),
    default=2048,
    show_default=True,
    help="Maximum number of videos to time.",
)
@click.option(
    "--cap",
    type=shared_options.FiniteRange(min=1),
    default=600.0,
    show_default=True,
    help="Approximate limit of the time check itself, in seconds.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="Time check of about a minute; the result is FAIL or INCONCLUSIVE, never PASS.",
)
@click.option(
    "--full",
    is_flag=True,
    help="Also predict all items in one process with inference.sh; that time decides the verdict. "
    "Test videos are repeated as needed.",
)
@click.option(
    "--judge",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Profile of the judge's machine (`wbdc doctor --probe --out`); the verdict is for it.",
)
@click.option(
    "--half",
    is_flag=True,
    help="Store weights as float16, in half the bytes; reports the share of predictions that "
    "change.",
)
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Run networks with torch.compile. The warm-up counts as run time, and the judge needs a "
    "C++ compiler.",
)
@click.option(
    "--openvino/--no-openvino",
    default=None,
    help="Compute networks by OpenVINO on the CPU, which the judge needs, too; by default as the "
    "ensemble. Reports the share of predictions that change.",
)
@click.option(
    "--gpu",
    "gpu",
    type=click.Choice(GPU_SWITCHES),
    multiple=True,
    help="How a GPU computes, repeatable: cuda-graphs replays what networks launch, for small "
    "batches; tf32 rounds what is computed in fp32; jpeg decodes frames there. CPUs ignore it.",
)
@click.option(
    "--lock",
    "lock",
    is_flag=True,
    help="Also write requirements.lock with the hash of every package, from the package index.",
)
@click.option(
    "--wheels",
    "wheels",
    is_flag=True,
    help="Also download all packages into the folder, for a judge without network access.",
)
@shared_options.device
@shared_options.threads
@shared_options.dry_run
@shared_options.verify_files
@shared_options.work
@shared_options.as_json
def submit(
    ensemble: str | None,
    run: str | None,
    into: Path | None,
    targets: tuple[str, ...],
    data: Path | None,
    half: bool,
    compiled: bool,
    openvino: bool | None,
    gpu: tuple[str, ...],
    lock: bool,
    wheels: bool,
    device: str,
    threads: int | None,
    dry_run: bool,
    work: Path,
    as_json: bool,
    **settings: object,
) -> None:
    """Pack an ensemble into a folder that runs on its own.

    The packed folder predicts test videos in a fresh, isolated process. Its predictions must equal
    those of the runs bit for bit.

    \b
    Example:
      wbdc submit --check-latency
      wbdc submit --full
      wbdc submit --check-latency --items 50000 --qps 70
    """
    time_check = TimeCheckOptions(**settings)
    rehearsal = time_check.rehearsal()
    if run is None and ensemble is None:
        run = _find_only_run(work)
    ensemble = DEFAULT_ENSEMBLE if ensemble is None else ensemble

    source = _open_source(work, run, ensemble, data)
    rehearsal = replace(rehearsal, seconds=time_check.seconds(source.contest))
    into = into or Path("submissions") / (run or ensemble)
    if dry_run:
        return _print_plan(len(source.blend.members), into, source.data, as_json)

    from wbdc.submit.pipeline import SubmitOptions, make_submission  # imports torch

    options = SubmitOptions(
        rehearsal=rehearsal if time_check.is_requested else None,
        half=half,
        compiled=compiled,
        openvino=openvino,
        gpu=gpu,
        lock=lock,
        wheels=wheels,
        targets=targets,
        device=device,
        threads=threads,
    )
    log = (lambda line: None) if as_json else console.log
    with console.progress(as_json) as progress:
        submission = make_submission(into, source, options, progress, log)

    if as_json:
        console.print_json(submission)
    else:
        _print(into, submission)
    if submission["latency"]:
        click.get_current_context().exit(submission["latency"]["code"])
    return None


def _open_source(
    work: Path, run: str | None, ensemble: str, data: Path | None
) -> "SubmissionSource":
    """Open a run, or else an ensemble, and its prepared data. data: by default as prepared."""
    from wbdc.ensemble.outside_members import refuse_outside_members
    from wbdc.ensemble.saved_ensembles import open_ensemble, open_report, run_blend
    from wbdc.prepare.dataset import open_prepared
    from wbdc.submit.submission_source import SubmissionSource
    from wbdc.train.runs import open_run

    if run:
        home = work
        blend = run_blend(work, open_run(work, run))
        report = {}
    else:
        home, blend = open_ensemble(work, ensemble)
        refuse_outside_members(blend, ensemble)
        report = open_report(work, ensemble)
    prepared = open_prepared(work, blend.data)
    return SubmissionSource(home, blend, prepared, data or Path(prepared.facts.data_folder), report)


def _find_only_run(work: Path) -> str | None:
    """Return the name of the only trained run of a work folder that has no default ensemble."""
    from wbdc.core.files import SEAL_FILE
    from wbdc.train.runs import list_runs

    if (work / "ensembles" / DEFAULT_ENSEMBLE / SEAL_FILE).is_file():
        return None
    names = [run.name for run in list_runs(work)]
    if len(names) != 1:
        return None

    console.log(f"no ensemble has been made; packing the only run, {names[0]}")
    return names[0]


def _print_plan(members: int, into: Path, data: Path, as_json: bool) -> None:
    if as_json:
        console.print_json({"members": members, "into": str(into), "data": str(data)})
    else:
        console.print_text(f"Would pack {members} models into {into} and run it on {data}.")


def _print(into: Path, submission: dict) -> None:
    console.print_text(
        f"{into}: {submission['files']} files, {submission['bytes'] / 1e6:.1f} MB; its predictions "
        f"for {submission['proof']['videos']:,} test videos equal those of the runs, bit for bit."
    )
    for name, path in submission["targets"].items():
        console.print_text(f"{name}: {path}")
    if latency := submission["latency"]:
        style = VERDICT_STYLES.get(latency["verdict"], "bold yellow")
        console.print_text(f"{latency['verdict']}: {latency['sentence']}", style)
