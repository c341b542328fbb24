"""wbdc ensemble: blend runs and score the blend."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.cli import console, shared_options

if TYPE_CHECKING:
    import polars as pl

    from wbdc.ensemble.out_of_fold import ServingHardware
    from wbdc.ensemble.outside_members import OutsideMember
    from wbdc.ensemble.variants import Variant


@dataclass(frozen=True)
class EnsembleOptions:
    """The options of the command, by their names. Raises UsageFault."""

    folds: str | None
    outside: tuple[str, ...]
    limit: float | None
    qps: float | None
    items: int | None
    frames: str | None
    length: str | None
    precision: str | None
    mean: str
    class_priors: bool
    bands: str
    draws: int
    seed: int
    device: str
    threads: int | None

    def __post_init__(self) -> None:
        from wbdc.core.errors import UsageFault
        from wbdc.ensemble.band_weights import check_bounds

        shared_options.check_one_limit(self.limit, self.qps)
        if self.bounds:
            check_bounds(self.bounds)
        if (self.frames or self.length or self.items) and not self.has_limit:
            raise UsageFault(
                "--frames, --length and --items need a time limit; add --limit (seconds) or --qps"
            )
        if self.folds and self.has_limit:
            raise UsageFault(
                "--folds cannot be combined with --limit or --qps; leave --folds or the limit out"
            )
        if self.outside and self.has_limit:
            raise UsageFault(
                "--with cannot be combined with --limit or --qps, since the time of a member from"
                " outside wbdc is unknown; leave one of them out"
            )

    @property
    def bounds(self) -> tuple[int, ...]:
        """The bounds of the bands of class support; () for none. Raises UsageFault."""
        return () if self.bands == "none" else tuple(_parse_counts(self.bands, "--bands"))

    @property
    def has_limit(self) -> bool:
        """Whether members are chosen within a time limit."""
        return bool(self.limit or self.qps)


@click.command()
@click.option(
    "--run",
    "runs",
    multiple=True,
    help="A run, or a variant of it: 'RUN frames=4'. Repeatable; by default every finished run of "
    "the prepared data.",
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
@click.option(
    "--precision",
    help="Serve in this precision. With a limit: also try these, for example bf16,fp32.",
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
@click.option(
    "--draws",
    type=click.IntRange(100),
    default=1000,
    show_default=True,
    help="Bootstrap draws for the intervals.",
)
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
    outside = _read_outside(work, options, members)
    if dry_run:
        _print_plan([member.name for member in (*members, *outside)], as_json)
        return

    folder, data = work / "ensembles" / name, Path(dataset.facts.data_folder)
    check_writable(folder)
    check_ensemble_folder(folder)
    with lock_output(folder), console.progress(as_json) as progress:
        if options.has_limit:
            report = _build_within(work, name, members, data, options, progress)
        else:
            report = _build(work, name, members, outside, data, options, progress)
    if as_json:
        console.print_json(report)
    else:
        print_report(report, name, dataset.contest.score_components)


def _read_outside(
    work: Path, options: EnsembleOptions, members: "list[Variant]"
) -> "list[OutsideMember]":
    """Read the members from outside wbdc. Raises UsageFault when one has the name of a run."""
    from wbdc.core.errors import UsageFault
    from wbdc.ensemble.outside_members import read_outside_members
    from wbdc.prepare.dataset import open_prepared

    if not options.outside:
        return []
    dataset = open_prepared(work, members[0].run.facts.data)
    split = dataset.facts.labeled_split
    ids = dataset.read_split(split, ["id"])["id"].to_list()
    outside = read_outside_members(options.outside, ids, dataset.facts.classes, split)
    runs = {member.name for member in members}
    if repeated := [member.name for member in outside if member.name in runs]:
        raise UsageFault(f"--with {repeated[0]}: a run has this name; use --with OTHER=FILE")
    return outside


def _build(
    work: Path,
    name: str,
    members: "list[Variant]",
    outside: "list[OutsideMember]",
    data: Path,
    options: EnsembleOptions,
    progress: console.ProgressCallback,
) -> dict:
    """Blend all members; return the report."""
    from wbdc.ensemble.saved_ensembles import build_ensemble

    return build_ensemble(
        work,
        name,
        members,
        _predict_members(members, data, options, progress),
        only_folds=_split_list(options.folds),
        outside=outside,
        precision=options.precision,
        mean=options.mean,
        class_priors=options.class_priors,
        bands=options.bounds,
        draws=options.draws,
        seed=options.seed,
    )


def _build_within(
    work: Path,
    name: str,
    members: "list[Variant]",
    data: Path,
    options: EnsembleOptions,
    progress: console.ProgressCallback,
) -> dict:
    """Blend the best members within the time limit; return the report."""
    from wbdc.ensemble.budget.budget_search import BudgetOptions, build_ensemble_within

    items = options.items or shared_options.final_run_items(members[0].run.contest)
    return build_ensemble_within(
        work,
        name,
        members,
        data,
        _hardware_to_try(members, options),
        BudgetOptions(
            limit=options.limit or items / options.qps,
            items=items,
            frames=_parse_counts(options.frames, "--frames"),
            lengths=_parse_counts(options.length, "--length"),
            mean=options.mean,
            class_priors=options.class_priors,
            bands=options.bounds,
            draws=options.draws,
            seed=options.seed,
        ),
        log=console.log,
        progress=progress,
    )


def _predict_members(
    members: "list[Variant]",
    data: Path,
    options: EnsembleOptions,
    progress: console.ProgressCallback,
) -> "list[pl.DataFrame] | None":
    """Predict out of fold as the members will be served; None when their runs already did."""
    from wbdc.ensemble.out_of_fold import out_of_fold_predictions

    if not options.precision and not any(member.serve for member in members):
        return None

    contest, hardware = members[0].run.contest, _hardware(members, options, options.precision)
    return [
        out_of_fold_predictions(
            member,
            data,
            contest,
            hardware,
            progress,
            training_precision=_was_evaluated_in(member, hardware),
        )
        for member in members
    ]


def _was_evaluated_in(member: "Variant", hardware: "ServingHardware") -> bool:
    """Return whether all folds of a member were evaluated in the precision of `hardware`."""
    from wbdc.core.device import find_precision
    from wbdc.ensemble.saved_ensembles import serving_precisions

    names = serving_precisions(member)
    return all(find_precision(name, hardware.device) == hardware.precision for name in names)


def _hardware(
    members: "list[Variant]", options: EnsembleOptions, precision: str | None = None
) -> "ServingHardware":
    """Return this machine in a precision, by default that of the members' kits."""
    from wbdc.core.device import find_device, find_precision, use_threads
    from wbdc.ensemble.out_of_fold import ServingHardware
    from wbdc.ensemble.saved_ensembles import members_blend

    device, work = find_device(options.device), members[0].run.folder.parents[1]
    precision = members_blend(work, members, [1.0] * len(members), precision).precision
    return ServingHardware(device, find_precision(precision, device), use_threads(options.threads))


