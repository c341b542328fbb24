"""wbdc prepare: check a data folder and store what training reads."""

from pathlib import Path

import click

from wbdc.cli import console


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder that holds annotations/ and zip_frames/ or zip_feats/.")
@click.option("--competition", default="wechat2022", show_default=True, help="Whose layout, classes and score.")
@click.option("--folds", type=click.IntRange(2), default=5, show_default=True, help="Folds, stratified by class.")
@click.option("--strict", is_flag=True, help="Exit 3 when anything was wrong, also what can be survived.")
@console.seed
@console.threads
@console.dry_run
@console.work
@console.as_json
def prepare(data: Path, competition: str, folds: int, strict: bool, seed: int, threads: int | None, dry_run: bool, work: Path, as_json: bool) -> None:
    """Check a data folder, keep its frames, deal the folds.

    Killed at any moment and started again, it goes on. A second run with nothing changed says so.

    \b
    Example:
      wbdc prepare --data data/wechat2022
    """
    import os

    from wbdc import competitions
    from wbdc.core import plug
    from wbdc.core.errors import DataInvalid
    from wbdc.prepare.build import prepare as build
    from wbdc.prepare.check import check

    contest = plug.build(competitions, {"use": competition})
    if dry_run:
        checked = check(data, contest)
        counts = {split: len(videos) for split, videos in checked.splits.items()}
        facts, folder, had = {"counts": counts, "findings": checked.found.report(), "holds": checked.holds}, None, False
    else:
        with console.progress(as_json) as progress:
            made, had = build(data, work, contest, competition, folds=folds, seed=seed, threads=threads or len(os.sched_getaffinity(0)), progress=progress)
        facts, folder = made.facts, str(made.folder)
    if as_json:
        console.show({"folder": folder, "unchanged": had, **facts})
    else:
        _print(facts, folder, had)
    if strict and facts["findings"]:
        raise DataInvalid(f"{sum(f['count'] for f in facts['findings'].values())} findings, and --strict allows none")


def _print(facts: dict, folder: str | None, had: bool) -> None:
    rows = [(split, count, facts["frames"][split] if "frames" in facts else "") for split, count in facts["counts"].items()]
    console.table("Videos", ("split", "videos", "frames"), rows)
    if facts["findings"]:
        found = [(code, entry["count"], ", ".join(entry["places"][:2])) for code, entry in facts["findings"].items()]
        console.table("Survived, and counted", ("finding", "count", "for example"), found)
    if folder is None:
        return console.tell("Checked only; nothing was written.")
    rare, classes = facts["rare"], f"{len(facts['classes'])} classes in the labelled split, {len(facts['known_classes'])} known"
    console.tell(f"{classes}; {facts['folds']} folds, stratified by class (seed {facts['seed']}).")
    if rare:
        console.tell(f"{len(rare)} classes have fewer rows than folds, so some folds cannot judge them: {', '.join(rare[:12])}{' …' if len(rare) > 12 else ''}")
    console.tell(f"Nothing has changed; {folder} is ready." if had else f"Ready: {folder}")
