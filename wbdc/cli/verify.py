"""wbdc verify: is a packed folder, byte for byte, what was packed; does it answer, and train, as it
did?
"""

from collections.abc import Callable
from pathlib import Path

import click

from wbdc.cli import console


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--rerun",
    "again",
    is_flag=True,
    help="Let each folder answer random test videos twice, alone; every bit must be equal.",
)
@click.option(
    "--retrain",
    "anew",
    is_flag=True,
    help="Train each folder again with its train.sh; exit 4 when the score differs by more than --tolerance.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Raw data folder, for --rerun and --retrain.",
)
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Most test videos that --rerun answers.",
)
@click.option(
    "--tolerance",
    type=console.FiniteRange(min=0),
    default=0.003,
    show_default=True,
    help="By how much the retrained out-of-fold score may differ.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    help="Folder to retrain in, kept, so that a stopped --retrain goes on; by default a temporary one.",
)
@console.seed
@console.device
@console.threads
@console.as_json
def verify(
    folders: tuple[Path, ...],
    again: bool,
    anew: bool,
    data: Path | None,
    sample: int,
    tolerance: float,
    work: Path | None,
    seed: int,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Compare packed folders with their manifests and time checks.

    The exit code is that of the time check: 5 for FAIL, 6 for INCONCLUSIVE. Without one it is 0.

    With --rerun they also answer again, with --retrain they are trained again from the raw data.

    \b
    Example:
      wbdc verify submissions/*
      wbdc verify submissions/ensemble --rerun --data data/wechat2022
      wbdc verify submissions/ensemble --retrain --data data/wechat2022 --work again
    """
    from wbdc.core.errors import UsageFault
    from wbdc.submit.check.verify import verify_package as check
    from wbdc.submit.timing.verdict import CODES

    if (again or anew) and not data:
        raise UsageFault(
            f"--{'rerun' if again else 'retrain'} answers or learns from raw data; say where they lie with --data"
        )
    found = [folder for folder in folders if folder.is_dir()]
    if anew and work and len(found) > 1:
        raise UsageFault(
            "--work holds the training of one folder; give one folder, or leave --work out"
        )
    checked = {str(folder): check(folder) for folder in found}
    if again:
        from wbdc.submit.check.reproduce import repeat_predictions

        _add(
            checked,
            "rerun",
            lambda folder: repeat_predictions(
                folder, data, most=sample, seed=seed, device=device, threads=threads
            ),
        )
    if anew:
        from wbdc.submit.check.reproduce import retrain_submission

        say = (lambda line: None) if as_json else console.log
        _add(
            checked,
            "retrain",
            lambda folder: retrain_submission(
                folder, data, work=work, tolerance=tolerance, threads=threads, say=say
            ),
        )
    if as_json:
        console.print_json(checked)
    else:
        for name, facts in checked.items():
            _print(name, facts)
        if not checked:
            console.print_text("No folder to verify.")
    words = {facts["latency"]["verdict"] for facts in checked.values() if facts["latency"]}
    worst = next((word for word in ("FAIL", "INCONCLUSIVE") if word in words), "PASS")
    click.get_current_context().exit(CODES[worst])


def _add(checked: dict[str, dict], what: str, find: Callable[[Path], dict]) -> None:
    for name, facts in checked.items():
        facts[what] = find(Path(name))


def _print(name: str, facts: dict) -> None:
    latency = facts["latency"]
    timed = (
        f"time check: {latency['verdict']}"
        if latency
        else "no time check yet; run `wbdc submit --check-latency`"
    )
    console.print_text(
        f"{name}: {facts['files']} files, {facts['bytes'] / 1e6:.1f} MB, all as packed; {timed}."
    )
    if latency and latency["verdict"] != "PASS" and latency.get("sentence"):
        console.print_text(f"{latency['verdict']}: {latency['sentence']}")
    if again := facts.get("rerun"):
        console.print_text(f"{name}: {again['videos']:,} test videos answered twice, equal bit for bit.")
    if anew := facts.get("retrain"):
        console.print_text(
            f"{name}: trained again, {_scored(anew)}; {anew['equal_weights']} of {anew['members']} weights files have equal bytes."
        )


def _scored(anew: dict) -> str:
    if asked := anew["answers"]:
        return f"{asked['videos']:,} test videos are answered as before (no score is stored)"
    return f"it scores {anew['retrained']:.4f} out of fold, packed {anew['packed']:.4f}"
