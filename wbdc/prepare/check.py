"""Check the annotations of every split against each other, the class list and the archives on disk."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from wbdc.competitions import CLIP_SUFFIXES, Competition
from wbdc.core.errors import DataInvalid
from wbdc.core.files import json_digest
from wbdc.core.findings import MAX_EXAMPLES, Findings
from wbdc.core.out_of_memory import raise_if_exhausted
from wbdc.data.archive import member_checksums
from wbdc.data.frame_sampling import DAMAGED_FILE_ERRORS
from wbdc.prepare.describe.finding_codes import FINDING_CODES

Progress = Callable[[str, int, int], None]  # what, done, of
MAX_CLIP_STORE_RATIO = (
    4  # times: frames of a clip as single pictures, at most (a minute of 720p at 2 Mbit/s)
)


class CheckedSplit(NamedTuple):
    """The videos of a split in the order of its annotations, and their classes (None where there is
    none).
    """

    ids: list[str]
    labels: list[str | None]


class CheckedData(NamedTuple):
    """splits by name; classes: every id an answer may name; holds: "jpeg" or "features"; found: all
    that was wrong; print: hash of the data;
    size: bytes that the frames take once stored, at most; stamp: hash of when the archives were
    last written: equal stamps, equal archives.
    """

    splits: dict[str, CheckedSplit]
    classes: list[str]
    holds: str
    found: Findings
    print: str
    size: int
    stamp: str


def check_data(
    root: Path,
    competition: Competition,
    *,
    keep: int = MAX_EXAMPLES,
    progress: Progress = lambda what, done, of: None,
) -> CheckedData:
    """Read the annotations of a data folder and compare them with each other and with the archives
    that lie there.

    Every fault is counted, `keep` places of each. Raises DataInvalid for a folder or a file that
    cannot be read at all.
    """
    if not root.is_dir():
        raise DataInvalid(f"{root} is not a folder; give the one that holds the data")
    found, holds, classes = (
        Findings(keep),
        competition.frame_format(root),
        competition.classes(root),
    )
    names = competition.splits(root)
    if competition.labeled_split not in names:
        raise DataInvalid(
            f"{root} has no split {competition.labeled_split!r}, only {', '.join(names)}; there is nothing to learn from"
        )
    splits = {name: _split(root, name, competition, found, progress) for name in names}
    if not splits[competition.labeled_split].ids:
        raise DataInvalid(
            f"the split {competition.labeled_split!r} holds no videos; there is nothing to learn from"
        )
    _labels(splits, competition, classes, found)
    _once(splits, found)
    print, size = (
        hashlib.sha256(
            json_digest([competition.annotations_hash(root, s) for s in splits], classes).encode()
        ),
        0,
    )
    stamp = hashlib.sha256()
    try:
        for name, split in splits.items():
            for hashed in (print, stamp):
                hashed.update(f"{name}\n".encode())
            size += (_members if holds == "features" else _files)(
                root, name, set(split.ids), competition, found, print, stamp
            )
    except OSError as error:
        raise DataInvalid(f"{error.filename} cannot be read: {error.strerror}") from error
    return CheckedData(
        splits, classes, holds, found, print.hexdigest()[:12], size, stamp.hexdigest()[:12]
    )


def refuse_invalid(found: dict[str, dict]) -> None:
    """Raise DataInvalid for what would break later: the findings (a report of them) that the
    catalogue calls errors.
    """
    errors = [code for code in found if FINDING_CODES[code].severity == "error"]
    if errors:
        count, places = found[errors[0]]["count"], found[errors[0]]["places"]
        others = f"; {len(errors) - 1} other kinds of error too" if errors[1:] else ""
        more = (
            f"; list them with `wbdc prepare --check-only --list {errors[0]}`" if count > 3 else ""
        )
        raise DataInvalid(
            f"{FINDING_CODES[errors[0]].what}: {count:,}, first {', '.join(places[:3])}; {FINDING_CODES[errors[0]].fix}{more}{others}"
        )


def _split(
    root: Path, name: str, competition: Competition, found: Findings, progress: Progress
) -> CheckedSplit:
    split = CheckedSplit([], [])
    for video in competition.videos(
        root, name, found, lambda done, of: progress(f"annotations of {name}", done, of)
    ):
        split.ids.append(video.id)
        split.labels.append(video.label)
    if not split.ids:
        found.add("split.empty", name)
    return split


def _labels(
    splits: dict[str, CheckedSplit], competition: Competition, classes: list[str], found: Findings
) -> None:
    known = set(classes)
    for name, split in splits.items():
        for video, label in zip(split.ids, split.labels):
            if name != competition.labeled_split:
                if label is not None:
                    found.add("label.unexpected", f"{name}: {video}")  # never read further
            elif label is None:
                found.add("label.missing", video)
            elif label not in known:
                found.add("label.unknown", f"{video} → {label!r}")


def _once(splits: dict[str, CheckedSplit], found: Findings) -> None:
    where: dict[str, str] = {}
    for name, split in splits.items():
        for video in split.ids:
            if where.setdefault(video, name) != name:
                found.add("id.twice.splits", f"{video} ({where[video]} and {name})")


def _files(
    root: Path,
    name: str,
    wanted: set[str],
    competition: Competition,
    found: Findings,
    print: "hashlib._Hash",
    stamp: "hashlib._Hash",
) -> int:
    """Compare the files on disk with the annotations, add their names and sizes to the hash, and
    return their bytes.
    """
    size = 0
    for stored in competition.frame_files(root, name):
        print.update(f"{stored.path}\0{stored.size}\n".encode(errors="surrogateescape"))
        stamp.update(f"{stored.modified_ns}\n".encode())
        size += stored.size * (
            MAX_CLIP_STORE_RATIO if stored.path.lower().endswith(CLIP_SUFFIXES) else 1
        )
        if stored.id in wanted:
            wanted.discard(stored.id)
        else:
            found.add("archive.extra", f"{name}: {stored.path}")
    for video in sorted(wanted):
        found.add("archive.missing", f"{name}: {video}")
    return size


def _members(
    root: Path,
    name: str,
    ids: set[str],
    competition: Competition,
    found: Findings,
    print: "hashlib._Hash",
    stamp: "hashlib._Hash",
) -> int:
    """Do the same for the members of an archive that the videos of a split share, by checksum:
    other features of equal videos have equal sizes.
    """
    path, wanted = (
        competition.source(root, name, "").path,
        {competition.source(root, name, video).member for video in ids},
    )
    try:
        present = (
            member_checksums(path) if path.is_file() else []
        )  # the shards count what is missing, video by video
    except DAMAGED_FILE_ERRORS as error:
        raise_if_exhausted(error)
        raise DataInvalid(
            f"{path} is no archive that can be read: {error}; copy or download it again"
        ) from error
    for member, state in present:
        print.update(f"{path.name}\0{member}\0{state}\n".encode(errors="surrogateescape"))
        if member not in wanted:
            found.add("archive.extra", f"{path.name}: {member}")
    if not path.is_file():
        return 0
    stamp.update(f"{path.stat().st_mtime_ns}\n".encode())
    return path.stat().st_size
