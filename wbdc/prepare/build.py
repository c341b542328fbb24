"""Build a prepared dataset: read every archive once, store its frames, describe the videos, find
near-duplicates, assign folds and seal the folder.
"""

import contextlib
import filecmp
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

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
from wbdc.core.progress import ProgressCallback, no_progress
from wbdc.data.store import FRAMES_FOLDER, ShardFile, shard_path, shard_starts
from wbdc.prepare.check import CheckedData, check_data, refuse_invalid
from wbdc.prepare.corrections import (
    CORRECTIONS_OPTION,
    NO_CORRECTIONS,
    Corrections,
    read_corrections,
)
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
from wbdc.prepare.groups import VideoGroups, count_group_findings, join_groups, read_groups
from wbdc.prepare.shards import ShardJob, check_feature_width, make_shard, read_shard_videos

FORMAT_VERSION = 4  # of the files of a dataset; part of its hash
MAX_LISTED_PLACES = 100_000  # of each finding, for `wbdc prepare --list`
MIN_GROUPED_SHARE = (
    0.1  # of the labeled videos: a column in which fewer share a value has no groups
)
MIN_FREE_BYTES = 2**28  # of disk space beside the frames, for tables and tokens


class ShardContent(NamedTuple):
    """A shard that was read. facts, columns: as `read_shard_videos` returns them."""

    job: ShardJob
    facts: dict
    columns: dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class _Build:
    """The inputs of a dataset. contest_hash: of the competition's file, before it was used."""

    data: Path
    competition: Competition
    contest_hash: str
    checked: CheckedData
    fold_count: int
    seed: int
    groups: VideoGroups | None
    corrections: Corrections
    progress: ProgressCallback

    @property
    def labeled_split(self) -> str:
        return self.competition.labeled_split

    def hash(self) -> str:
        """Hash all that determines the dataset."""
        name = self.competition.name
        contest = [name, self.contest_hash] if self.contest_hash else name
        facts = [FORMAT_VERSION, contest, self.checked.fingerprint, self.fold_count, self.seed]
        facts += [self.groups.digest()] if self.groups else []
        facts += [self.corrections.digest()] if self.corrections.label_of else []
        return json_digest(*facts)

    def command(self) -> str:
        """Return the command that prepares the same data again, without --work, which may move."""
        file = self.competition.file
        contest = os.path.abspath(file) if file else self.competition.name
        words = ["wbdc", "prepare", "--data", str(self.data.resolve()), "--competition", contest]
        words += ["--groups", self.groups.source] if self.groups else []
        if self.corrections.label_of:
            words += [CORRECTIONS_OPTION, self.corrections.source]
        return shlex.join([*words, "--folds", str(self.fold_count), "--seed", str(self.seed)])

    def shard_jobs(self, folder: Path, threads: int) -> Iterator[ShardJob]:
        """List the shards of all splits in order. folder: of the shards."""
        contest = str(self.competition.file or self.competition.name)
        for split, videos in self.checked.splits.items():
            for rows in shard_starts(len(videos.ids)):
                yield ShardJob(
                    path=shard_path(folder, split, rows.start),
                    root=self.data.resolve(),
                    competition=contest,
                    split=split,
                    start=rows.start,
                    ids=tuple(videos.ids[rows.start : rows.stop]),
                    frame_format=self.checked.frame_format,
                    threads=threads,
                )


