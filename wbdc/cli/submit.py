"""wbdc submit: pack a folder that runs alone, prove it, and rehearse the judge's run."""

from pathlib import Path

import click

from wbdc.cli import console


@click.command()
@click.option("--ensemble", default="ensemble", show_default=True, help="Ensemble to pack.")
@click.option("--run", help="Pack one run (the mean of its folds) instead.")
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    help="Folder to pack into; by default submissions/<name of the ensemble or run>.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="Also make another form: audit (train.sh makes the models there) or zip. Repeatable.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Raw data folder; by default the one that was prepared.",
)
@click.option(
    "--check-latency",
    is_flag=True,
    help="Time the packed folder and say PASS (0), FAIL (5) or INCONCLUSIVE (6).",
)
@click.option(
    "--items",
    type=click.IntRange(1, 10**9),
    help="Videos of the final run; by default the competition's.",
)
@click.option(
    "--limit",
    type=console.FiniteRange(min=0, min_open=True),
    help="Seconds for all of them, start of the process included; by default the competition's.",
)
@click.option(
    "--qps",
    type=console.FiniteRange(min=0, min_open=True),
    help="The limit as videos a second instead.",
)
@click.option(
    "--sample", type=click.IntRange(8), default=2048, show_default=True, help="Most videos to time."
)
@click.option(
    "--cap",
    type=console.FiniteRange(min=1),
    default=600.0,
    show_default=True,
    help="Seconds that timing them may take, about.",
)
@click.option(
    "--quick",
    is_flag=True,
    help="A rehearsal of a minute, which can say FAIL or INCONCLUSIVE but never PASS.",
)
@click.option(
    "--full",
    is_flag=True,
    help="Also run all items in one process, by inference.sh; its time decides. Test videos are repeated as needed.",
)
@click.option(
    "--judge",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Profile of the judge's machine (`wbdc doctor --probe --out`): the verdict is about that one.",
)
@click.option(
    "--half",
    is_flag=True,
    help="Store weights as float16: half the bytes. The share of answers that this changes is told.",
)
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Towers by torch.compile; its warm-up counts, and the judge needs a C++ compiler.",
)
@click.option(
    "--lock",
    "locked",
    is_flag=True,
    help="Also write requirements.lock with the hash of every package; asks the package index.",
)
@click.option(
    "--wheels",
    "wheelhouse",
    is_flag=True,
    help="Also download these packages into the folder, for a judge without a network.",
)
@console.device
@console.threads
@console.dry_run
@console.verify
@console.work
@console.as_json
def submit(
    ensemble: str,
    run: str | None,
    into: Path | None,
    targets: tuple[str, ...],
    data: Path | None,
    check_latency: bool,
    items: int | None,
    limit: float | None,
    qps: float | None,
    sample: int,
    cap: float,
    quick: bool,
    full: bool,
    judge: Path | None,
    half: bool,
    compiled: bool,
    locked: bool,
    wheelhouse: bool,
    device: str,
    threads: int | None,
    dry_run: bool,
    work: Path,
    as_json: bool,
) -> None:
    """Pack an ensemble into a folder that runs alone, and test it.

    The packed folder answers test videos in a fresh, isolated process; its answers must equal the
    runs' answers bit for bit.

    \b
    Example:
      wbdc submit --check-latency
      wbdc submit --full
      wbdc submit --check-latency --items 50000 --qps 70
    """
    from dataclasses import replace

    from wbdc.core.errors import UsageFault
    from wbdc.core.files import read_json
    from wbdc.ensemble.ensembles import open_ensemble, open_report, run_blend
    from wbdc.prepare.dataset import open_prepared
    from wbdc.submit.pipeline import SubmitOptions
    from wbdc.submit.pipeline import make_submission as make
    from wbdc.submit.timing.options import RehearsalOptions
    from wbdc.train.runs import open_run

    if limit and qps:
        raise UsageFault("--limit and --qps say the same thing twice; give one")
    rehearsal = RehearsalOptions(
        items=items,
        seconds=limit,
        sample=sample,
        cap_seconds=cap,
        quick=quick,
        full=full,
        judge=read_json(judge) if judge else None,
    )
    home, blend = (
        (work, run_blend(work, open_run(work, run))) if run else open_ensemble(work, ensemble)
    )
    prepared = open_prepared(work, blend.data)
    if qps:
        count = items or console.final_run_items(prepared.contest)
        rehearsal = replace(rehearsal, seconds=count / qps)
    into, data = (
        into or Path("submissions") / (run or ensemble),
        data or Path(prepared.facts.data_folder),
    )
    if dry_run:
        plan = {"members": len(blend.members), "into": str(into), "data": str(data)}
        return (
            console.print_json(plan)
            if as_json
            else console.print_text(
                f"Would pack {plan['members']} models into {into} and run it on {data}."
            )
        )
    facts = {} if run else open_report(work, ensemble)
    options = SubmitOptions(
        rehearsal=rehearsal if check_latency or quick or full else None,
        half=half,
        compiled=compiled,
        lock=locked,
        wheels=wheelhouse,
        targets=targets,
        device=device,
        threads=threads,
    )
    with console.progress(as_json) as progress:
        made = make(
            into,
            home,
            blend,
            prepared,
            data,
            facts,
            options,
            progress,
            (lambda line: None) if as_json else console.log,
        )
    if as_json:
        console.print_json(made)
    else:
        _print(into, made)
    if made["latency"]:
        click.get_current_context().exit(made["latency"]["code"])


def _print(into: Path, made: dict) -> None:
    console.print_text(
        f"{into}: {made['files']} files, {made['bytes'] / 1e6:.1f} MB; {made['proof']['videos']:,} test videos answered alone, bit for bit as in the runs."
    )
    for name, place in made["targets"].items():
        console.print_text(f"{name}: {place}")
    if made["latency"]:
        style = {"PASS": "bold green", "FAIL": "bold red"}.get(
            made["latency"]["verdict"], "bold yellow"
        )
        console.print_text(f"{made['latency']['verdict']}: {made['latency']['sentence']}", style)
