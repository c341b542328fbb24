"""wbdc demo: the whole path on made-up data, from raw archives to a timed submission."""

from pathlib import Path

import click

from wbdc.cli import console
from wbdc.cli.ensemble import print_weights

KITS = (
    "dual_stream",
    "cross_attention",
)  # two kits of two folds are four models, which pass the time check on two cores
FOLD_COUNT, FOLDS = (
    3,
    "0,1",
)  # two of three folds hold out two thirds of the labelled videos: enough to blend by
TIME_CHECK_SECONDS = 300.0  # at most, for all its runs; an idle machine takes about one minute
SHORTER = (
    "train.epochs=12",  # half of the tiny recipe: enough to see every part work
    # in half precision one changed answer of 160 would be a doubt, and the time check could not
    # pass
    "serve.precision='fp32'",
)


@click.command()
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    default="demo",
    show_default=True,
    help="Folder for all that the demo makes.",
)
@click.option(
    "--data-only", type=click.Path(path_type=Path), help="Only make the data, in this folder."
)
@click.option(
    "--videos",
    type=click.IntRange(40),
    default=800,
    show_default=True,
    help="Videos to make: 55 % labelled, 25 % unlabelled, 20 % test.",
)
@console.seed
@console.device
@console.threads
@console.as_json
def demo(
    into: Path,
    data_only: Path | None,
    videos: int,
    seed: int,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Run every stage on made-up data: five minutes on two cores.

    Everything is tiny and starts from random weights. Stopped and started again, it goes on.

    \b
    Example:
      wbdc demo
      wbdc demo --data-only somewhere --videos 20000
    """
    from wbdc.core.files import check_writable
    from wbdc.core.folders import sweep_work
    from wbdc.prepare.demo.synthetic_contest import generate_contest

    check_writable(data_only or into)
    sweep_work(into)
    with console.progress(as_json) as progress:
        made = generate_contest(
            data_only or into / "made",
            videos=videos,
            seed=seed,
            progress=lambda done, of: progress("make videos", done, of),
        )
        if data_only is None:
            made = _walk(into, seed, device, threads, progress, as_json)
    if as_json:
        return console.print_json(made)
    if data_only:
        counts = f"{made['labeled']:,} labelled, {made['unlabeled']:,} unlabelled, {made['test']:,} test videos"
        return console.print_text(f"{counts} of {made['classes']} classes: {data_only / 'data'}")
    _print(into, made)


def _walk(
    into: Path,
    seed: int,
    device: str,
    threads: int | None,
    progress: console.Progress,
    as_json: bool,
) -> dict:
    """Run every stage as its command would; return what the table shows."""
    import csv
    import io
    import time

    from wbdc.competitions import open_competition
    from wbdc.core.device import use_threads
    from wbdc.core.files import read_text
    from wbdc.ensemble.ensembles import build_ensemble, choose_runs, open_ensemble
    from wbdc.prepare.build import prepare_data
    from wbdc.serve.entry import serve
    from wbdc.submit.pipeline import SubmitOptions, make_submission
    from wbdc.submit.timing.options import RehearsalOptions
    from wbdc.train.kit import open_kit
    from wbdc.train.session import open_session

    count, contest, data = (
        use_threads(threads),
        open_competition("wechat2022"),
        into / "made" / "data",
    )
    reporter = console.console_reporter(progress, as_json)
    prepared, _ = prepare_data(
        data, into, contest, folds=FOLD_COUNT, seed=seed, threads=count, progress=progress
    )
    common = {"seed": seed, "prepared": prepared.hash, "device": device, "threads": count}
    open_session(
        "pretrain", open_kit("dual_stream", tiny=True, changes=SHORTER), into, **common
    ).train(reporter)
    runs = []
    for kit in KITS:
        session = open_session(
            "train", open_kit(kit, tiny=True, changes=SHORTER), into, fold=FOLDS, **common
        )
        session.train(reporter)
        runs.append(session.run.name)
    report = build_ensemble(into, "demo", choose_runs(into, tuple(runs), prepared)[0], seed=seed)
    home, blend = open_ensemble(into, "demo")
    rehearsal = RehearsalOptions(cap_seconds=TIME_CHECK_SECONDS)
    options = SubmitOptions(rehearsal=rehearsal, device=device, threads=count)
    made = make_submission(
        into / "submissions" / "demo",
        home,
        blend,
        prepared,
        data,
        report,
        options,
        progress,
        reporter.log,
    )
    serve(
        home,
        blend,
        contest,
        data,
        into / "result.csv",
        split=None,
        device=device,
        precision=None,
        threads=count,
        say=reporter.log,
        progress=lambda done, of: progress("answer the test split", done, of),
        began=time.perf_counter(),
    )
    table = io.StringIO(read_text(into / "made" / "truth" / "test_truth.csv"))
    truth = {row["id"]: row[contest.label_key] for row in csv.DictReader(table)}
    said = contest.read_result(into / "result.csv", list(truth), prepared.facts.known_classes)
    hidden = {
        "score": contest.score(list(truth.values()), said, prepared.facts.classes),
        "official": contest.score(list(truth.values()), said),
    }
    return {
        "report": report,
        "hidden": hidden,
        "submission": made,
        "prepared": str(prepared.folder),
        "runs": runs,
    }


def _print(into: Path, made: dict) -> None:
    report, hidden = made["report"], made["hidden"]
    names = console.components(hidden["score"])
    scored = {
        **report["members"],
        "ensemble": report["ensemble"],
        "result.csv against the hidden truth": hidden,
    }
    rows = [(name, *console.score_table(facts, names)) for name, facts in scored.items()]
    console.print_table(
        f"Out of fold ({report['rows']:,} videos of folds {', '.join(report['folds'])})",
        ("", *names, "official"),
        rows,
    )
    print_weights(report)
    gain, latency = report["gain"], made["submission"]["latency"]
    console.print_text(
        f"Ensemble over {report['best']}: {gain['difference']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}], {gain['verdict']}."
    )
    console.print_text(f"Time check: {latency['verdict']}. {latency['sentence']}", "bold")
    console.print_text(
        f"Data {into / 'made'}, prepared {made['prepared']}, runs {into / 'runs'}, submission {made['submission']['folder']}, answers {into / 'result.csv'}"
    )
