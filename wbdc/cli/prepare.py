"""wbdc prepare: check a data folder and store the data for training."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbdc.cli import console, shared_options
from wbdc.cli.name_completion import KIT_NAME

if TYPE_CHECKING:
    from wbdc.competitions import Competition
    from wbdc.prepare.dataset import PreparedData
    from wbdc.prepare.engines import Engine
    from wbdc.train.kit import Kit

MAX_SHOWN_COUNTS = 4  # values of a statistic in the table: the most frequent ones
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class PrepareResult:
    """What `wbdc prepare` prints.

    facts: of the dataset, as in DONE.json; findings: {code: {"count", "places"}}; folder: of the
    dataset, None if nothing was written; unchanged: the dataset existed already.
    """

    facts: dict
    findings: dict[str, dict]
    folder: str | None = None
    unchanged: bool = False

    def to_dict(self) -> dict:
        """Return the result in JSON values."""
        header = {"folder": self.folder, "unchanged": self.unchanged}
        return {**header, **self.facts, "findings": self.findings}


@dataclass(frozen=True)
class ViewOptions:
    """The kit whose inputs are computed, and how its frames are stored."""

    kit: "Kit"
    store: str
    device: str


@click.command()
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the raw data, in the layout of the competition.",
)
@click.option(
    "--competition",
    default="wechat2022",
    show_default=True,
    help="Name of a competition, or a file that defines one: ./data.toml, ./shorts.py.",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    default=5,
    show_default=True,
    help="Number of folds, stratified by class and modality.",
)
@click.option(
    "--groups",
    metavar="FILE|COLUMN",
    help="Keep videos of one group in one fold: a table with the columns id and group, or a column "
    "of the annotations.",
)
@click.option(
    "--corrections",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Replace labels: a reviewed table with the columns id and label, for example of `wbdc "
    "report`.",
)
@click.option("--check-only", is_flag=True, help="Check all data, frame by frame; write nothing.")
@click.option(
    "--list",
    "listed",
    metavar="CODE",
    help="Print all places of one finding, for example archive.empty.",
)
@click.option("--strict", is_flag=True, help="Exit with code 3 if there are any findings.")
@click.option(
    "--engine",
    default="threads",
    show_default=True,
    help="Engine that reads the archives: threads, local (processes), ray, torchrun.",
)
@click.option(
    "--kit", type=KIT_NAME, help="Also compute the inputs of this kit: tokens and frames."
)
@click.option("--tiny", is_flag=True, help="With --kit: use its [tiny] settings.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="With --kit: change a setting (vision.frozen=true). Repeatable.",
)
@shared_options.store
@shared_options.weights_root
@shared_options.device
@shared_options.seed
@shared_options.threads
@shared_options.dry_run
@shared_options.work
@shared_options.as_json
def prepare(
    data: Path,
    competition: str,
    folds: int,
    groups: str | None,
    corrections: Path | None,
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
    """Check a data folder, store its frames and assign folds.

    Run the same command again to continue after a stop; unchanged data are reused.

    \b
    Example:
      wbdc prepare --data data/wechat2022 --check-only
      wbdc prepare --data data/wechat2022 --engine local
      wbdc prepare --data data/wechat2022 --groups uploader
      wbdc prepare --data data/wechat2022 --corrections reviewed.csv
      wbdc prepare --data data/shorts --competition ./shorts.py
      wbdc prepare --data data/wechat2022 --kit dual_stream
    """
    from wbdc.competitions import open_competition
    from wbdc.core.cpu_quota import available_cpus
    from wbdc.core.files import check_writable

    _check_options(check_only, kit, engine, listed)
    if not (check_only or dry_run):
        check_writable(work)
    shared_options.use_weights(weights)
    contest = open_competition(competition)
    views = _open_views(kit, tiny, changes, store, device) if kit else None
    settings = {
        "folds": folds,
        "seed": seed,
        "groups": groups,
        "corrections": corrections,
        "threads": threads or available_cpus(),
    }

    with console.progress(as_json) as progress:
        if dry_run:
            result = _check(data, contest, corrections, progress)
        elif check_only:
            result = _survey(data, contest, progress, settings)
        else:
            engine_plug = _open_engine(engine, threads)
            result = _prepare(data, work, contest, engine_plug, views, progress, settings)
            if not engine_plug.is_main:
                return

    _print(result, listed, as_json)
    _refuse_findings(result.findings, strict)


def _open_views(
    kit: str, tiny: bool, changes: tuple[str, ...], store: str, device: str
) -> ViewOptions:
    """Resolve the kit for which to prepare the text and frames."""
    from wbdc.train.kit import open_kit  # imports torch, which data without a kit do not need

    return ViewOptions(open_kit(kit, tiny=tiny, changes=changes), store, device)


def _check_options(check_only: bool, kit: str | None, engine: str, listed: str | None) -> None:
    from wbdc.core.errors import UsageFault, suggest_name
    from wbdc.prepare.describe.finding_codes import FINDING_CODES

    if check_only and (kit or engine != "threads"):
        raise UsageFault(
            "--check-only writes nothing, so it does not accept --kit or --engine; omit them"
        )
    if listed and listed not in FINDING_CODES:
        suggestion = suggest_name(listed, sorted(FINDING_CODES))
        raise UsageFault(f"--list: no finding has the code {listed!r}{suggestion}")


def _check(
    data: Path,
    contest: "Competition",
    corrections: Path | None,
    progress: console.ProgressCallback,
) -> PrepareResult:
    """Check the annotations and the names of the archives only."""
    from wbdc.prepare.build import MAX_LISTED_PLACES
    from wbdc.prepare.check import check_data
    from wbdc.prepare.corrections import NO_CORRECTIONS, read_corrections

    new_labels = read_corrections(corrections) if corrections else NO_CORRECTIONS
    checked = check_data(data, contest, new_labels, max_places=MAX_LISTED_PLACES, progress=progress)
    counts = {name: len(split.ids) for name, split in checked.splits.items()}
    facts = {"counts": counts, "holds": checked.frame_format}
    return PrepareResult(facts, checked.findings.report())


def _survey(
    data: Path, contest: "Competition", progress: console.ProgressCallback, settings: dict
) -> PrepareResult:
    """Check everything, frame by frame, and write nothing."""
    from wbdc.prepare.build import survey_data

    facts, findings = survey_data(data, contest, progress=progress, **settings)
    return PrepareResult(facts.to_dict(), findings)


def _open_engine(name: str, threads: int | None) -> "Engine":
    from wbdc.core import plug
    from wbdc.prepare import engines

    settings: dict[str, object] = {"use": name}
    if threads and name in ("local", "ray"):
        settings["workers"] = threads
    return plug.build_plug(engines, settings)


def _prepare(
    data: Path,
    work: Path,
    contest: "Competition",
    engine: "Engine",
    views: ViewOptions | None,
    progress: console.ProgressCallback,
    settings: dict,
) -> PrepareResult:
    """Prepare the data, and compute the inputs of a kit if `views` names one."""
    from wbdc.prepare.build import prepare_data

    prepared, unchanged = prepare_data(
        data, work, contest, engine=engine, progress=progress, **settings
    )
    if views:
        _make_views(views, prepared, engine, settings, progress)
    facts, findings = prepared.facts.to_dict(), prepared.read_findings()
    return PrepareResult(facts, findings, str(prepared.folder), unchanged)


def _make_views(
    options: ViewOptions,
    prepared: "PreparedData",
    engine: "Engine",
    settings: dict,
    progress: console.ProgressCallback,
) -> None:
    """Compute the inputs of a kit; each rank of the engine computes some of them."""
    from wbdc.core.device import find_device, use_threads
    from wbdc.train.views import make_views

    make_views(
        options.kit,
        prepared,
        seed=settings["seed"],
        store=options.store,
        device=find_device(options.device),
        threads=use_threads(1 if engine.ranks > 1 else settings["threads"]),
        log=console.log,
        progress=progress,
        rank=engine.rank,
        ranks=engine.ranks,
    )
    engine.barrier()


def _print(result: PrepareResult, listed: str | None, as_json: bool) -> None:
    if listed:
        _print_places(result.findings, listed)
    elif as_json:
        console.print_json(result.to_dict())
    else:
        print_result(result)


def _refuse_findings(findings: dict[str, dict], strict: bool) -> None:
    """Raise DataFault for an error in the data or, if strict, for any finding."""
    from wbdc.core.errors import DataFault
    from wbdc.prepare.check import refuse_invalid

    if strict and findings:
        count = sum(entry["count"] for entry in findings.values())
        raise DataFault(
            f"the data have {count:,} findings of {len(findings)} kinds, "
            "and --strict accepts none; fix the data or omit --strict"
        )
    refuse_invalid(findings)


def _print_places(findings: dict[str, dict], code: str) -> None:
    """Print the places of a finding, one per line."""
    if code not in findings:
        return
    places = findings[code]["places"]
    for line in places:
        console.print_text(line)
    if unlisted := findings[code]["count"] - len(places):
        console.log(f"{unlisted:,} more places were counted but not stored")


def print_result(result: PrepareResult) -> None:
    """Print the videos, statistics, distribution shift and findings as tables."""
    facts = result.facts
    frame_counts = facts.get("frames", {})
    rows = [(split, count, frame_counts.get(split, "")) for split, count in facts["counts"].items()]
    console.print_table("Videos", ("split", "videos", "frames"), rows)
    if "statistics" in facts:
        console.print_table(
            "Statistics: mean (95th percentile)",
            ("", *facts["statistics"]),
            list(_statistics_rows(facts)),
        )
        _print_shifts(facts["shift"])
    if result.findings:
        _print_findings(result.findings)

    groups = facts.get("groups")
    if result.folder is None:
        console.print_text("Check complete; nothing was written.")
        return
    together = f"near-duplicates and groups of {groups}" if groups else "near-duplicates"
    console.print_text(
        f"{len(facts['classes'])} classes in the labeled split, "
        f"{len(facts['known_classes'])} known; {facts['folds']} folds, stratified by class and "
        f"modality, {together} in one fold (seed {facts['seed']})."
    )
    state = "The data are unchanged; ready" if result.unchanged else "Ready"
    console.print_text(f"{state}: {result.folder}")


def _print_shifts(shifts: list[dict]) -> None:
    rows = [
        (shift["statistic"], shift["train_mean"], shift["test_mean"], shift["distance"])
        for shift in shifts
        if shift["notable"]
    ]
    if rows:
        console.print_table(
            "Distribution shift between the labeled and the test split",
            ("statistic", "labeled mean", "test mean", "distance"),
            rows,
        )


def _print_findings(findings: dict[str, dict]) -> None:
    from wbdc.prepare.describe.finding_codes import FINDING_CODES

    order = sorted(
        findings, key=lambda code: (SEVERITIES.index(FINDING_CODES[code].severity), code)
    )
    rows = [
        (
            f"{code} ({FINDING_CODES[code].severity})",
            findings[code]["count"],
            FINDING_CODES[code].what,
            findings[code]["places"][0],
            FINDING_CODES[code].consequence,
            FINDING_CODES[code].fix,
        )
        for code in order
    ]
    console.print_table(
        "Findings (`--list CODE` prints all places of a finding)",
        ("finding", "count", "problem", "first place", "consequence", "fix"),
        rows,
    )


def _statistics_rows(facts: dict) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of statistics: a name, then the value for each split."""
    reports = facts["statistics"]
    for name in max(reports.values(), key=len):
        cells = []
        for split, report in reports.items():
            total = facts["frames"][split] if name == "frame sizes" else report["videos"]
            cells.append(_format_statistic(name, report.get(name, ""), total))
        yield name, *cells


def _format_statistic(name: str, value: object, total: int) -> str:
    """Format a number, a distribution, shares, or counts of a `total`."""
    if name == "present":
        return ", ".join(f"{modality} {share:.0%}" for modality, share in value.items())
    if isinstance(value, dict) and "mean" in value:
        return f"{value['mean']:,g} ({value['p95']:,g})"
    if isinstance(value, dict):
        return _format_counts(value, total)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _format_counts(counts: dict[str, int], total: int) -> str:
    """Format the highest counts, and the rest of `total`."""
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_SHOWN_COUNTS]
    parts = [f"{name.replace(' x ', '×')}: {count:,}" for name, count in order]
    rest = total - sum(count for _, count in order)
    return ", ".join([*parts, f"others: {rest:,}"] if rest else parts)
