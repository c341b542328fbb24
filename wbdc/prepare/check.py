"""Check the annotations of all splits against each other, the class list and the archives."""

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

from wbdc.competitions import CLIP_SUFFIXES, NO_FRAMES, Competition, modality_content
from wbdc.core.errors import DataFault, UsageFault
from wbdc.core.files import json_digest
from wbdc.core.findings import MAX_EXAMPLES, Findings
from wbdc.core.modality_limit import MAX_STEPS
from wbdc.core.out_of_memory import raise_if_exhausted
from wbdc.core.progress import ProgressCallback, no_progress
from wbdc.core.token_hashes import HASH_BYTES
from wbdc.data.archive import member_checksums
from wbdc.data.damaged_files import DAMAGED_FILE_ERRORS
from wbdc.data.sound_files import MAX_SOUND_SAMPLES
from wbdc.prepare.corrections import NO_CORRECTIONS, Corrections, check_corrections
from wbdc.prepare.describe.finding_codes import FINDING_CODES

# JPEG frames of a clip take at most this many times its bytes (one minute of 720p at 2 Mbit/s)
MAX_CLIP_EXPANSION = 4
# by what a file of a further modality holds: the same, and the most bytes that are stored of it;
# samples of sound have 16 bits (24 kbit/s in the file), and a token of one byte has four numbers
MODALITY_EXPANSIONS = {
    "features": (1, math.inf),
    "sound": (12, 2 * MAX_SOUND_SAMPLES),
    "tokens": (2 * HASH_BYTES, 2 * HASH_BYTES * MAX_STEPS),
}
MAX_ERROR_EXAMPLES = 3  # places that an error message names


class CheckedSplit(NamedTuple):
    """The ids of a split in the order of its annotations, and their classes (None: no class)."""

    ids: list[str]
    labels: list[str | None]


class CheckedData(NamedTuple):
    """The annotations of a data folder.

    splits: by name; classes: every id that a prediction may name; frame_format: "jpeg" or
    "features"; findings: all problems; fingerprint: hash of the data; frame_bytes: upper bound for
    the stored frames; archive_stamp: hash of the times at which the archives were written. Equal
    stamps mean equal archives.
    """

    splits: dict[str, CheckedSplit]
    classes: list[str]
    frame_format: str
    findings: Findings
    fingerprint: str
    frame_bytes: int
    archive_stamp: str


def check_data(
    root: Path,
    competition: Competition,
    corrections: Corrections = NO_CORRECTIONS,
    *,
    max_places: int = MAX_EXAMPLES,
    progress: ProgressCallback = no_progress,
) -> CheckedData:
    """Read the annotations of a data folder and compare them with each other and with its archives.

    corrections: labels that replace those of the data. All problems are counted; `max_places`
    places of each kind are listed. Raises DataFault for a folder or a file that cannot be read, and
    for corrections of unknown videos or classes.
    """
    if not root.is_dir():
        raise DataFault(f"{root} is not a folder; pass the folder of the raw data")

    findings = Findings(max_places)
    frame_format = competition.frame_format(root)
    classes = competition.classes(root)
    splits = _read_splits(root, competition, findings, progress)
    splits = _correct_labels(splits, competition.labeled_split, corrections, classes)
    _check_labels(splits, competition, classes, findings)
    _check_ids(splits, findings)

    annotations = [competition.annotations_hash(root, name) for name in splits]
    archives = _ArchiveCheck(root, competition, findings, json_digest(annotations, classes))
    try:
        frame_bytes = sum(
            archives.check_split(name, split.ids, frame_format) for name, split in splits.items()
        )
    except OSError as error:
        raise DataFault(f"{error.filename} cannot be read: {error.strerror}") from error

    return CheckedData(
        splits,
        classes,
        frame_format,
        findings,
        archives.content.hexdigest()[:12],
        frame_bytes,
        archives.times.hexdigest()[:12],
    )


def refuse_invalid(findings: dict[str, dict]) -> None:
    """Raise DataFault if a report of findings has one of severity "error"."""
    errors = [code for code in findings if FINDING_CODES[code].severity == "error"]
    if not errors:
        return

    code = errors[0]
    count, places = findings[code]["count"], findings[code]["places"]
    parts = [
        f"{FINDING_CODES[code].what}: {count:,}, first {', '.join(places[:MAX_ERROR_EXAMPLES])}",
        FINDING_CODES[code].fix,
    ]
    if count > MAX_ERROR_EXAMPLES:
        parts.append(f"list all with `wbdc prepare --check-only --list {code}`")
    if errors[1:]:
        parts.append(f"other kinds of errors: {', '.join(errors[1:])}")
    raise DataFault("; ".join(parts))


def _read_splits(
    root: Path, competition: Competition, findings: Findings, progress: ProgressCallback
) -> dict[str, CheckedSplit]:
    names = competition.splits(root)
    labeled = competition.labeled_split
    if labeled not in names:
        raise DataFault(
            f"{root} has no split {labeled!r}, which training needs; "
            f"its splits are: {', '.join(names)}"
        )

    splits = {name: _read_split(root, name, competition, findings, progress) for name in names}
    if not splits[labeled].ids:
        raise DataFault(f"the split {labeled!r} holds no videos, so there is nothing to train on")
    return splits


