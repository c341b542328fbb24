"""wbdc ensemble: blend runs and score the blend."""

from pathlib import Path

import click

from wbdc.cli import console, shared_options
from wbdc.cli.ensemble_build import (
    EnsembleOptions,
    build_of_all,
    build_within_limit,
    read_outside,
)
from wbdc.cli.ensemble_report import print_report
from wbdc.cli.name_completion import RUN_NAME


@click.command()
@click.option(
    "--run",
    "runs",
    type=RUN_NAME,
    multiple=True,
    help="A run, or a variant: 'RUN frames=4', 'RUN crops=3'. Repeatable; by default every "
    "finished run of the prepared data.",
)
@click.option(
    "--folds",
    help="Learn and score on these folds only, for example 0,1; by default on all that the "
    "members share.",
)
@click.option(
    "--with",
    "outside",
    multiple=True,
    metavar="NAME=FILE",
    help="Out-of-fold probabilities of a member from outside wbdc: .parquet, .npz or .csv. "
    "Repeatable.",
)
@click.option("--name", default="ensemble", show_default=True, help="Name of the ensemble.")
@shared_options.final_run_options("the best subset of members that fits is chosen")
@click.option("--frames", help="With a limit: also try fewer frames, for example 8,4.")
@click.option("--length", help="With a limit: also try shorter texts, for example 128,64 tokens.")
@click.option("--clips", help="With a limit: also average clips of each video, for example 2.")
@click.option("--crops", help="With a limit: also average 3 squares of each frame: 3.")
@click.option(
    "--precision",
    help="Serve in this precision. With a limit: also try these, for example bf16,fp32.",
)
@click.option(
    "--openvino/--no-openvino",
    default=None,
    help="Compute networks by OpenVINO on the CPU. With a limit: also try it; by default where it "
    "is installed.",
)
@click.option(
    "--mean",
    type=click.Choice(["auto", "arithmetic", "geometric"]),
    default="auto",
    show_default=True,
    help="Mean of the probabilities; auto: geometric where held-out videos are likelier with it.",
)
@click.option(
    "--class-priors/--no-class-priors",
    default=True,
    show_default=True,
    help="Try class multipliers; they are used when nested cross-validation finds them better.",
)
@click.option(
    "--bands",
    default="50",
    show_default=True,
    help="Try weights by class support: classes of fewer labeled videos weigh the members on their "
    "own. Several bounds: 10,50,200. Off: none.",
)
@shared_options.draws()
@shared_options.seed
@shared_options.device
@shared_options.threads
@shared_options.prepared
@shared_options.dry_run
@shared_options.verify_files
@shared_options.work
@shared_options.as_json
def ensemble(
    runs: tuple[str, ...],
    name: str,
    prepared: str | None,
    dry_run: bool,
    work: Path,
    as_json: bool,
    **settings: object,
) -> None:
    """Learn blend weights on out-of-fold predictions.

    The score is nested: each fold is predicted with weights learned on the other folds.

    The weights are equal, of maximum likelihood, the mean of both, or the best member alone: the
    simplest method whose cross-validated log-likelihood is within one standard error of the best.
    Members below 1 % of the largest weight are dropped.

    A geometric mean, with exponents of maximum likelihood, is used where held-out videos are
    likelier with it: members that know different things then exclude different classes.

    Intervals are 95 % bootstrap intervals over videos; a gain whose interval contains 0 is within
    noise. With a time limit, members are timed on this machine, and the best subset that fits is
    used.

    --with adds a member that wbdc did not train, by its probabilities for every labeled video. Such
    an ensemble can predict, but not be submitted.

    \b
    Example:
      wbdc ensemble
      wbdc ensemble --with svm=svm_out_of_fold.parquet --name joint
      wbdc ensemble --run dual_stream-1a2b3c4d --run single_stream-5e6f7a8b --name two
      wbdc ensemble --qps 70 --frames 8,4
    """
    from wbdc.core.files import check_writable, lock_output
    from wbdc.core.folders import check_name
    from wbdc.ensemble.member_selection import select_members
    from wbdc.ensemble.saved_ensembles import check_ensemble_folder
    from wbdc.prepare.dataset import open_prepared

    check_name(name, "--name")
    options = EnsembleOptions(**settings)
    dataset = open_prepared(work, prepared)
    members, messages = select_members(work, runs, dataset)
    for message in messages:
        console.log(message)
    outside = read_outside(work, options, members)
    if dry_run:
        _print_plan([member.name for member in (*members, *outside)], as_json)
        return

    folder, data = work / "ensembles" / name, Path(dataset.facts.data_folder)
    check_writable(folder)
    check_ensemble_folder(folder)
    with lock_output(folder), console.progress(as_json) as progress:
        if options.has_limit:
            report = build_within_limit(work, name, members, data, options, progress)
        else:
            report = build_of_all(work, name, members, outside, data, options, progress)
    if as_json:
        console.print_json(report)
    else:
        print_report(report, name, dataset.contest.score_components)


def _print_plan(names: list[str], as_json: bool) -> None:
    if as_json:
        console.print_json({"members": names})
    else:
        console.print_text(f"Would blend {', '.join(names)}.")
