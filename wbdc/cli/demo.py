"""wbdc demo: all steps on a synthetic contest, from raw archives to a timed submission."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.cli import console, shared_options
from wbdc.cli.ensemble_report import print_weights

if TYPE_CHECKING:
    from wbdc.competitions import Competition
    from wbdc.prepare.dataset import PreparedData

# two kits with two folds each are four models, which pass the time check on two cores
DEMO_KITS = ("dual_stream", "cross_attention")
# fitted in seconds, with the same folds; three frames are those that the networks read
DEMO_ESTIMATORS = {
    "ngrams": (),
    "frame_histograms": ("estimator.frames = 3",),
    "joint_kernel": ("estimator.frames = 3",),
}
# two of three folds hold out two thirds of the labeled videos: enough to learn blend weights
DEMO_FOLD_COUNT, DEMO_FOLDS = 3, "0,1"
TIME_CHECK_SECONDS = 300.0  # cap for all runs of the time check; an idle machine takes one minute
DEMO_CHANGES = (
    "train.epochs=12",  # half of those of the tiny kit
    # those of the tiny kits without fgm, which needs more steps than these to help
    "train.trick=[{use='augment', shift=0.1, scale=0.15, rotate=10.0, flip=0.5, color=0.2},"
    " {use='drop_modality', text=0.3, frames=0.1}, {use='drop_words', share=0.2},"
    " {use='ema', decay=0.99}]",
    # in half precision, one changed prediction of 160 would make the time check inconclusive
    "serve.precision='fp32'",
)
DEMO_CONTEST_FOLDER, DEMO_RESULT_FILE = "contest", "result.csv"  # below --into


@click.command()
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    default="demo",
    show_default=True,
    help="Folder for all files of the demo.",
)
@click.option(
    "--data-only",
    type=click.Path(path_type=Path),
    help="Only generate the data, in this folder.",
)
@click.option(
    "--videos",
    type=click.IntRange(40),
    default=800,
    show_default=True,
    help="Number of videos: 55% labeled, 25% unlabeled, 20% test.",
)
@click.option(
    "--sound",
    is_flag=True,
    help="With --data-only: also features of sound, and a contest and a kit for it.",
)
@click.option(
    "--wav",
    is_flag=True,
    help="With --sound: .wav files, and kits for towers that read them.",
)
@click.option(
    "--speech",
    is_flag=True,
    help="With --data-only: also speech tokens, and a contest and a kit for them.",
)
@shared_options.seed
@shared_options.device
@shared_options.threads
@shared_options.as_json
def demo(
    into: Path,
    data_only: Path | None,
    videos: int,
    sound: bool,
    wav: bool,
    speech: bool,
    seed: int,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Run all steps on synthetic data: five minutes on two cores.

    The networks are tiny and start from random weights. Three models without a network join them:
    on the n-grams of texts, on histograms of frames, and on both. Run the same command again to
    continue a stopped demo.

    \b
    Example:
      wbdc demo
      wbdc demo --data-only somewhere --videos 20000
    """
    from wbdc.core.errors import UsageFault
    from wbdc.core.files import check_writable
    from wbdc.core.folders import sweep_work
    from wbdc.prepare.demo.sounds import SOUND_CONTEST_FILE, SOUND_KITS
    from wbdc.prepare.demo.speech import SPEECH_CONTEST_FILE, SPEECH_KIT_FILE
    from wbdc.prepare.demo.synthetic_contest import generate_contest

    for option in ["--sound"] * sound + ["--speech"] * speech:
        if data_only is None:
            raise UsageFault(f"{option} generates data for a kit of its own; add --data-only DIR")
    if wav and not sound:
        raise UsageFault("--wav chooses the files of --sound; add --sound")
    check_writable(data_only or into)
    sweep_work(into)
    with console.progress(as_json) as progress:
        contest = generate_contest(
            data_only or into / DEMO_CONTEST_FOLDER,
            videos=videos,
            seed=seed,
            sound=sound,
            wav=wav,
            with_speech=speech,
            progress=lambda done, total: progress("generate videos", done, total),
        )
        if data_only is None:
            result = run_demo(into, seed, device, threads, progress, as_json)

    if as_json:
        console.print_json(contest if data_only else result)
    elif data_only:
        counts = ", ".join(
            f"{contest[split]:,} {split}" for split in ("labeled", "unlabeled", "test")
        )
        classes = contest["classes"]
        console.print_text(f"{counts} videos of {classes} classes: {data_only / 'data'}")
        if sound:
            names = (SOUND_CONTEST_FILE, *SOUND_KITS[wav])
            files = ", ".join(str(data_only / name) for name in names)
            what = "kits" if wav else "a kit"
            console.print_text(f"A contest and {what} with sound: {files}")
        if speech:
            files = ", ".join(
                str(data_only / name) for name in (SPEECH_CONTEST_FILE, SPEECH_KIT_FILE)
            )
            console.print_text(f"A contest and a kit with speech tokens: {files}")
    else:
        print_demo(into, result)


