"""Build a prepared dataset: read every archive once, keep its frames, describe and compare the
videos, deal the folds, seal the folder.
"""

import contextlib
import filecmp
import os
import shlex
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from wbdc.competitions import Competition, Video
from wbdc.core.errors import OutOfResources, UsageFault
from wbdc.core.files import (
    SEAL_FILE,
    file_sha256,
    json_digest,
    lock_folder,
    publish_file,
    read_seal,
    seal_folder,
    update_seal,
)
from wbdc.core.findings import MAX_EXAMPLES, Findings
from wbdc.core.integrity import verify_seal
from wbdc.data.store import FRAMES_FOLDER, ShardFile, shard_path, shard_starts
from wbdc.prepare.check import CheckedData, Progress, check_data, refuse_invalid
from wbdc.prepare.dataset import (
    PREPARED_SHAPE,
    ROWS_PER_TABLE,
    DatasetFacts,
    PreparedData,
    make_current,
    table_path,
)
from wbdc.prepare.describe.survey import Survey
from wbdc.prepare.engines import Engine
from wbdc.prepare.engines.threads import Threads
from wbdc.prepare.folds import assign_folds, check_fold_count, rare_classes
from wbdc.prepare.shards import ShardJob, check_feature_width, make_shard, read_measures

FORMAT_VERSION = 4  # of the stored form; a change makes other hashes
KEPT = 100_000  # places of each finding that `--list` can name
DISK_RESERVE = 2**28  # bytes that stay free beside the frames: tables, tokens

ShardKey = tuple[ShardJob, dict, dict[str, list[np.ndarray]]]  # a job done: its facts and columns


def no_progress(what: str, done: int, of: int) -> None:
    """Tell no progress."""


def prepare_data(
    data: Path,
    work: Path,
    competition: Competition,
    *,
    folds: int = 5,
    seed: int = 0,
    threads: int = 2,
    engine: Engine | None = None,
    progress: Progress = no_progress,
) -> tuple[PreparedData, bool]:
    """Check and store a data folder below work/prepared/<hash>; return it, and whether it was there
    already.

    The folder holds a copy of the file that defines the competition, if any; its content is part of
    the hash.
    Killed at any moment and started again, it goes on with the next shard. Raises DataInvalid,
    FolderInUse, OutOfResources.
    """
    name = competition.name
    source = competition.source_hash
    checked, engine = (
        check_data(data, competition, keep=KEPT, progress=progress),
        engine or Threads(),
    )
    refuse_invalid(checked.found.report())
    check_fold_count(folds, len(checked.splits[competition.labeled_split].ids))
    folder = (
        work
        / "prepared"
        / json_digest(
            FORMAT_VERSION, [name, source] if source else name, checked.print, folds, seed
        )
    )
    before = (
        PreparedData(folder, DatasetFacts.from_json(verify_seal(folder, shape=PREPARED_SHAPE)))
        if (folder / SEAL_FILE).is_file()
        else None
    )
    now = _now(data, checked) | {"command": _command(data, competition, folds, seed)}
    if before and before.facts.archive_stamp == checked.stamp and not before.missing_shards():
        return _again(before, now, engine), True
    for path in before.missing_shards() if before and engine.leads else ():
        path.unlink(missing_ok=True)  # of another size than written; what is missing is made anew
    if (
        before and before.facts.archive_stamp != checked.stamp
    ):  # archives were written since: repaired, or only copied
        folder = folder.with_name(json_digest(folder.name, checked.stamp))
    with lock_folder(folder) if engine.leads else contextlib.nullcontext():
        jobs = list(
            _jobs(
                checked, data, competition, folder / FRAMES_FOLDER, 1 if engine.crowded else threads
            )
        )
        if engine.leads:
            _room(work, checked.size, jobs)
        _store(jobs, engine, progress)
        if engine.leads and before and before.folder != folder and _equal(jobs, before):
            shutil.rmtree(folder / FRAMES_FOLDER)
            return _again(before, now, engine), True
        if engine.leads:
            facts = (
                _describe(
                    data, checked, competition, map(_stored, jobs), folds, seed, progress, folder
                )
                | now
            )
            facts["shards"] = {job.path.name: job.path.stat().st_size for job in jobs}
            copies = _save_competition(competition, source, folder)
            seal_folder(
                folder,
                facts,
                [
                    *sorted((folder / "videos").iterdir()),
                    folder / "folds.parquet",
                    folder / "findings.parquet",
                    *copies,
                ],
            )
            make_current(folder)
    engine.meet()
    return PreparedData(folder, DatasetFacts.from_json(read_seal(folder, PREPARED_SHAPE))), False