def _hardware_to_try(members: "list[Variant]", options: EnsembleOptions) -> "list[ServingHardware]":
    """Return this machine in the precision of the kits, then in each other one to try."""
    from wbdc.core.device import find_precision

    hardware = _hardware(members, options)
    requested = [find_precision(name, hardware.device) for name in _split_list(options.precision)]
    precisions = dict.fromkeys([hardware.precision, *requested])
    return [hardware._replace(precision=precision) for precision in precisions]


def _split_list(text: str | None) -> list[str]:
    """Split "0,1" at its commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _parse_counts(text: str | None, option: str) -> list[int]:
    """Parse "8,4" as numbers of 1 or more. Raises UsageFault."""
    from wbdc.core.errors import UsageFault

    parts = _split_list(text)
    if invalid := [part for part in parts if not part.isdecimal() or int(part) < 1]:
        raise UsageFault(
            f"{option} {text}: {invalid[0]!r} is not a positive integer; give for example "
            f"{option} 8,4"
        )
    return [int(part) for part in parts]


def _print_plan(names: list[str], as_json: bool) -> None:
    if as_json:
        console.print_json({"members": names})
    else:
        console.print_text(f"Would blend {', '.join(names)}.")


def print_report(report: dict, name: str, order: Sequence[str] = ()) -> None:
    """Print the scores of members and ensemble, the weights and the gain.

    order: of the components of the score.
    """
    names = console.component_names(report["ensemble"]["score"], order=order)
    dropped = [member["name"] for member in report["dropped"]]
    rows = []
    for member, entry in report["members"].items():
        weight = "dropped" if member in dropped else report["weights"][member]
        rows.append((member, weight, *_score_cells(entry, names)))
    rows.append((name, "", *_score_cells(report["ensemble"], names)))

    title = f"{report['rows']:,} videos of folds {', '.join(report['folds'])}"
    columns = ("out of fold", "weight", *names, "95 % interval", "official")
    console.print_table(title, columns, rows)
    print_weights(report)
    if "budget" in report:
        _print_budget(report["budget"])
    _print_bands(report["bands"], list(report["members"]))
    _print_class_priors(report["class_priors"])
    print_support(report["support"])
    console.print_text(f"Over {report['best']}: {_gain_text(report['gain'])}.")
    if optimistic := report.get("optimistic"):
        console.print_text(
            f"Scores of {', '.join(optimistic)} are optimistic, and so may be their weights: the "
            "held-out videos also selected the weights of their models."
        )


def print_weights(report: dict) -> None:
    """Print how the weights were chosen, and which members were dropped."""
    weighting = report["weighting"]
    trials = ", ".join(f"{method} {mean:.3f}" for method, mean in weighting["trials"].items())
    if trials and not report["geometric"]["used"]:
        console.print_text(
            f"Weights: {weighting['method']}. Log-likelihood of a held-out video: {trials}."
        )
    _print_geometric(report["geometric"])
    for member in report["dropped"]:
        console.print_text(
            f"Dropped {member['name']}: {member['reason']} ({member['weight']:.2g})."
        )


def _print_geometric(geometric: dict) -> None:
    """Print the gain of a geometric mean over the arithmetic one, or why there is none."""
    if "gain" not in geometric:
        console.print_text(f"No geometric mean: {geometric['reason']}.")
        return
    decision = "used" if geometric["used"] else "not used"
    trials = ", ".join(f"{mean} {value:.3f}" for mean, value in geometric["trials"].items())
    console.print_text(
        f"Geometric mean: {_gain_text(geometric['gain'])}; log-likelihood of a held-out video: "
        f"{trials}, so {decision}."
    )


def _print_bands(bands: dict, members: list[str]) -> None:
    """Print the gain of weights by class support and the weights, or why there are none."""
    if "gain" not in bands:
        console.print_text(f"No weights by class support: {bands['reason']}.")
        return
    decision = "used" if bands["used"] else "not used"
    console.print_text(f"Weights by class support: {_gain_text(bands['gain'])}, so {decision}.")
    if bands["used"]:
        rows = [(name, *bands["weights"][name]) for name in members]
        columns = [f"{name} videos per class" for name in bands["names"]]
        console.print_table("Weights by class support", ("member", *columns), rows)


def print_support(support: dict) -> None:
    """Print the mean F1 of the classes of each band of support."""
    columns = [
        f"{band['videos per class']} ({band['classes']} of the classes, {band['videos']:,} videos)"
        for band in support["bands"]
    ]
    rows = [(name, *scores) for name, scores in support["f1"].items()]
    console.print_table("Mean F1 of classes, by videos per class", ("", *columns), rows)


def _print_class_priors(class_priors: dict) -> None:
    """Print the gain of class multipliers, or why there is none."""
    if "gain" not in class_priors:
        console.print_text(f"No class multipliers: {class_priors['reason']}.")
        return
    decision = "used" if class_priors["used"] else "not used"
    console.print_text(f"Class multipliers: {_gain_text(class_priors['gain'])}, so {decision}.")


def _print_budget(budget: dict) -> None:
    """Print the frontier, and what the dropped candidates would have added."""
    rows = [
        (
            " + ".join(choice["members"]),
            choice["precision"],
            choice["seconds"],
            choice["score"],
            "chosen" if choice == budget["chosen"] else "",
        )
        for choice in budget["frontier"]
    ]
    title = (
        f"{budget['items']:,} videos within {budget['limit']:,.0f} s, with a margin of"
        f" {budget['margin']:.0%}"
    )
    console.print_table(title, ("members", "precision", "seconds", "score", ""), rows)
    if dropped := budget["dropped"]:
        console.print_table(
            "Not chosen: what each would add",
            ("member", "seconds", "score"),
            [(one["name"], one["seconds"], _interval_text(one["gain"])) for one in dropped],
        )


def _gain_text(gain: dict) -> str:
    return f"{_interval_text(gain)}, {gain['verdict']}"


def _interval_text(gain: dict) -> str:
    return f"{gain['difference']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"


def _score_cells(entry: dict, names: list[str]) -> tuple:
    low, high = entry["interval"]
    *components, official = console.score_cells(entry, names)
    return *components, f"{low:.4f} – {high:.4f}", official