def run_demo(
    into: Path,
    seed: int,
    device: str,
    threads: int | None,
    progress: console.ProgressCallback,
    as_json: bool,
) -> dict:
    """Run every step as its command does; return what `print_demo` prints."""
    from wbdc.competitions import open_competition
    from wbdc.core.device import use_threads
    from wbdc.ensemble.build_ensemble import build_ensemble
    from wbdc.ensemble.ensemble_settings import EnsembleSettings
    from wbdc.ensemble.member_selection import select_members
    from wbdc.prepare.build import prepare_data

    cpu_threads = use_threads(threads)
    contest = open_competition("wechat2022")
    data = into / DEMO_CONTEST_FOLDER / "data"
    reporter = console.console_reporter(progress, as_json)

    prepared, _ = prepare_data(
        data,
        into,
        contest,
        folds=DEMO_FOLD_COUNT,
        seed=seed,
        threads=cpu_threads,
        progress=progress,
    )
    runs = _train(into, prepared, seed, device, threads, reporter)
    members = select_members(into, tuple(runs), prepared)[0]
    report = build_ensemble(into, "demo", members, settings=EnsembleSettings(seed=seed))
    submission = _submit(into, prepared, data, report, device, cpu_threads, progress, reporter)
    _predict(into, contest, data, device, cpu_threads, progress, reporter)
    return {
        "report": report,
        "page": str(_write_page(into, seed)),
        "test_scores": _score_test(into, contest, prepared),
        "submission": submission,
        "prepared": str(prepared.folder),
        "runs": runs,
    }


def _train(
    into: Path,
    prepared: "PreparedData",
    seed: int,
    device: str,
    threads: int | None,
    reporter: object,
) -> list[str]:
    """Pretrain, then train every kit and fit every estimator, by default folds at the same time;
    return the names of the runs.
    """
    from wbdc.train.kit import open_kit
    from wbdc.train.session import open_session

    options = {"seed": seed, "prepared": prepared.hash, "device": device, "threads": threads}
    kit = open_kit(DEMO_KITS[0], tiny=True, changes=DEMO_CHANGES)
    open_session("pretrain", kit, into, **options).train(reporter)

    runs = []
    kits = [open_kit(name, tiny=True, changes=DEMO_CHANGES) for name in DEMO_KITS]
    kits += [open_kit(name, changes=changes) for name, changes in DEMO_ESTIMATORS.items()]
    for kit in kits:
        session = open_session("train", kit, into, fold=DEMO_FOLDS, jobs=None, **options)
        session.train(reporter)
        runs.append(session.run.name)
    return runs


