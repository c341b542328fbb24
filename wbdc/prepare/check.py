"""Check the annotations of every split against each other, the class list and the archives on disk."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wbdc.competitions import Competition, Video
from wbdc.core.errors import DataInvalid
from wbdc.core.files import digest, sha256
from wbdc.core.findings import Findings
from wbdc.data.archive import BROKEN, checksums


class Checked(NamedTuple):
    """splits: videos by split; classes: every id an answer may name; holds: "jpeg" or "features"; found: what was survived; print: hash of the data."""

    splits: dict[str, list[Video]]
    classes: list[str]
    holds: str
    found: Findings
    print: str


def check(root: Path, competition: Competition) -> Checked:
    """Read and check a data folder. Raises DataInvalid for what would break later; counts what can be survived."""
    if not root.is_dir():
        raise DataInvalid(f"{root} is not a folder; give the one that holds annotations/")
    found, holds, classes = Findings(), competition.frames(root), competition.classes(root)
    splits = {split: competition.videos(root, split, found) for split in competition.splits(root)}
    if competition.labelled not in splits:
        raise DataInvalid(f"{root / 'annotations'} has no {competition.labelled}.json; there is nothing to learn from")
    _labels(splits, competition, classes, found)
    _once(splits)
    present = {split: _archives(root, split, videos, holds, found) for split, videos in splits.items()}
    return Checked(splits, classes, holds, found, fingerprint(root, list(splits), classes, present))


def fingerprint(root: Path, splits: list[str], classes: list[str], present: dict[str, list]) -> str:
    """Hash what determines the prepared data: annotations by content, archives by name and size, shared ones by checksums."""
    return digest([sha256(root / "annotations" / f"{s}.json") for s in splits], classes, present)


def _labels(splits: dict[str, list[Video]], competition: Competition, classes: list[str], found: Findings) -> None:
    known, labelled = set(classes), splits[competition.labelled]
    if not labelled:
        raise DataInvalid(f"{competition.labelled}.json holds no items; there is nothing to learn from")
    bare = [v.id for v in labelled if v.label is None]
    if bare:
        raise DataInvalid(f"{len(bare)} items of {competition.labelled}.json have no category_id, first {', '.join(bare[:3])}; label or remove them")
    unknown = [f"{v.id} → {v.label!r}" for v in labelled if v.label not in known]
    if unknown:
        raise DataInvalid(
            f"{len(unknown)} items of {competition.labelled}.json name unknown classes, first {', '.join(unknown[:3])}; "
            f"correct them, or put a taxonomy.csv with your classes beside the data ({len(classes)} are known)"
        )
    for split, videos in splits.items():
        for video in videos:
            if split != competition.labelled and video.label is not None:
                found.add("label.unexpected", f"{split}: {video.id}")  # never read further


def _once(splits: dict[str, list[Video]]) -> None:
    where: dict[str, str] = {}
    twice = []
    for split, videos in splits.items():
        twice += [f"{v.id} ({where[v.id]} and {split})" for v in videos if where.setdefault(v.id, split) != split]
    if twice:
        raise DataInvalid(f"{len(twice)} ids stand in two splits, first {', '.join(twice[:3])}; keep each in one")


def _archives(root: Path, split: str, videos: list[Video], holds: str, found: Findings) -> list:
    """Compare archives with annotations and return [(name, bytes)] of those that exist; of a shared one [(member, checksum)]."""
    if holds == "features":
        return _members(root / "zip_feats" / f"{split}.zip", {v.source.member for v in videos}, found)
    wanted = {str(v.source.path): v.id for v in videos}
    present = sorted((entry.path, entry.stat().st_size) for entry in _walk(root / "zip_frames" / split))
    paths = {path for path, _ in present}
    for path, name in wanted.items():
        if path not in paths:
            found.add("archive.missing", f"{split}: {name}")
    for path in sorted(paths - set(wanted)):
        found.add("archive.extra", f"{split}: {os.path.basename(path)}")
    return [(os.path.relpath(path, root), size) for path, size in present]


def _members(path: Path, wanted: set[str], found: Findings) -> list:
    """List what a shared archive holds. Equal sizes tell nothing: other features of the same videos have them too."""
    try:
        present = checksums(path) if path.is_file() else []  # the store counts what is missing, video by video
    except BROKEN as error:
        raise DataInvalid(f"{path} is no archive that can be read: {error}; copy or download it again") from error
    for name in sorted({name for name, _ in present} - wanted):
        found.add("archive.extra", f"{path.name}: {name}")
    return present


def _walk(folder: Path) -> Iterator[os.DirEntry]:
    if folder.is_dir():
        for bucket in os.scandir(folder):
            if bucket.is_dir():
                yield from (entry for entry in os.scandir(bucket.path) if entry.name.endswith(".zip") and entry.is_file())
