"""Archives of frames: zip files of images or features, which may be damaged or hostile."""

import io
import os
import re
import stat
import struct
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from wbdc.competitions import CLIP_SUFFIXES, NO_FRAMES, Source
from wbdc.core.files import open_regular
from wbdc.core.findings import Findings
from wbdc.core.frame_limit import MAX_FRAMES
from wbdc.core.out_of_memory import is_memory_short, raise_if_exhausted
from wbdc.data.clips import read_clip
from wbdc.data.damaged_files import DAMAGED_FILE_ERRORS, MAX_FILE_BYTES
from wbdc.data.frame_sampling import sample_frames
from wbdc.data.npy import parse_npy

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".avif")
MAX_MEMBERS = 10_000
MAX_MEMBER_BYTES = 64 * 2**20  # of one member, uncompressed
MAX_VIDEO_BYTES = 2**27  # of all frames of one video, uncompressed
MAX_DIRECTORY_BYTES = 2**22  # of an archive's list of members: about 400 bytes for each
# compression methods for which zipfile stops at the requested size
BOUNDED_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# compressed bytes to read at once with other methods: 46 bytes of bzip2 can expand to 45 MB
UNBOUNDED_READ_BYTES = 16


def natural_order(name: str) -> tuple:
    """Return a sort key that puts 2.jpg before 10.jpg."""
    return tuple(
        (1, int(part), "") if part.isdecimal() else (0, 0, part)
        for part in re.split(r"(\d+)", name)
    )


def read_images(source: Source, max_frames: int, findings: Findings) -> list[bytes]:
    """Read the encoded frames of one video in time order, from an archive of images, a video
    file or a single image. NO_FRAMES has none.

    Of its first 32 frames at most, `max_frames` are sampled by position. A member that cannot be
    read gives b"", so that positions do not shift. An archive that cannot be read gives []. Every
    fault is counted in `findings`. Nothing is extracted to disk. Raises EnvironmentFault for a
    video file when PyAV is not installed.
    """
    if source == NO_FRAMES:
        return []

    suffix = source.path.suffix.lower()
    if suffix in CLIP_SUFFIXES:
        return read_clip(source.path, max_frames, findings)

    location = f"{source.path.parent.name}/{source.path.name}"
    try:
        is_image = suffix in IMAGE_SUFFIXES
        if source.path.stat().st_size > (MAX_MEMBER_BYTES if is_image else MAX_FILE_BYTES):
            findings.add("archive.huge", location)
            return []

        with open_regular(source.path) as file:
            data = file.read()
        if is_image:
            return [data]
        if _directory_bytes(data) > MAX_DIRECTORY_BYTES:
            findings.add(
                "archive.crowded", f"{location}: a directory of {_directory_bytes(data)} bytes"
            )
            return []

        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = _list_images(archive, location, findings)
            entries = [entries[i] for i in sample_frames(len(entries), MAX_FRAMES)]
            entries = [entries[i] for i in sample_frames(len(entries), max_frames)]
            return _read_members(archive, entries, len(data), location, findings)
    except FileNotFoundError:
        findings.add("archive.missing", location)
    except DAMAGED_FILE_ERRORS as error:
        raise_if_exhausted(error)
        findings.add("archive.broken", f"{location}: {error}")
    return []


def read_features(source: Source, max_frames: int, findings: Findings) -> np.ndarray:
    """Read the features of one video: (n, D) float16, or (0, 0) when they cannot be read.

    Of its first 32 rows at most, `max_frames` are sampled by position. Every fault is counted in
    `findings`.
    """
    location = f"{source.path.name}:{source.member}"
    try:
        status = source.path.stat()
        state = (status.st_ino, status.st_size, status.st_mtime_ns)
        archive = _open_shared_archive(source.path, os.getpid(), state)
        rows = parse_npy(_read_member(archive, archive.getinfo(source.member)))
        if rows.ndim != 2 or rows.dtype.kind != "f":
            raise ValueError(f"shape {rows.shape} of {rows.dtype}, not (frames, D) of floats")
        with np.errstate(over="ignore"):
            rows = rows[sample_frames(len(rows), MAX_FRAMES)].astype(np.float16)
        if not np.isfinite(rows).all():
            raise ValueError("numbers that are not finite in float16")
        return rows[sample_frames(len(rows), max_frames)]
    except (KeyError, FileNotFoundError):
        findings.add("archive.missing", location)
    except DAMAGED_FILE_ERRORS as error:
        raise_if_exhausted(error)
        findings.add("archive.broken", f"{location}: {error}")
    return np.zeros((0, 0), np.float16)