def prepare_data(
    data: Path,
    work: Path,
    competition: Competition,
    *,
    folds: int = 5,
    seed: int = 0,
    groups: str | None = None,
    corrections: Path | None = None,
    threads: int = 2,
    engine: Engine | None = None,
    progress: ProgressCallback = no_progress,
) -> tuple[PreparedData, bool]:
    """Check a data folder and store it below work/prepared/<hash>.

    groups: a table of ids and groups, or a column of the annotations, as `read_groups` reads it;
    corrections: a table of ids and labels that replace those of the data.
    Returns the dataset, and whether it existed already. The folder also holds a copy of the file
    that defines the competition, if any. A run that is killed and started again continues with the
    next shard. Raises DataFault, FolderInUse, OutOfResources, UsageFault, IntegrityFault.
    """
    engine = engine or Threads()
    contest_hash = competition.source_hash
    new_labels = read_corrections(corrections) if corrections else NO_CORRECTIONS
    checked = check_data(
        data, competition, new_labels, max_places=MAX_LISTED_PLACES, progress=progress
    )
    refuse_invalid(checked.findings.report())
    check_fold_count(folds, len(checked.splits[competition.labeled_split].ids))
    given_groups = read_groups(groups, data, competition, checked.splits) if groups else None
    build = _Build(
        data, competition, contest_hash, checked, folds, seed, given_groups, new_labels, progress
    )

    folder = work / "prepared" / build.hash()
    existing = _open_existing(folder)
    if existing and existing.facts.archive_stamp == checked.archive_stamp:
        missing = existing.missing_shards()
        if not missing:
            return _reuse(existing, build, engine), True
        if engine.is_main:
            for path in missing:
                path.unlink(missing_ok=True)  # a shard of the wrong size is written again
    elif existing:  # the archives were written again later: repaired, or only copied
        folder = folder.with_name(json_digest(folder.name, checked.archive_stamp))

    with lock_folder(folder) if engine.is_main else contextlib.nullcontext():
        jobs = list(build.shard_jobs(folder / FRAMES_FOLDER, 1 if engine.shares_cpus else threads))
        if engine.is_main:
            _check_disk_space(work, checked.frame_bytes, jobs)
        _make_shards(jobs, engine, progress)
        if engine.is_main:
            if existing and existing.folder != folder and _same_shards(jobs, existing):
                shutil.rmtree(folder / FRAMES_FOLDER)
                return _reuse(existing, build, engine), True
            _finish(build, jobs, folder)
    engine.barrier()
    return PreparedData(folder, DatasetFacts.from_dict(read_seal(folder, PREPARED_SHAPE))), False


def survey_data(
    data: Path,
    competition: Competition,
    *,
    folds: int = 5,
    seed: int = 0,
    groups: str | None = None,
    corrections: Path | None = None,
    threads: int = 2,
    progress: ProgressCallback = no_progress,
) -> tuple[DatasetFacts, dict]:
    """Check a data folder as `prepare_data` does, frame by frame, and write nothing.

    Returns the facts of the dataset, and all findings: {code: {"count": int, "places": [str]}}.
    """
    contest_hash = competition.source_hash
    new_labels = read_corrections(corrections) if corrections else NO_CORRECTIONS
    checked = check_data(
        data, competition, new_labels, max_places=MAX_LISTED_PLACES, progress=progress
    )
    check_fold_count(folds, len(checked.splits[competition.labeled_split].ids))
    given_groups = read_groups(groups, data, competition, checked.splits) if groups else None
    build = _Build(
        data, competition, contest_hash, checked, folds, seed, given_groups, new_labels, progress
    )
    shards = map(_read_archives, build.shard_jobs(Path(), threads))
    return _describe(build, shards), checked.findings.report()


def _open_existing(folder: Path) -> PreparedData | None:
    if not (folder / SEAL_FILE).is_file():
        return None
    seal = verify_seal(folder, shape=PREPARED_SHAPE)
    return PreparedData(folder, DatasetFacts.from_dict(seal))


def _reuse(existing: PreparedData, build: _Build, engine: Engine) -> PreparedData:
    """Return an existing dataset, with the place of the raw data updated."""
    facts = replace(
        existing.facts,
        data_folder=str(build.data.resolve()),
        archive_stamp=build.checked.archive_stamp,
        command=build.command(),
    )
    if engine.is_main:
        update_seal(existing.folder, facts.to_dict())
        make_current(existing.folder)
    engine.barrier()
    return PreparedData(existing.folder, facts)


def _same_shards(jobs: list[ShardJob], existing: PreparedData) -> bool:
    """Return whether archives that were written again still hold the same frames, so that the
    existing dataset is valid.
    """
    return not existing.missing_shards() and all(
        filecmp.cmp(job.path, existing.folder / FRAMES_FOLDER / job.path.name, shallow=False)
        for job in jobs
    )


def _check_disk_space(work: Path, frame_bytes: int, jobs: list[ShardJob]) -> None:
    """Raise OutOfResources, before anything is written, if the missing shards do not fit."""
    stored = sum(job.path.stat().st_size for job in jobs if job.path.is_file())
    required = max(0, frame_bytes - stored)
    folder = next(p for p in (work, *work.resolve().parents) if p.is_dir())
    free = shutil.disk_usage(folder).free
    if free < required + MIN_FREE_BYTES:
        raise OutOfResources(
            f"the frames take {required:,} bytes, but the disk of {folder} has {free:,} bytes "
            "free; free some space or choose another disk with --work"
        )


