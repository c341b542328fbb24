"""wbdc ensemble: blend runs, and say what the blend is worth."""

from pathlib import Path

import click

from wbdc.cli import console


@click.command()
@click.option("--run", "runs", multiple=True, help="A run to take, or a form of it: 'RUN frames=4'. Repeatable; by default every finished run of the prepared data.")
@click.option("--folds", help="Learn and score on these folds alone, such as 0,1; by default all that the members share.")
@click.option("--name", default="ensemble", show_default=True, help="What to call it.")
@click.option("--limit", type=console.FiniteRange(min=0, min_open=True), help="Seconds for all videos at the judge's: measure what members cost here, and keep those that fit.")
@click.option("--qps", type=console.FiniteRange(min=0, min_open=True), help="The limit as videos a second instead.")
@click.option("--items", type=click.IntRange(1, 10**9), help="Videos of the final run; by default the competition's.")
@click.option("--frames", help="With a limit: also try fewer frames, such as 8,4.")
@click.option("--length", help="With a limit: also try shorter texts, such as 128,64 tokens.")
@click.option("--precision", help="Serve in this precision; with a limit: also try these, such as bf16,fp32.")
@click.option("--priors/--no-priors", default=True, show_default=True, help="Try lifts for rare classes; used when nested cross-validation finds them better.")
@click.option("--draws", type=click.IntRange(100), default=1000, show_default=True, help="Bootstrap draws for the intervals.")
@console.seed
@console.device
@console.threads
@console.prepared
@console.dry_run
@console.verify
@console.work
@console.as_json
def ensemble(
    runs: tuple[str, ...], folds: str | None, name: str, limit: float | None, qps: float | None, items: int | None, frames: str | None, length: str | None, precision: str | None, priors: bool, draws: int, seed: int,
    device: str, threads: int | None, prepared: str | None, dry_run: bool, work: Path, as_json: bool,
) -> None:  # fmt: skip
    """Learn blend weights on out-of-fold predictions.

    The ensemble's score is its own: each fold is answered with weights learned on the others (nested cross-validation).
    Of equal weights, those of maximum likelihood, halfway between, and the best member alone, the simplest is taken whose
    cross-validated log-likelihood is within one standard error of the best. Members below 1 % of the largest weight are dropped.
    Intervals are 95 % bootstrap over videos; a gain whose interval holds 0 is called within noise. With a limit, members are timed on this
    machine, and of all subsets the best that fits is kept.

    \b
    Example:
      wbdc ensemble
      wbdc ensemble --run dual_stream-1a2b3c4d --run single_stream-5e6f7a8b --name two
      wbdc ensemble --qps 70 --frames 8,4
    """
    from wbdc.core.errors import UsageFault
    from wbdc.core.files import check_writable, hold_output
    from wbdc.core.folders import check_name
    from wbdc.ensemble.store import build, check_ensemble_folder, choose
    from wbdc.prepare.dataset import open_prepared

    check_name(name, "--name")
    if limit and qps:
        raise UsageFault("--limit and --qps say the same thing twice; give one")
    if (frames or length or items) and not (limit or qps):
        raise UsageFault("--frames, --length and --items belong to a limit; give --limit (seconds) or --qps")
    if folds and (limit or qps):
        raise UsageFault("--folds cannot be combined with --limit or --qps; give the folds without a limit")
    ready = open_prepared(work, prepared)
    chosen, left = choose(work, runs, ready)
    for sentence in left:
        console.say(sentence)
    if dry_run:
        names = [form.name for form in chosen]
        return console.show({"members": names}) if as_json else console.tell(f"Would blend {', '.join(names)}.")
    folder = work / "ensembles" / name
    check_writable(folder)
    check_ensemble_folder(folder)
    with hold_output(folder), console.progress(as_json) as progress:
        if limit or qps:
            report = _within(work, name, chosen, Path(ready.facts["data"]), limit, qps, items, frames, length, precision, device, threads, priors, draws, seed, progress)
        else:
            tables = _said(chosen, Path(ready.facts["data"]), precision, device, threads, progress)
            only = [fold.strip() for fold in (folds or "").split(",") if fold.strip()]
            report = build(work, name, chosen, tables, only=only, precision=precision, priors=priors, draws=draws, seed=seed)
    console.show(report) if as_json else print_report(report, name)


def _said(chosen: list, data: Path, precision: str | None, device: str, threads: int | None, progress: object) -> list | None:
    """What members say out of fold; None when it is what their runs said."""
    from wbdc import competitions
    from wbdc.core import plug
    from wbdc.core.device import find_precision
    from wbdc.ensemble.forms import said

    if not precision and not any(form.serve for form in chosen):
        return None
    contest, own = plug.build(competitions, {"use": chosen[0].run.facts["competition"]}), _machine(chosen, device, threads)
    machine = own._replace(precision=find_precision(precision, own.device)) if precision else own
    return [said(form, data, contest, machine, progress, own=machine == own) for form in chosen]