def member_checksums(path: Path) -> list[tuple[str, int]]:
    """List the members of an archive with their CRC-32, as its directory states them.

    Raises one of `DAMAGED_FILE_ERRORS`.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        return sorted(
            (entry.filename, entry.CRC) for entry in archive.infolist() if not entry.is_dir()
        )


@lru_cache(maxsize=4)
def _open_shared_archive(path: Path, process: int, state: tuple[int, ...]) -> zipfile.ZipFile:
    """Open an archive that many videos share.

    It is opened again in each process, since a fork shares the position in an open file (the
    standard library locks it among threads only), and when its `state` has changed.
    """
    open_regular(path).close()
    return zipfile.ZipFile(path)


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Read a member, at most as many bytes as it declares.

    Raises one of `DAMAGED_FILE_ERRORS`.
    """
    if entry.file_size > MAX_MEMBER_BYTES:
        raise ValueError(f"declares {entry.file_size} bytes")
    with archive.open(entry) as member:
        if entry.compress_type in BOUNDED_METHODS:
            return member.read(entry.file_size)
        member.MIN_READ_SIZE = UNBOUNDED_READ_BYTES
        try:
            return b"".join(iter(lambda: member.read(UNBOUNDED_READ_BYTES), b""))
        except MemoryError as error:
            if is_memory_short():
                raise
            raise ValueError("declares a dictionary of gigabytes") from error  # LZMA allocates it


def _list_images(
    archive: zipfile.ZipFile, location: str, findings: Findings
) -> list[zipfile.ZipInfo]:
    """List the members that are images, in time order. Of equal names, the last one counts."""
    entries = archive.infolist()
    if len(entries) > MAX_MEMBERS:
        findings.add("archive.crowded", f"{location}: {len(entries)} members")
        return []

    images: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.filename.replace("\\", "/")
        base = name.rsplit("/", 1)[-1]
        if entry.is_dir() or base.startswith(".") or not base.lower().endswith(IMAGE_SUFFIXES):
            continue
        if stat.S_ISLNK(entry.external_attr >> 16):
            findings.add("archive.link", f"{location}: {name}")
            continue
        if ".." in name.split("/") or name.startswith("/") or ":" in name:
            # harmless, since members are read in memory and never extracted
            findings.add("archive.escape", f"{location}: {name}")
        if name in images:
            findings.add("archive.twice", f"{location}: {name}")
        images[name] = entry

    if not images:
        findings.add("archive.empty", location)
    names = sorted(images, key=natural_order)
    if names != sorted(images):
        findings.add("archive.order", location)  # sorted as text, frames would be out of order
    return [images[name] for name in names]


def _directory_bytes(data: bytes) -> int:
    """Return the size of the list of members that an archive declares.

    zipfile reads the whole list before it can return the number of members.
    """
    end = data.rfind(b"PK\5\6", max(0, len(data) - 65_557))
    return struct.unpack_from("<L", data, end + 12)[0] if 0 <= end <= len(data) - 22 else 0


def _read_members(
    archive: zipfile.ZipFile,
    entries: list[zipfile.ZipInfo],
    archive_bytes: int,
    location: str,
    findings: Findings,
) -> list[bytes]:
    """Read members. Those beyond the limit of one video are counted and give b""."""
    images: list[bytes] = []
    total = 0
    for entry in entries:
        if total + entry.file_size > MAX_VIDEO_BYTES:
            findings.add(
                "frame.bomb",
                f"{location}: {entry.filename} and the frames before it exceed "
                f"{MAX_VIDEO_BYTES} bytes",
            )
            images.append(b"")
        else:
            images.append(_read_image(archive, entry, archive_bytes, location, findings))
            total += len(images[-1])
    return images


def _read_image(
    archive: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    archive_bytes: int,
    location: str,
    findings: Findings,
) -> bytes:
    """Read one member. It is counted and gives b"" when it is encrypted, damaged, larger than
    allowed or larger than the archive can hold.
    """
    location = f"{location}: {entry.filename}"
    if entry.file_size > MAX_MEMBER_BYTES or entry.compress_size > archive_bytes:
        findings.add("frame.bomb", f"{location} declares {entry.file_size} bytes")
        return b""

    try:
        data = _read_member(archive, entry)
    except DAMAGED_FILE_ERRORS as error:
        raise_if_exhausted(error)
        findings.add("frame.unreadable", f"{location}: {error}")
        return b""
    if not data:
        findings.add("frame.unreadable", f"{location} is empty")
    return data
