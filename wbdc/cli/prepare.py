"""wbdc prepare: check a data folder and store what training reads."""

from collections.abc import Iterator
from pathlib import Path

import click

from wbdc.cli import console

SHARES = 4  # values of a statistic that are shown, the most frequent ones


@click.command()
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the raw data, in the competition's layout.",
)
@click.option(
    "--competition",
    default="wechat2022",
    show_default=True,
    help="Name of a competition, or a file that defines one: ./shorts.py.",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    default=5,
    show_default=True,
    help="Folds, stratified by class and modality, near-duplicates kept together.",
)
@click.option(
    "--check-only",
    is_flag=True,
    help="Read and report everything, frame by frame, and write nothing.",
)
@click.option(
    "--list",
    "listed",
    metavar="CODE",
    help="Print every place of one finding, such as archive.empty, one a line.",
)
@click.option(
    "--strict", is_flag=True, help="Exit 3 when anything was wrong, also what can be survived."
)
@click.option(
    "--engine",
    default="threads",
    show_default=True,
    help="Who reads the archives: threads, local (processes), ray, torchrun.",
)
@click.option(
    "--kit",
    help="Also make ahead what this kit reads: token ids, and pixels or the vectors of its frozen tower.",
)
@click.option("--tiny", is_flag=True, help="With --kit: its [tiny] recipe.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="With --kit: override one setting, such as vision.frozen=true. Repeatable.",
)
@console.store
@console.weights
@console.device
@console.seed
@console.threads
@console.dry_run
@console.work
@console.as_json
def prepare(
    data: Path,
    competition: str,
    folds: int,
    check_only: bool,
    listed: str | None,
    strict: bool,
    engine: str,
    kit: str | None,
    tiny: bool,
    changes: tuple[str, ...],
    store: str,
    weights: str | None,
    device: str,
    seed: int,
    threads: int | None,
    dry_run: bool,
    work: Path,
    as_json: bool,
) -> None:
    """Check a data folder, keep its frames, deal the folds.

    Killed at any moment and started again, it goes on. A second run with nothing changed says so.

    \b
    Example:
      wbdc prepare --data data/wechat2022 --check-only
      wbdc prepare --data data/wechat2022 --engine local
      wbdc prepare --data data/shorts --competition ./shorts.py
      wbdc prepare --data data/wechat2022 --kit dual_stream --set vision.frozen=true
    """
    import os

    from wbdc.competitions import open_competition
    from wbdc.core import plug
    from wbdc.core.device import find_device, use_threads
    from wbdc.core.errors import DataInvalid, UsageFault, suggest_name
    from wbdc.core.files import check_writable
    from wbdc.prepare import engines
    from wbdc.prepare.build import MAX_LISTED_PLACES, survey_data
    from wbdc.prepare.build import prepare_data as build
    from wbdc.prepare.check import check_data, refuse_invalid
    from wbdc.prepare.describe.finding_codes import FINDING_CODES
    from wbdc.train.kit import open_kit
    from wbdc.train.views import make_views

    if check_only and (kit or engine != "threads"):
        raise UsageFault(
            "--check-only writes nothing, so there is nothing that --kit or --engine could do; leave them out"
        )
    if listed and listed not in FINDING_CODES:
        raise UsageFault(
            f"no finding called {listed!r}{suggest_name(listed, sorted(FINDING_CODES))}"
        )
    if not (check_only or dry_run):
        check_writable(work)
    contest = open_competition(competition)
    count = threads or len(os.sched_getaffinity(0))
    settings = {"folds": folds, "seed": seed, "threads": count}
    console.use_weights(weights)
    chosen = open_kit(kit, tiny=tiny, changes=changes) if kit else None
    folder, had = None, False
    with console.progress(as_json) as progress:
        if dry_run:
            checked = check_data(data, contest, max_places=MAX_LISTED_PLACES, progress=progress)
            facts, found = (
                {
                    "counts": {name: len(split.ids) for name, split in checked.splits.items()},
                    "holds": checked.frame_format,
                },
                checked.findings.report(),
            )
        elif check_only:
            surveyed, found = survey_data(data, contest, progress=progress, **settings)
            facts = surveyed.to_dict()
        else:
            place = plug.build_plug(
                engines,
                {
                    "use": engine,
                    **({"workers": threads} if threads and engine in ("local", "ray") else {}),
                },
            )
            made, had = build(data, work, contest, engine=place, progress=progress, **settings)
            if chosen:
                count = use_threads(1 if place.ranks > 1 else count)
                make_views(
                    chosen,
                    made,
                    seed=seed,
                    store=store,
                    device=find_device(device),
                    threads=count,
                    log=console.log,
                    progress=progress,
                    rank=place.rank,
                    ranks=place.ranks,
                )
                place.meet()
            if not place.leads:
                return
            facts, found, folder = made.facts.to_dict(), made.read_findings(), str(made.folder)
    if listed:
        for place in found.get(listed, {"places": []})["places"]:
            console.print_text(place)
        if listed in found and (more := found[listed]["count"] - len(found[listed]["places"])) > 0:
            console.log(f"and {more:,} more places, which were counted and not kept")
    elif as_json:
        console.print_json({"folder": folder, "unchanged": had, **facts, "findings": found})
    else:
        _print(facts, found, folder, had)
    if strict and found:
        raise DataInvalid(
            f"{sum(f['count'] for f in found.values()):,} findings of {len(found)} kinds, and --strict allows none"
        )
    refuse_invalid(found)