def _machine(chosen: list, device: str, threads: int | None) -> object:
    from wbdc.core.device import find_device, find_precision, use_threads
    from wbdc.ensemble.forms import Machine
    from wbdc.ensemble.store import run_blend

    where = find_device(device)
    return Machine(where, find_precision(run_blend(chosen[0].run.folder.parents[1], chosen[0].run)["precision"], where), use_threads(threads))


def _within(
    work: Path, name: str, chosen: list, data: Path, limit: float | None, qps: float | None, items: int | None, frames: str | None, length: str | None,
    precision: str | None, device: str,
    threads: int | None, priors: bool, draws: int, seed: int, progress: object,
) -> dict:  # fmt: skip
    from wbdc.core.device import find_precision
    from wbdc.ensemble.within import build_within

    own = _machine(chosen, device, threads)
    asked = [find_precision(name.strip(), own.device) for name in (precision or "").split(",") if name.strip()]
    machines = [own, *(own._replace(precision=p) for p in dict.fromkeys(asked) if p != own.precision)]
    count = items or console.items(chosen[0].run.facts["competition"])
    return build_within(
        work, name, chosen, data, machines, limit=limit or count / qps, items=count, frames=_numbers_of(frames, "--frames"), lengths=_numbers_of(length, "--length"),
        priors=priors, draws=draws, seed=seed, say=console.say, progress=progress,
    )  # fmt: skip


def _numbers_of(given: str | None, option: str) -> list[int]:
    from wbdc.core.errors import UsageFault

    parts = [part.strip() for part in (given or "").split(",") if part.strip()]
    if wrong := [part for part in parts if not part.isdecimal() or int(part) < 1]:
        raise UsageFault(f"{option} {given}: {wrong[0]!r} is no number of 1 or more; give such as 8,4")
    return [int(part) for part in parts]


def print_report(report: dict, name: str) -> None:
    """Print an ensemble's members, its own score and its gain."""
    names, dropped = console.components(report["ensemble"]["score"]), [one["name"] for one in report["dropped"]]
    rows = [(member, "dropped" if member in dropped else report["weights"][member], *_numbers(facts, names)) for member, facts in report["members"].items()]
    rows.append((name, "", *_numbers(report["ensemble"], names)))
    columns = ("out of fold", "weight", *names, "95 % interval", "official")
    console.table(f"{report['rows']:,} videos of folds {', '.join(report['folds'])}", columns, rows)
    print_weights(report)
    if "budget" in report:
        _print_budget(report["budget"])
    priors, gain = report["priors"], report["gain"]
    if "gain" in priors:
        more, word = priors["gain"], "used" if priors["used"] else "not used"
        console.tell(f"Lifts for rare classes: {more['difference']:+.4f} [{more['low']:+.4f}, {more['high']:+.4f}], {more['verdict']}, so {word}.")
    else:
        console.tell(f"No lifts for rare classes: {priors['why']}.")
    console.tell(f"Over {report['best']}: {gain['difference']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}], {gain['verdict']}.")


def print_weights(report: dict) -> None:
    """Print how the weights were chosen, and which members were dropped."""
    trials = ", ".join(f"{method} {mean:.3f}" for method, mean in report["weighting"]["trials"].items())
    if trials:
        console.tell(f"Weights: {report['weighting']['method']}. Log-likelihood of a held-out video: {trials}.")
    for one in report["dropped"]:
        console.tell(f"Dropped {one['name']}: {one['why']} ({one['weight']:.2g}).")


def _print_budget(budget: dict) -> None:
    """Print the frontier, and what was left out."""
    rows = [(" + ".join(c["members"]), c["precision"], c["seconds"], c["score"], "kept" if c == budget["chosen"] else "") for c in budget["frontier"]]
    console.table(f"{budget['items']:,} videos within {budget['limit']:,.0f} s, with a margin of {budget['margin']:.0%}", ("members", "precision", "seconds", "score", ""), rows)
    left = [(d["name"], d["seconds"], f"{d['gain']['difference']:+.4f} [{d['gain']['low']:+.4f}, {d['gain']['high']:+.4f}]") for d in budget["dropped"]]
    if left:
        console.table("Left out: what it would have added", ("member", "seconds", "score"), left)


def _numbers(facts: dict, names: list[str]) -> tuple:
    (low, high), (*parts, official) = facts["interval"], console.scores(facts, names)
    return *parts, f"{low:.4f} – {high:.4f}", official