def _command(data: Path, competition: Competition, folds: int, seed: int) -> str:
    """Return the command that prepares the same data again; it lacks --work, which may move."""
    contest = os.path.abspath(competition.file) if competition.file else competition.name
    words = ["wbdc", "prepare", "--data", str(data.resolve()), "--competition", contest]
    return shlex.join([*words, "--folds", str(folds), "--seed", str(seed)])


def _save_competition(competition: Competition, source: str, folder: Path) -> list[Path]:
    """Copy the file that defines the competition. Raises UsageFault when it is no longer the one
    that was read.
    """
    copies = competition.save(folder)
    if any(file_sha256(copy) != source for copy in copies):
        raise UsageFault(
            f"{competition.file} was changed while the data were prepared; run `wbdc prepare` again"
        )
    return copies


def _again(before: PreparedData, now: dict, engine: Engine) -> PreparedData:
    """Take what was prepared before, and remember where the data lie now."""
    if engine.leads:
        update_seal(before.folder, now)
        make_current(before.folder)
    engine.meet()
    return PreparedData(before.folder, DatasetFacts.from_json(before.facts.to_json() | now))


def _equal(jobs: list[ShardJob], before: PreparedData) -> bool:
    """Tell whether archives that were written since still hold the same: then nothing that was
    learned from them is out of date.
    """
    return all(
        filecmp.cmp(job.path, before.folder / FRAMES_FOLDER / job.path.name, shallow=False)
        for job in jobs
    )


def survey_data(
    data: Path,
    competition: Competition,
    *,
    folds: int = 5,
    seed: int = 0,
    threads: int = 2,
    progress: Progress = no_progress,
) -> tuple[dict, dict]:
    """Check a data folder as `prepare` does, frame by frame, and write nothing: the facts, and
    {finding: {"count", "places"}}.
    """
    checked = check_data(data, competition, keep=KEPT, progress=progress)
    check_fold_count(folds, len(checked.splits[competition.labeled_split].ids))
    jobs = _jobs(checked, data, competition, Path(), threads)
    done = ((job, facts, columns) for job in jobs for columns, facts in [read_measures(job)])
    return _describe(data, checked, competition, done, folds, seed, progress) | _now(
        data, checked
    ), checked.found.report()


def _now(data: Path, checked: CheckedData) -> dict:
    """Say where the data lie, and when they were last written."""
    return {"data": str(data.resolve()), "stamp": checked.stamp}


def _jobs(
    checked: CheckedData, data: Path, competition: Competition, folder: Path, threads: int
) -> Iterator[ShardJob]:
    name = str(competition.file or competition.name)
    for split, videos in checked.splits.items():
        for rows in shard_starts(len(videos.ids)):
            ids = tuple(videos.ids[rows.start : rows.stop])
            yield ShardJob(
                shard_path(folder, split, rows.start),
                data.resolve(),
                name,
                split,
                rows.start,
                ids,
                checked.holds,
                threads,
            )


def _room(work: Path, size: int, jobs: list[ShardJob]) -> None:
    """Raise OutOfResources before anything is written when the frames that are not stored yet would
    not fit.
    """
    size = max(0, size - sum(job.path.stat().st_size for job in jobs if job.path.is_file()))
    there = next(p for p in (work, *work.resolve().parents) if p.is_dir())
    if (free := shutil.disk_usage(there).free) < size + DISK_RESERVE:
        raise OutOfResources(
            f"the frames take {size:,} bytes and {there} has {free:,} free; make room, or choose another disk with --work"
        )


def _store(jobs: list[ShardJob], engine: Engine, progress: Progress) -> None:
    """Make the shards that are missing."""
    missing = [job for job in jobs if not job.path.is_file()]
    done, of = (
        sum(len(job.ids) for job in jobs) - sum(len(job.ids) for job in missing),
        sum(len(job.ids) for job in jobs),
    )
    for job in engine.each(make_shard, missing):
        done += len(job.ids)
        progress("frames", done, of)


