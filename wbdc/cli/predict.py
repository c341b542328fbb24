"""wbdc predict: predict a split with an ensemble or a run."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.cli import console, shared_options
from wbdc.cli.name_completion import ENSEMBLE_NAME, RUN_NAME

if TYPE_CHECKING:
    from wbdc.competitions import Competition
    from wbdc.ensemble.outside_members import OutsideMember
    from wbdc.serve.blend_file import Blend
    from wbdc.serve.engine import Predictions
    from wbdc.serve.entry import ServeOptions


@click.command()
@click.option("--split", default="test", show_default=True, help="Split of the data to predict.")
@click.option(
    "--ensemble",
    type=ENSEMBLE_NAME,
    default="ensemble",
    show_default=True,
    help="Ensemble to predict with.",
)
@click.option(
    "--run", type=RUN_NAME, help="Use one run (the mean of its folds) instead of an ensemble."
)
@shared_options.data
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="result.csv",
    show_default=True,
    help="Result file to write.",
)
@click.option(
    "--with",
    "outside",
    multiple=True,
    metavar="NAME=FILE",
    help="Probabilities of the split by a member from outside wbdc that the ensemble has. "
    "Repeatable.",
)
@click.option(
    "--probabilities",
    type=click.Path(path_type=Path),
    help="Also write the probabilities of all classes: .parquet, .npz or .csv.",
)
@click.option("--precision", help="auto, fp32, bf16 or fp16; by default the precision of the kit.")
@click.option(
    "--openvino/--no-openvino",
    default=None,
    help="Compute networks by OpenVINO on the CPU; by default as the ensemble.",
)
@shared_options.device
@shared_options.threads
@shared_options.verify_files
@shared_options.work
@shared_options.as_json
def predict(
    split: str,
    ensemble: str,
    run: str | None,
    data: Path | None,
    out: Path,
    outside: tuple[str, ...],
    probabilities: Path | None,
    precision: str | None,
    openvino: bool | None,
    device: str,
    threads: int | None,
    work: Path,
    as_json: bool,
) -> None:
    """Predict a split from its raw archives, as a submission does.

    --probabilities writes the numbers that the predicted classes have the highest of: blended, and
    with class multipliers.

    \b
    Example:
      wbdc predict --split test --out result.csv
      wbdc predict --probabilities test.parquet
      wbdc predict --run RUN --openvino
      wbdc predict --ensemble joint --with svm=svm_test.parquet
    """
    import contextlib

    from wbdc.core.files import check_input, check_output, lock_output
    from wbdc.core.ranks import rank_and_size
    from wbdc.prepare.dataset import open_prepared
    from wbdc.serve.entry import ServeOptions
    from wbdc.train.probability_file import check_probability_suffix, write_probability_file

    check_output(out)
    if probabilities:
        check_probability_suffix(probabilities)
        check_output(probabilities)
    home, blend, contest = _open_blend(work, run, ensemble)
    blend = _choose_backend(home, blend, openvino, run or ensemble)
    dataset = open_prepared(work, blend.data)
    data = data or Path(dataset.facts.data_folder)
    check_input(data)
    ids = _list_ids(contest, data, split) if outside or blend.outside or probabilities else []
    members = _read_outside(blend, outside, ids, dataset.facts.classes, split)

    is_first_rank = rank_and_size()[0] == 0
    lock = lock_output(out) if is_first_rank else contextlib.nullcontext()
    options = ServeOptions(split=split, device=device, precision=precision, threads=threads)
    with lock, console.progress(as_json) as progress:
        predictions, timings = _predict(
            home, blend, contest, data, out, options, members, ids, progress, as_json
        )

    if predictions is None:
        return None  # the first rank prints the result
    if probabilities:
        write_probability_file(probabilities, ids, predictions.classes, predictions.probabilities)
    paths = {"result": out, "probabilities": probabilities}
    written = {name: str(path) for name, path in paths.items() if path}
    if as_json:
        return console.print_json({**written, **timings})
    console.print_text(
        f"{timings['videos']:,} videos predicted in {timings['marks']['written']:.1f} s: "
        + ", ".join(written.values())
    )
    return None


def _predict(
    home: Path,
    blend: "Blend",
    contest: "Competition",
    data: Path,
    out: Path,
    options: "ServeOptions",
    members: "list[OutsideMember]",
    ids: list[str],
    progress: console.ProgressCallback,
    quiet: bool,
) -> "tuple[Predictions | None, dict]":
    """Predict, and publish the result file; the ranks but the first return (None, {})."""
    import time

    from wbdc.ensemble.outside_members import outside_scores, predict_without_models
    from wbdc.serve.entry import serve

    start = time.perf_counter()
    if not blend.members:
        predictions = predict_without_models(blend, members, ids)
        contest.write_predictions(ids, predictions.probabilities, predictions.classes, out)
        return predictions, {"videos": len(ids), "marks": {"written": time.perf_counter() - start}}
    return serve(
        home,
        blend,
        contest,
        data,
        out,
        options,
        log=(lambda sentence: None) if quiet else console.log,
        progress=lambda done, total: progress("predict", done, total),
        start=start,
        outside=outside_scores(blend, members, ids),
    )


def _choose_backend(home: Path, blend: "Blend", openvino: bool | None, name: str) -> "Blend":
    """Return a blend whose networks OpenVINO computes, or not. openvino: None for no change.

    name: of the run or the ensemble. Raises UsageFault where no network would be computed.
    """
    from dataclasses import replace

    from wbdc.core.errors import UsageFault
    from wbdc.ensemble.saved_ensembles import has_networks

    if openvino is None:
        return blend
    if openvino and not has_networks(home, blend):
        raise UsageFault(f"--openvino computes networks, and {name} has none; omit --openvino")
    return replace(blend, openvino=openvino)


def _list_ids(contest: "Competition", data: Path, split: str) -> list[str]:
    """List the videos of a split in the order in which they are predicted."""
    from wbdc.core.findings import Findings
    from wbdc.serve.entry import find_split

    split = find_split(contest, data, split)
    return [video.id for video in contest.videos(data, split, Findings())]


def _read_outside(
    blend: "Blend", options: tuple[str, ...], ids: list[str], classes: list[str], split: str
) -> "list[OutsideMember]":
    """Read the probabilities of the members from outside wbdc that a blend has."""
    from wbdc.ensemble.outside_members import check_outside_names, member_name, read_outside_members

    check_outside_names(blend, [member_name(option) for option in options], split)
    return read_outside_members(options, ids, classes, split)


def _open_blend(work: Path, run: str | None, ensemble: str) -> "tuple[Path, Blend, Competition]":
    """Open a run, or else an ensemble: (folder of its models, blend, competition)."""
    from wbdc.ensemble.saved_ensembles import open_contest, open_ensemble, run_blend
    from wbdc.train.runs import open_run

    if not run:
        return *open_ensemble(work, ensemble), open_contest(work, ensemble)
    opened_run = open_run(work, run)
    return work, run_blend(work, opened_run), opened_run.contest