def _submit(
    into: Path,
    prepared: "PreparedData",
    data: Path,
    report: dict,
    device: str,
    threads: int,
    progress: console.ProgressCallback,
    reporter: object,
) -> dict:
    """Pack the ensemble, run the time check and publish the submission."""
    from wbdc.ensemble.saved_ensembles import open_ensemble
    from wbdc.submit.pipeline import SubmitOptions, make_submission
    from wbdc.submit.submission_source import SubmissionSource
    from wbdc.submit.timing.options import RehearsalOptions

    home, blend = open_ensemble(into, "demo")
    rehearsal = RehearsalOptions(cap_seconds=TIME_CHECK_SECONDS)
    options = SubmitOptions(rehearsal=rehearsal, device=device, threads=threads)
    folder = into / "submissions" / "demo"
    source = SubmissionSource(home, blend, prepared, data, report)
    return make_submission(folder, source, options, progress, reporter.log)


def _predict(
    into: Path,
    contest: "Competition",
    data: Path,
    device: str,
    threads: int,
    progress: console.ProgressCallback,
    reporter: object,
) -> None:
    """Predict the test split and write the result file."""
    import time

    from wbdc.ensemble.saved_ensembles import open_ensemble
    from wbdc.serve.entry import ServeOptions, serve

    home, blend = open_ensemble(into, "demo")
    serve(
        home,
        blend,
        contest,
        data,
        into / DEMO_RESULT_FILE,
        ServeOptions(device=device, threads=threads),
        log=reporter.log,
        progress=lambda done, total: progress("predict the test split", done, total),
        start=time.perf_counter(),
    )


def _score_test(into: Path, contest: "Competition", prepared: "PreparedData") -> dict:
    """Score the result file with the test labels that a team does not receive."""
    import csv
    import io

    from wbdc.core.files import read_text

    table = io.StringIO(read_text(into / DEMO_CONTEST_FOLDER / "truth" / "test_truth.csv"))
    truth = {row["id"]: row[contest.label_key] for row in csv.DictReader(table)}
    labels = list(truth.values())
    predictions = contest.read_result(
        into / DEMO_RESULT_FILE, list(truth), prepared.facts.known_classes
    )
    return {
        "score": contest.score(labels, predictions, prepared.facts.classes),
        "official": contest.score(labels, predictions),
    }


def _write_page(into: Path, seed: int) -> Path:
    """Write the HTML page of the ensemble, as `wbdc report demo` does, and return its path."""
    from wbdc.report.opened_report import open_report_folder

    report = open_report_folder(into / "ensembles" / "demo", seed=seed)
    return report.save(into / "reports" / "demo.html")


def print_demo(into: Path, result: dict) -> None:
    """Print the scores, the blend, the time check and the folders."""
    report, submission = result["report"], result["submission"]
    names = console.component_names(result["test_scores"]["score"])
    scores = {
        **report["members"],
        "ensemble": report["ensemble"],
        f"{DEMO_RESULT_FILE}, test labels": result["test_scores"],
    }
    console.print_table(
        f"Out-of-fold scores ({report['rows']:,} videos of folds {', '.join(report['folds'])})",
        ("", *names, "official"),
        [(name, *console.score_cells(facts, names)) for name, facts in scores.items()],
    )
    print_weights(report)

    gain, latency = report["gain"], submission["latency"]
    interval = f"[{gain['low']:+.4f}, {gain['high']:+.4f}]"
    console.print_text(
        f"Ensemble over {report['best']}: {gain['difference']:+.4f} {interval}, {gain['verdict']}."
    )
    console.print_text(f"Time check: {latency['verdict']}. {latency['sentence']}", "bold")
    folders = {
        "Data": into / DEMO_CONTEST_FOLDER,
        "Prepared data": result["prepared"],
        "Runs": into / "runs",
        "Submission": submission["folder"],
        "Predictions": into / DEMO_RESULT_FILE,
        "Report": result["page"],
    }
    for name, path in folders.items():
        console.print_text(f"{name}: {path}")
