"""Build a prepared dataset: read every archive once, keep its frames, deal the folds, seal the folder."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl

from wbdc.competitions import Competition, Video
from wbdc.core.errors import DataInvalid
from wbdc.core.files import check_seal, digest, hold, publish, seal, sealed
from wbdc.core.findings import Findings
from wbdc.core.look import Look
from wbdc.data.archive import MOST_FRAMES, features, pictures
from wbdc.data.frames import decode
from wbdc.data.store import join_pictures, shard_facts, shard_path, shards, write_shard
from wbdc.prepare.check import Checked, check
from wbdc.prepare.dataset import Prepared, make_current
from wbdc.prepare.folds import rare, stratified

PROOF = Look(64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # the size does not matter: it proves that a frame decodes
VERSION = 1  # of the stored form; a change makes other hashes

Progress = Callable[[str, int, int], None]  # what, done, of


def prepare(
    data: Path, work: Path, competition: Competition, name: str, *, folds: int = 5, seed: int = 0, threads: int = 2, progress: Progress = lambda what, done, of: None
) -> tuple[Prepared, bool]:
    """Check and store a data folder below work/prepared/<hash>; return it, and whether it was there already.

    Killed at any moment and started again, it goes on with the next shard. Raises DataInvalid, FolderInUse, OutOfResources.
    """
    checked = check(data, competition)
    folder = work / "prepared" / digest(VERSION, name, checked.print, folds, seed)
    if sealed(folder) is not None:
        facts = check_seal(folder)
        make_current(folder)
        return Prepared(folder, facts), True
    widths: dict[str, str] = {}
    with hold(folder):
        frames = {split: _store(folder / "frames", split, videos, checked, widths, threads, progress) for split, videos in checked.splits.items()}
        labelled = checked.splits[competition.labelled]
        labels = [v.label for v in labelled]
        _tables(folder, checked, frames, competition, stratified(labels, folds, seed))
        facts = {
            "data": str(data.resolve()),
            "competition": name,
            "holds": checked.holds,
            "labelled": competition.labelled,
            "unlabelled": competition.unlabelled,
            "test": competition.test,
            "fields": list(competition.fields),
            "classes": sorted(set(labels)),
            "known_classes": checked.classes,
            "counts": {split: len(videos) for split, videos in checked.splits.items()},
            "frames": {split: sum(counts) for split, counts in frames.items()},
            "folds": folds,
            "seed": seed,
            "rare": rare(labels, folds),
            "findings": checked.found.report(),
        }
        seal(folder, facts, [folder / "videos.parquet", folder / "folds.parquet"])
    make_current(folder)
    return Prepared(folder, sealed(folder)), False


def _store(folder: Path, split: str, videos: list[Video], checked: Checked, widths: dict[str, str], threads: int, progress: Progress) -> list[int]:
    """Store the frames of a split shard by shard; return the frames per video that can be used.

    widths: numbers per frame of ready features, each with a video that has so many; all splits add to it. Raises DataInvalid for a second one.
    """
    counts: list[int] = []
    with ThreadPoolExecutor(threads) as pool:
        for rows in shards(len(videos)):
            path = shard_path(folder, split, rows.start)
            if not path.is_file():
                _shard(path, [videos[i] for i in rows], checked.holds, pool)
            facts = shard_facts(path)
            counts += facts["counts"]
            _same(widths | facts["widths"])
            widths |= facts["widths"]
            checked.found.merge(facts["findings"])
            progress(f"frames of {split}", rows.stop, len(videos))
    return counts


def _shard(path: Path, videos: list[Video], holds: str, pool: ThreadPoolExecutor) -> None:
    found = Findings()
    read, counts, reports = zip(*pool.map(_features if holds == "features" else _proved, videos))
    for report in reports:  # in the order of videos, whatever the threads did
        found.merge(report)
    widths = {str(rows.shape[1]): video.id for video, rows in zip(videos, read) if holds == "features" and len(rows)}
    _same(widths)
    joined = [{"features": rows} for rows in read] if holds == "features" else [join_pictures(encoded) for encoded in read]
    columns = {column: [j[column] for j in joined] for column in joined[0]}
    write_shard(path, columns, {"counts": list(counts), "findings": found.report(), "widths": widths})


def _same(widths: dict[str, str]) -> None:
    if len(widths) > 1:
        raise DataInvalid(f"features must be equally wide: {', '.join(f'those of {name} have {width} numbers' for width, name in widths.items())}")


def _features(video: Video) -> tuple[np.ndarray, int, dict]:
    found = Findings()
    rows = features(video.source, MOST_FRAMES, found)
    return rows, len(rows), found.report()


def _proved(video: Video) -> tuple[list[bytes], int, dict]:
    """Read the frames of a video and decode each once: damaged ones become b"", so that positions stay."""
    if not video.source.path.is_file():
        return [], 0, {}  # counted by the check already
    found = Findings()
    encoded = pictures(video.source, MOST_FRAMES, found)
    kept = [data if decode(data, PROOF, found, f"{video.id}#{i}") is not None else b"" for i, data in enumerate(encoded)]
    return kept, sum(map(bool, kept)), found.report()


def _tables(folder: Path, checked: Checked, frames: dict[str, list[int]], competition: Competition, folds: np.ndarray) -> None:
    rows = [
        {"id": v.id, "split": split, **v.fields, "label": v.label if split == competition.labelled else None, "frames": count}
        for split, videos in checked.splits.items()
        for v, count in zip(videos, frames[split])
    ]
    schema = {"id": pl.String, "split": pl.String, **dict.fromkeys(competition.fields, pl.String), "label": pl.String, "frames": pl.Int32}
    ids = [v.id for v in checked.splits[competition.labelled]]
    for name, table in (("videos", pl.DataFrame(rows, schema)), ("folds", pl.DataFrame({"id": ids, "fold": folds}))):
        publish(folder / f"{name}.parquet", table.write_parquet)