def _stored(job: ShardJob) -> ShardKey:
    shard = ShardFile(job.path)
    names = () if job.holds == "features" else ("measures", "hashes")
    return job, shard.facts, {name: shard.rows(name) for name in names}


def _describe(
    data: Path,
    checked: CheckedData,
    competition: Competition,
    done: Iterator[ShardKey],
    folds: int,
    seed: int,
    progress: Progress,
    folder: Path | None = None,
) -> dict:
    """Take in all shards and texts, count what is wrong or alike, deal the folds, and return the
    facts; write tables when given a folder.
    """
    found, seen, labelled = (
        checked.found,
        Survey(checked.splits, competition.fields),
        competition.labeled_split,
    )
    test = competition.find_test_split(checked.splits)
    _frames(seen, found, done, progress)
    for split in checked.splits:
        _texts(data, split, competition, seen, progress, folder)
    group, rows = seen.groups(labelled, test, found, progress), seen.rows[labelled]
    labels = checked.splits[labelled].labels
    group, presence = group[rows.start : rows.stop], seen.presence[rows.start : rows.stop]
    shifted = seen.shifted(labelled, test, found)
    for label in rare_classes(labels, folds):
        found.add("label.rare", label)
    if folder:
        dealt = pl.DataFrame(
            {
                "id": checked.splits[labelled].ids,
                "fold": assign_folds(labels, presence, group, folds, seed),
                "group": group,
            }
        )
        publish_file(folder / "folds.parquet", dealt.write_parquet)
        places = [
            (code, place) for code, entry in found.report().items() for place in entry["places"]
        ]
        publish_file(
            folder / "findings.parquet",
            pl.DataFrame(
                places, {"code": pl.String, "place": pl.String}, orient="row"
            ).write_parquet,
        )
    return {
        "competition": competition.name,
        "holds": checked.holds,
        "labelled": labelled,
        "unlabelled": competition.unlabeled_split,
        "test": test,
        "fields": list(competition.fields),
        "classes": sorted({label for label in labels if label is not None}),
        "known_classes": checked.classes,
        "counts": {split: len(videos.ids) for split, videos in checked.splits.items()},
        "frames": {
            split: int(seen.frames[rows.start : rows.stop].sum())
            for split, rows in seen.rows.items()
        },
        "folds": folds,
        "seed": seed,
        "findings": found.report(MAX_EXAMPLES),
        "statistics": seen.statistics(),
        "shift": shifted,
    }


def _frames(seen: Survey, found: Findings, done: Iterator[ShardKey], progress: Progress) -> None:
    widths: dict[str, str] = {}
    for job, facts, columns in done:
        widths |= facts["widths"]
        check_feature_width(widths)
        found.merge(facts["findings"])
        seen.see(
            job.split,
            job.start,
            facts["counts"],
            columns.get("measures", []),
            columns.get("hashes", []),
        )
        progress(f"frames of {job.split}", job.start + len(job.ids), len(seen.rows[job.split]))


def _texts(
    data: Path,
    split: str,
    competition: Competition,
    seen: Survey,
    progress: Progress,
    folder: Path | None,
) -> None:
    """Take in the texts of a split, and write its tables part by part."""
    videos, rows = competition.videos(data, split, Findings()), seen.rows[split]
    for start in range(0, max(1, len(rows)), ROWS_PER_TABLE):
        part = list(islice(videos, ROWS_PER_TABLE))
        for at, video in enumerate(part, start):
            seen.read(
                split, at, video if split == competition.labeled_split else video._replace(label=None)
            )
        if folder:
            _table(
                table_path(folder, split, start),
                split == competition.labeled_split,
                part,
                competition.fields,
                seen.frames[rows.start + start :],
            )
        progress(f"texts of {split}", start + len(part), len(rows))


def _table(
    path: Path, labelled: bool, videos: list[Video], fields: tuple[str, ...], frames: np.ndarray
) -> None:
    schema = {
        "id": pl.String,
        **dict.fromkeys(fields, pl.String),
        "label": pl.String,
        "frames": pl.Int32,
    }
    rows = [
        (v.id, *(v.fields[f] for f in fields), v.label if labelled else None, count)
        for v, count in zip(videos, frames.tolist())
    ]
    publish_file(path, pl.DataFrame(rows, schema, orient="row").write_parquet)
