"""wbdc ensemble: blend runs, and say what the blend is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from wbdc.cli import console


@dataclass(frozen=True)
class EnsembleOptions:
    """How members are blended: the options of the command, by their names. Raises UsageFault."""

    folds: str | None
    limit: float | None
    qps: float | None
    items: int | None
    frames: str | None
    length: str | None
    precision: str | None
    class_priors: bool
    draws: int
    seed: int
    device: str
    threads: int | None

    def __post_init__(self) -> None:
        from wbdc.core.errors import UsageFault

        if self.limit and self.qps:
            raise UsageFault("--limit and --qps say the same thing twice; give one")
        if (self.frames or self.length or self.items) and not self.has_limit:
            fault = "--frames, --length and --items belong to a limit"
            raise UsageFault(f"{fault}; give --limit (seconds) or --qps")
        if self.folds and self.has_limit:
            fault = "--folds cannot be combined with --limit or --qps"
            raise UsageFault(f"{fault}; give the folds without a limit")

    @property
    def has_limit(self) -> bool:
        """Whether members are chosen within a limit of time."""
        return bool(self.limit or self.qps)


@click.command()
@click.option(
    "--run",
    "runs",
    multiple=True,
    help="A run to take, or a form of it: 'RUN frames=4'. Repeatable; by default every finished run of the prepared data.",
)
@click.option(
    "--folds",
    help="Learn and score on these folds alone, such as 0,1; by default all that the members share.",
)
@click.option("--name", default="ensemble", show_default=True, help="What to call it.")
@click.option(
    "--limit",
    type=console.FiniteRange(min=0, min_open=True),
    help="Seconds for all videos at the judge's: measure what members cost here, and keep those that fit.",
)
@click.option(
    "--qps",
    type=console.FiniteRange(min=0, min_open=True),
    help="The limit as videos a second instead.",
)
@click.option(
    "--items",
    type=click.IntRange(1, 10**9),
    help="Videos of the final run; by default the competition's.",
)
@click.option("--frames", help="With a limit: also try fewer frames, such as 8,4.")
@click.option("--length", help="With a limit: also try shorter texts, such as 128,64 tokens.")
@click.option(
    "--precision", help="Serve in this precision; with a limit: also try these, such as bf16,fp32."
)
@click.option(
    "--class-priors/--no-class-priors",
    default=True,
    show_default=True,
    help="Try class multipliers; used when nested cross-validation finds them better.",
)
@click.option(
    "--draws",
    type=click.IntRange(100),
    default=1000,
    show_default=True,
    help="Bootstrap draws for the intervals.",
)
@console.seed
@console.device
@console.threads
@console.prepared
@console.dry_run
@console.verify_files
@console.work
@console.as_json
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

    The ensemble's score is its own: each fold is answered with weights learned on the others
    (nested cross-validation).
    Of equal weights, those of maximum likelihood, halfway between, and the best member alone, the
    simplest is taken whose
    cross-validated log-likelihood is within one standard error of the best. Members below 1 % of
    the largest weight are dropped.
    Intervals are 95 % bootstrap over videos; a gain whose interval holds 0 is called within noise.
    With a limit, members are timed on this
    machine, and of all subsets the best that fits is kept.

    \b
    Example:
      wbdc ensemble
      wbdc ensemble --run dual_stream-1a2b3c4d --run single_stream-5e6f7a8b --name two
      wbdc ensemble --qps 70 --frames 8,4
    """
    from wbdc.core.files import check_writable, lock_output
    from wbdc.core.folders import check_name
    from wbdc.ensemble.ensembles import check_ensemble_folder
    from wbdc.ensemble.member_selection import select_members
    from wbdc.prepare.dataset import open_prepared

    check_name(name, "--name")
    options = EnsembleOptions(**settings)
    ready = open_prepared(work, prepared)
    chosen, left = select_members(work, runs, ready)
    for sentence in left:
        console.log(sentence)
    if dry_run:
        names = [form.name for form in chosen]
        return (
            console.print_json({"members": names})
            if as_json
            else console.print_text(f"Would blend {', '.join(names)}.")
        )
    folder = work / "ensembles" / name
    check_writable(folder)
    check_ensemble_folder(folder)
    build = _build_within if options.has_limit else _build
    with lock_output(folder), console.progress(as_json) as progress:
        report = build(work, name, chosen, Path(ready.facts.data_folder), options, progress)
    console.print_json(report) if as_json else print_report(
        report, name, ready.contest.score_components
    )


def _build(
    work: Path, name: str, chosen: list, data: Path, options: EnsembleOptions, progress: object
) -> dict:
    """Blend all members; return the report."""
    from wbdc.ensemble.ensembles import build_ensemble

    return build_ensemble(
        work,
        name,
        chosen,
        _predictions(chosen, data, options, progress),
        only_folds=_parts(options.folds),
        precision=options.precision,
        class_priors=options.class_priors,
        draws=options.draws,
        seed=options.seed,
    )


def _build_within(
    work: Path, name: str, chosen: list, data: Path, options: EnsembleOptions, progress: object
) -> dict:
    """Blend the members that answer best within the limit; return the report."""
    from wbdc.ensemble.budget.budget_search import BudgetOptions, build_ensemble_within

    items = options.items or console.final_run_items(chosen[0].run.contest)
    return build_ensemble_within(
        work,
        name,
        chosen,
        data,
        _machines(chosen, options),
        BudgetOptions(
            limit=options.limit or items / options.qps,
            items=items,
            frames=_counts(options.frames, "--frames"),
            lengths=_counts(options.length, "--length"),
            class_priors=options.class_priors,
            draws=options.draws,
            seed=options.seed,
        ),
        log=console.log,
        progress=progress,
    )


