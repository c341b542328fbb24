"""wbdc verify: compare packed folders with their manifests, predict again, or train again."""

from collections.abc import Callable
from pathlib import Path

import click

from wbdc.cli import console, shared_options
from wbdc.submit.check import MAX_SAMPLE_VIDEOS, SampleOptions


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--rerun",
    is_flag=True,
    help="Predict random test videos twice with each folder, isolated; every bit must be equal.",
)
@click.option(
    "--retrain",
    is_flag=True,
    help="Train each folder again with its train.sh; exit 4 when the score differs by more than "
    "--tolerance.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the raw data, for --rerun and --retrain.",
)
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=MAX_SAMPLE_VIDEOS,
    show_default=True,
    help="Maximum number of test videos for --rerun.",
)
@click.option(
    "--tolerance",
    type=shared_options.FiniteRange(min=0),
    help="Largest difference of the retrained out-of-fold score; by default the competition's.",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    help="Folder to retrain in; a stopped --retrain resumes there. By default a temporary folder.",
)
@shared_options.seed
@shared_options.device
@shared_options.threads
@shared_options.as_json
def verify(
    folders: tuple[Path, ...],
    rerun: bool,
    retrain: bool,
    data: Path | None,
    sample: int,
    tolerance: float | None,
    work: Path | None,
    seed: int,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Compare packed folders with their manifests and time checks.

    FOLDERS are packed folders; by default all of ./submissions.

    The exit code is that of the time check: 5 for FAIL, 6 for INCONCLUSIVE. Without a time check it
    is 0.

    \b
    Example:
      wbdc verify
      wbdc verify submissions/ensemble --rerun --data data/wechat2022
      wbdc verify submissions/ensemble --retrain --data data/wechat2022 --work again
    """
    from wbdc.core.errors import UsageFault
    from wbdc.submit.check.verify import verify_package
    from wbdc.submit.timing.verdict import CODES

    if (rerun or retrain) and not data:
        option = "--rerun" if rerun else "--retrain"
        raise UsageFault(f"{option} needs the raw data; give their folder with --data")
    candidates = folders or sorted(Path("submissions").glob("[!.]*"))
    packages = [folder for folder in candidates if folder.is_dir()]
    if not packages:
        raise UsageFault("there is no packed folder to verify; make one with `wbdc submit`")
    if retrain and work and len(packages) > 1:
        raise UsageFault(
            "--work holds the training of one folder; give one folder, or leave --work out"
        )

    results = {str(folder): verify_package(folder) for folder in packages}
    if rerun:
        from wbdc.submit.check.reproduce import repeat_predictions

        options = SampleOptions(sample, seed, device, threads)
        _add_results(results, "rerun", lambda path: repeat_predictions(path, data, options))
    if retrain:
        from wbdc.submit.check.reproduce import retrain_submission

        log = (lambda line: None) if as_json else console.log
        settings = {"work": work, "tolerance": tolerance, "threads": threads, "log": log}
        _add_results(results, "retrain", lambda path: retrain_submission(path, data, **settings))

    if as_json:
        console.print_json(results)
    else:
        for name, facts in results.items():
            _print(name, facts)
        if not results:
            console.print_text("No folder to verify.")
    verdicts = {facts["latency"]["verdict"] for facts in results.values() if facts["latency"]}
    worst = next((word for word in ("FAIL", "INCONCLUSIVE") if word in verdicts), "PASS")
    click.get_current_context().exit(CODES[worst])


def _add_results(results: dict[str, dict], key: str, check: Callable[[Path], dict]) -> None:
    for name, facts in results.items():
        facts[key] = check(Path(name))


def _print(name: str, facts: dict) -> None:
    latency = facts["latency"]
    if latency:
        time_check = f"time check: {latency['verdict']}"
    else:
        time_check = "no time check yet; run `wbdc submit --check-latency`"
    console.print_text(
        f"{name}: {facts['files']} files, {facts['bytes'] / 1e6:.1f} MB, all as packed; "
        f"{time_check}."
    )
    if latency and latency["verdict"] != "PASS" and latency.get("sentence"):
        console.print_text(f"{latency['verdict']}: {latency['sentence']}")

    if rerun := facts.get("rerun"):
        console.print_text(
            f"{name}: {rerun['videos']:,} test videos predicted twice, equal bit for bit."
        )
    if retrain := facts.get("retrain"):
        console.print_text(
            f"{name}: trained again, {_compare_sentence(retrain)}; {retrain['equal_weights']} of "
            f"{retrain['members']} weights files have equal bytes."
        )


def _compare_sentence(retrain: dict) -> str:
    if predictions := retrain["predictions"]:
        videos = f"{predictions['videos']:,} test videos"
        return f"the predictions for {videos} are as before (the package stores no score)"
    packed = retrain["packed_score"]
    return f"it scores {retrain['retrained_score']:.4f} out of fold, packed {packed:.4f}"