def _read_split(
    root: Path,
    name: str,
    competition: Competition,
    findings: Findings,
    progress: ProgressCallback,
) -> CheckedSplit:
    def report(done: int, total: int) -> None:
        progress(f"annotations of {name}", done, total)

    split = CheckedSplit([], [])
    for video in competition.videos(root, name, findings, report):
        if video.modalities.keys() != competition.modalities.keys():
            raise UsageFault(
                f"{competition.file}: videos() yields no source of the modalities "
                f"{', '.join(competition.modalities)}; pass modalities=self.modality_sources(root, "
                "split, id) to Video"
            )
        split.ids.append(video.id)
        split.labels.append(video.label)

    if not split.ids:
        findings.add("split.empty", name)
    return split


def _correct_labels(
    splits: dict[str, CheckedSplit], labeled: str, corrections: Corrections, classes: list[str]
) -> dict[str, CheckedSplit]:
    """Return the splits with new labels in the labeled one. Raises DataFault."""
    ids, labels = splits[labeled]
    check_corrections(corrections, ids, classes)
    new_labels = [
        corrections.label_of.get(name, label) for name, label in zip(ids, labels, strict=True)
    ]
    return {**splits, labeled: CheckedSplit(ids, new_labels)}


def _check_labels(
    splits: dict[str, CheckedSplit],
    competition: Competition,
    classes: list[str],
    findings: Findings,
) -> None:
    known_classes = set(classes)
    for name, split in splits.items():
        for video_id, label in zip(split.ids, split.labels, strict=True):
            if name != competition.labeled_split:
                if label is not None:
                    findings.add("label.unexpected", f"{name}: {video_id}")  # never read further
            elif label is None:
                findings.add("label.missing", video_id)
            elif label not in known_classes:
                findings.add("label.unknown", f"{video_id} → {label!r}")


def _check_ids(splits: dict[str, CheckedSplit], findings: Findings) -> None:
    """Count ids that occur in two splits."""
    first_split: dict[str, str] = {}
    for name, split in splits.items():
        for video_id in split.ids:
            if first_split.setdefault(video_id, name) != name:
                findings.add("id.twice.splits", f"{video_id} ({first_split[video_id]} and {name})")


class _ArchiveCheck:
    """Compares archives with the ids of each split, and hashes them.

    content: hash of the names and sizes of all archives; times: of their modification times.
    """

    def __init__(self, root: Path, competition: Competition, findings: Findings, annotations: str):
        self.root = root
        self.competition = competition
        self.findings = findings
        self.content = hashlib.sha256(annotations.encode())
        self.times = hashlib.sha256()

    def check_split(self, split: str, ids: list[str], frame_format: str) -> int:
        """Check the archives of a split; return an upper bound for the bytes of its frames."""
        for digest in (self.content, self.times):
            digest.update(f"{split}\n".encode())
        size = self._check_modalities(split, ids)
        if frame_format == "features":
            return size + self._check_shared_archive(split, ids)
        return size + self._check_files(split, ids)

    def _check_modalities(self, split: str, ids: list[str]) -> int:
        """Hash the files of further modalities, and count the videos without one; return an upper
        bound for the bytes of what is stored.
        """
        size = 0
        for video_id in ids if self.competition.modalities else ():
            sources = self.competition.modality_sources(self.root, split, video_id)
            for modality, source in sources.items():
                if source == NO_FRAMES or not source.path.is_file():
                    self.findings.add("modality.missing", f"{split}: {modality} of {video_id}")
                    continue
                status = source.path.stat()
                self._add_content(f"{modality}\0{video_id}\0{status.st_size}")
                self._add_time(status.st_mtime_ns)
                content = modality_content(self.competition.modalities[modality])
                expansion, max_bytes = MODALITY_EXPANSIONS[content]
                size += min(max_bytes, status.st_size * expansion)
        return size

    def _check_files(self, split: str, ids: list[str]) -> int:
        """Compare the archives on disk, one for each video, with the ids of a split."""
        size = 0
        missing = set(ids)
        for file in self.competition.frame_files(self.root, split):
            self._add_content(f"{file.path}\0{file.size}")
            self._add_time(file.modified_ns)
            is_clip = file.path.lower().endswith(CLIP_SUFFIXES)
            size += file.size * (MAX_CLIP_EXPANSION if is_clip else 1)
            if file.id in missing:
                missing.discard(file.id)
            else:
                self.findings.add("archive.extra", f"{split}: {file.path}")

        for video_id in sorted(missing):
            if self.competition.source(self.root, split, video_id) != NO_FRAMES:
                self.findings.add("archive.missing", f"{split}: {video_id}")
        return size

    def _check_shared_archive(self, split: str, ids: list[str]) -> int:
        """Compare the members of the archive that all videos of a split share with its ids.

        Members are hashed by checksum, since features of another tower have equal sizes. Missing
        members are counted later, when the shards are read.
        """
        path = self.competition.source(self.root, split, "").path
        if not path.is_file():
            return 0

        members = {self.competition.source(self.root, split, video_id).member for video_id in ids}
        for member, checksum in _member_checksums(path):
            self._add_content(f"{path.name}\0{member}\0{checksum}")
            if member not in members:
                self.findings.add("archive.extra", f"{path.name}: {member}")

        status = path.stat()
        self._add_time(status.st_mtime_ns)
        return status.st_size

    def _add_content(self, line: str) -> None:
        self.content.update(f"{line}\n".encode(errors="surrogateescape"))

    def _add_time(self, nanoseconds: int) -> None:
        self.times.update(f"{nanoseconds}\n".encode())


def _member_checksums(path: Path) -> list[tuple[str, int]]:
    """List the members of an archive with their checksums. Raises DataFault."""
    try:
        return member_checksums(path)
    except DAMAGED_FILE_ERRORS as error:
        raise_if_exhausted(error)
        raise DataFault(
            f"{path} is not a readable archive: {error}; copy or download it again"
        ) from error