def _predictions(
    chosen: list, data: Path, options: EnsembleOptions, progress: object
) -> list | None:
    """Predict out of fold as the members will serve; None where that is how their runs did."""
    from wbdc.core.device import find_precision
    from wbdc.ensemble.out_of_fold import out_of_fold_predictions

    precision = options.precision
    if not precision and not any(form.serve for form in chosen):
        return None

    contest = chosen[0].run.contest
    own = _machine(chosen, options)
    machine = own
    if precision:
        machine = own._replace(precision=find_precision(precision, own.device))
    return [
        out_of_fold_predictions(
            form, data, contest, machine, progress, training_precision=machine == own
        )
        for form in chosen
    ]


def _machine(chosen: list, options: EnsembleOptions) -> object:
    """Return this machine, in the precision that the kits serve in."""
    from wbdc.core.device import find_device, find_precision, use_threads
    from wbdc.ensemble.ensembles import run_blend
    from wbdc.ensemble.out_of_fold import ServingHardware

    device, run = find_device(options.device), chosen[0].run
    precision = run_blend(run.folder.parents[1], run).precision
    return ServingHardware(device, find_precision(precision, device), use_threads(options.threads))


def _machines(chosen: list, options: EnsembleOptions) -> list:
    """Return this machine in the kits' precision, then in each other one to try."""
    from wbdc.core.device import find_precision

    own = _machine(chosen, options)
    precisions = [find_precision(name, own.device) for name in _parts(options.precision)]
    others = [precision for precision in dict.fromkeys(precisions) if precision != own.precision]
    return [own, *(own._replace(precision=precision) for precision in others)]


def _parts(listed: str | None) -> list[str]:
    """Read "0,1" as its parts."""
    return [part.strip() for part in (listed or "").split(",") if part.strip()]


def _counts(listed: str | None, option: str) -> list[int]:
    """Read "8,4" as numbers of 1 or more. Raises UsageFault."""
    from wbdc.core.errors import UsageFault

    parts = _parts(listed)
    if wrong := [part for part in parts if not part.isdecimal() or int(part) < 1]:
        fault = f"{wrong[0]!r} is no number of 1 or more; give such as 8,4"
        raise UsageFault(f"{option} {listed}: {fault}")
    return [int(part) for part in parts]


def print_report(report: dict, name: str, order: Sequence[str] = ()) -> None:
    """Print an ensemble's members, its own score and its gain. order: of the score's components."""
    names, dropped = (
        console.component_names(report["ensemble"]["score"], order=order),
        [one["name"] for one in report["dropped"]],
    )
    rows = [
        (
            member,
            "dropped" if member in dropped else report["weights"][member],
            *_numbers(facts, names),
        )
        for member, facts in report["members"].items()
    ]
    rows.append((name, "", *_numbers(report["ensemble"], names)))
    columns = ("out of fold", "weight", *names, "95 % interval", "official")
    console.print_table(
        f"{report['rows']:,} videos of folds {', '.join(report['folds'])}", columns, rows
    )
    print_weights(report)
    if "budget" in report:
        _print_budget(report["budget"])
    priors, gain = report["class_priors"], report["gain"]
    if "gain" in priors:
        more, word = priors["gain"], "used" if priors["used"] else "not used"
        console.print_text(
            f"Class multipliers: {more['difference']:+.4f} [{more['low']:+.4f}, {more['high']:+.4f}], {more['verdict']}, so {word}."
        )
    else:
        console.print_text(f"No class multipliers: {priors['reason']}.")
    console.print_text(
        f"Over {report['best']}: {gain['difference']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}], {gain['verdict']}."
    )


def print_weights(report: dict) -> None:
    """Print how the weights were chosen, and which members were dropped."""
    trials = ", ".join(
        f"{method} {mean:.3f}" for method, mean in report["weighting"]["trials"].items()
    )
    if trials:
        console.print_text(
            f"Weights: {report['weighting']['method']}. Log-likelihood of a held-out video: {trials}."
        )
    for one in report["dropped"]:
        console.print_text(f"Dropped {one['name']}: {one['reason']} ({one['weight']:.2g}).")


def _print_budget(budget: dict) -> None:
    """Print the frontier, and what was left out."""
    rows = [
        (
            " + ".join(c["members"]),
            c["precision"],
            c["seconds"],
            c["score"],
            "kept" if c == budget["chosen"] else "",
        )
        for c in budget["frontier"]
    ]
    console.print_table(
        f"{budget['items']:,} videos within {budget['limit']:,.0f} s, with a margin of {budget['margin']:.0%}",
        ("members", "precision", "seconds", "score", ""),
        rows,
    )
    left = [
        (
            d["name"],
            d["seconds"],
            f"{d['gain']['difference']:+.4f} [{d['gain']['low']:+.4f}, {d['gain']['high']:+.4f}]",
        )
        for d in budget["dropped"]
    ]
    if left:
        console.print_table(
            "Left out: what it would have added", ("member", "seconds", "score"), left
        )


def _numbers(facts: dict, names: list[str]) -> tuple:
    (low, high), (*parts, official) = facts["interval"], console.score_cells(facts, names)
    return *parts, f"{low:.4f} – {high:.4f}", official