def _print(facts: dict, found: dict[str, dict], folder: str | None, had: bool) -> None:
    from wbdc.prepare.describe.finding_codes import FINDING_CODES

    rows = [
        (split, count, facts["frames"][split] if "frames" in facts else "")
        for split, count in facts["counts"].items()
    ]
    console.print_table("Videos", ("split", "videos", "frames"), rows)
    if "statistics" in facts:
        console.print_table(
            "Statistics: mean (95 % are at most)",
            ("", *facts["statistics"]),
            list(_statistics(facts)),
        )
        if moved := [
            (s["statistic"], s["train_mean"], s["test_mean"], s["distance"])
            for s in facts["shift"]
            if s["notable"]
        ]:
            console.print_table(
                "Shift: where test differs from what is learned from",
                ("statistic", "labelled, mean", "test, mean", "distance"),
                moved,
            )
    if found:
        order = sorted(
            found,
            key=lambda code: (
                ("error", "warning", "note").index(FINDING_CODES[code].severity),
                code,
            ),
        )
        lines = [
            (
                f"{code} ({FINDING_CODES[code].severity})",
                found[code]["count"],
                found[code]["places"][0],
                FINDING_CODES[code].consequence,
                FINDING_CODES[code].fix,
            )
            for code in order
        ]
        console.print_table(
            "Found (`--list FINDING` names all places)",
            ("finding", "count", "first", "what follows", "what to do"),
            lines,
        )
    if folder is None:
        return console.print_text("Checked only; nothing was written.")
    classes = f"{len(facts['classes'])} classes in the labelled split, {len(facts['known_classes'])} known"
    console.print_text(
        f"{classes}; {facts['folds']} folds, stratified by class and modality, near-duplicates together (seed {facts['seed']})."
    )
    console.print_text(f"Nothing has changed; {folder} is ready." if had else f"Ready: {folder}")


def _statistics(facts: dict) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a table: a statistic, and what it is in each split."""
    splits = facts["statistics"]
    for name in max((report for report in splits.values()), key=len):
        cells = []
        for split, report in splits.items():
            value = report.get(name, "")
            if name == "present":
                value = ", ".join(f"{key} {share:.0%}" for key, share in value.items())
            elif isinstance(value, dict) and "mean" in value:
                value = f"{value['mean']:,g} ({value['p95']:,g})"
            elif isinstance(value, dict):
                value = _largest(
                    value, facts["frames"][split] if name == "frame sizes" else report["videos"]
                )
            cells.append(f"{value:,}" if isinstance(value, int) else str(value))
        yield name, *cells


def _largest(counts: dict[str, int], total: int) -> str:
    """Word the most frequent values, and how many of `total` have another one."""
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = dict(order[:SHARES])
    words = [f"{key.replace(' x ', '×')}: {count:,}" for key, count in shown.items()]
    others = total - sum(shown.values())
    return ", ".join([*words, f"others: {others:,}"] if others else words)