def _make_shards(jobs: list[ShardJob], engine: Engine, progress: ProgressCallback) -> None:
    """Write the shards that do not exist."""
    missing = [job for job in jobs if not job.path.is_file()]
    total = sum(len(job.ids) for job in jobs)
    done = total - sum(len(job.ids) for job in missing)
    for job in engine.run_jobs(make_shard, missing):
        done += len(job.ids)
        progress("frames", done, total)


def _finish(build: _Build, jobs: list[ShardJob], folder: Path) -> None:
    """Write the tables, seal the folder and make it the current dataset."""
    facts = replace(
        _describe(build, map(_read_shard, jobs), folder),
        command=build.command(),
        shard_bytes={job.path.name: job.path.stat().st_size for job in jobs},
    )
    contest_files = _save_competition(build, folder)
    tables = [
        *sorted((folder / "videos").iterdir()),
        folder / "folds.parquet",
        folder / "findings.parquet",
        *(build.groups.save(folder) if build.groups else []),
        *(build.corrections.save(folder) if build.corrections.label_of else []),
    ]
    seal_folder(folder, facts.to_dict(), [*tables, *contest_files])
    make_current(folder)


def _save_competition(build: _Build, folder: Path) -> list[Path]:
    """Copy the file that defines the competition. Raises UsageFault if it has changed since it was
    read.
    """
    copies = build.competition.save(folder)
    if any(file_sha256(copy) != build.contest_hash for copy in copies):
        raise UsageFault(
            f"{build.competition.file} changed while the data were prepared; "
            "run `wbdc prepare` again"
        )
    return copies


def _read_shard(job: ShardJob) -> ShardContent:
    shard = ShardFile(job.path)
    names = () if job.frame_format == "features" else ("measures", "hashes")
    return ShardContent(job, shard.facts, {name: shard.rows(name) for name in names})


def _read_archives(job: ShardJob) -> ShardContent:
    columns, facts = read_shard_videos(job)
    return ShardContent(job, facts, columns)


def _describe(
    build: _Build, shards: Iterable[ShardContent], folder: Path | None = None
) -> DatasetFacts:
    """Describe the frames and texts of all videos, assign folds, and return the facts.

    folder: where to write the tables; None to write nothing.
    """
    checked = build.checked
    competition = build.competition
    findings = build.checked.findings
    labeled = build.labeled_split
    test = competition.find_test_split(checked.splits)
    labels = checked.splits[labeled].labels

    survey = Survey(checked.splits, competition.fields, tuple(competition.modalities))
    _add_frames(survey, findings, shards, build.progress)
    columns = _group_columns(build)
    for split in checked.splits:
        _add_texts(build, split, survey, folder, store=split == labeled and bool(columns))

    groups = duplicates = survey.group_duplicates(labeled, test, findings, build.progress)
    if build.groups:
        groups = join_groups(duplicates, survey.ids, build.groups.group_of)
        split_ids = {split: videos.ids for split, videos in checked.splits.items()}
        count_group_findings(build.groups, split_ids, labeled, test, build.fold_count, findings)
    for sentence in survey.list_group_leaks(labeled, columns, duplicates):
        if build.groups:
            findings.add("group.leak", sentence)
        else:
            findings.add("group.column", sentence)
    shifts = survey.shifts(labeled, test, findings)
    for label in rare_classes(labels, build.fold_count):
        findings.add("label.rare", label)
    if folder:
        _write_folds(build, survey, groups, folder)
        _write_findings(findings, folder)

    return DatasetFacts(
        competition=competition.name,
        frame_format=checked.frame_format,
        labeled_split=labeled,
        unlabeled_split=competition.unlabeled_split,
        test_split=test,
        text_fields=list(competition.fields),
        classes=sorted({label for label in labels if label is not None}),
        known_classes=checked.classes,
        video_counts={split: len(videos.ids) for split, videos in checked.splits.items()},
        frame_counts={
            split: int(survey.frame_counts[rows.start : rows.stop].sum())
            for split, rows in survey.rows.items()
        },
        fold_count=build.fold_count,
        seed=build.seed,
        groups=build.groups.name if build.groups else None,
        corrected_labels=len(build.corrections.label_of) or None,
        findings=findings.report(MAX_EXAMPLES),
        statistics=survey.statistics(),
        shifts=shifts,
        data_folder=str(build.data.resolve()),
        archive_stamp=checked.archive_stamp,
    )


def _group_columns(build: _Build) -> dict[str, dict[str, str]]:
    """Return the groups to compare, {column: {id: group}}: the given ones, or those of every column
    of the annotations in which at least MIN_GROUPED_SHARE of the videos share a value.
    """
    if build.groups:
        return {build.groups.name: build.groups.group_of}
    columns: dict[str, dict[str, str]] = {}
    for name, cells in build.competition.column_values(build.data, build.labeled_split):
        for column, value in cells.items():
            columns.setdefault(column, {})[name] = value

    total = len(build.checked.splits[build.labeled_split].ids)
    grouped = {}
    for column, group_of in columns.items():
        sizes = Counter(group_of.values())
        shared = sum(size for size in sizes.values() if size > 1)
        if len(sizes) > build.fold_count and shared >= MIN_GROUPED_SHARE * total:
            grouped[column] = group_of
    return grouped


def _add_frames(
    survey: Survey,
    findings: Findings,
    shards: Iterable[ShardContent],
    progress: ProgressCallback,
) -> None:
    widths: dict[str, str] = {}
    modality_widths: dict[str, dict[str, str]] = {}
    for job, facts, columns in shards:
        widths |= facts["widths"]
        check_feature_width(widths)
        for modality, of_modality in facts.get("modalities", {}).items():
            known = modality_widths.setdefault(modality, {})
            known |= of_modality["widths"]
            check_feature_width(known, f"{modality} features")
            survey.add_modality(job.split, job.start, modality, of_modality["counts"])
        findings.merge(facts["findings"])
        measures, hashes = columns.get("measures", []), columns.get("hashes", [])
        survey.add_frames(job.split, job.start, facts["counts"], measures, hashes)
        total = len(survey.rows[job.split])
        progress(f"frames of {job.split}", job.start + len(job.ids), total)


def _add_texts(
    build: _Build, split: str, survey: Survey, folder: Path | None, *, store: bool
) -> None:
    """Add the texts of a split to the survey, and write its tables if there is a folder.

    store: whether the survey stores the texts.
    """
    videos = build.competition.videos(build.data, split, Findings())
    rows, is_labeled = survey.rows[split], split == build.labeled_split
    if is_labeled:
        videos = build.corrections.apply(videos)
    for start in range(0, max(1, len(rows)), ROWS_PER_TABLE):
        part = list(islice(videos, ROWS_PER_TABLE))
        if not is_labeled:
            part = [video._replace(label=None) for video in part]  # never read further
        for position, video in enumerate(part, start):
            survey.add_text(split, position, video, store)
        if folder:
            first = rows.start + start
            counts = {"frames": survey.frame_counts, **survey.modality_counts}
            counts = {name: values[first : first + len(part)] for name, values in counts.items()}
            path = table_path(folder, split, start)
            _write_videos(path, part, build.competition.fields, counts)
        build.progress(f"texts of {split}", start + len(part), len(rows))


def _write_videos(
    path: Path, videos: list[Video], fields: tuple[str, ...], counts: dict[str, np.ndarray]
) -> None:
    """Write a table of videos. counts: columns of numbers, "frames" and further modalities."""
    texts = dict.fromkeys(fields, pl.String)
    schema = {"id": pl.String, **texts, "label": pl.String, **dict.fromkeys(counts, pl.Int32)}
    numbers = zip(*(values.tolist() for values in counts.values()), strict=True)
    rows = [
        (video.id, *(video.fields[field] for field in fields), video.label, *row)
        for video, row in zip(videos, numbers, strict=True)
    ]
    publish_file(path, pl.DataFrame(rows, schema, orient="row").write_parquet)


def _write_folds(build: _Build, survey: Survey, groups: np.ndarray, folder: Path) -> None:
    videos = build.checked.splits[build.labeled_split]
    rows = survey.rows[build.labeled_split]
    group = groups[rows.start : rows.stop]
    modalities = survey.modalities[rows.start : rows.stop]
    folds = assign_folds(videos.labels, modalities, group, build.fold_count, build.seed)
    table = pl.DataFrame({"id": videos.ids, "fold": folds, "group": group})
    if build.groups:
        names = [build.groups.group_of.get(name) for name in videos.ids]
        table = table.with_columns(pl.Series("given_group", names, pl.String))
    publish_file(folder / "folds.parquet", table.write_parquet)


def _write_findings(findings: Findings, folder: Path) -> None:
    rows = [
        (code, location)
        for code, entry in findings.report().items()
        for location in entry["places"]
    ]
    table = pl.DataFrame(rows, {"code": pl.String, "place": pl.String}, orient="row")
    publish_file(folder / "findings.parquet", table.write_parquet)
