"""Archives of frames: what a zip or a feature file holds, read without trusting it."""

import io
import math
import os
import re
import stat
import struct
import zipfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from wbdc.competitions import CLIP_SUFFIXES, Source
from wbdc.core.files import open_regular
from wbdc.core.findings import Findings
from wbdc.core.limits import MAX_FRAMES
from wbdc.core.out_of_memory import is_memory_short, raise_if_exhausted
from wbdc.data.clips import read_clip
from wbdc.data.frame_sampling import DAMAGED_FILE_ERRORS, MAX_FILE_BYTES, sample_frames

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".avif")
MAX_MEMBERS = 10_000
MAX_MEMBER_BYTES = 64 * 2**20  # of one member, once expanded
MAX_VIDEO_BYTES = 2**27  # of the frames of one video together, once expanded
MAX_DIRECTORY_BYTES = (
    2**22
)  # of an archive's list of members: 400 bytes each for as many as are allowed
BOUNDED_METHODS = (
    zipfile.ZIP_STORED,
    zipfile.ZIP_DEFLATED,
)  # the methods that zipfile stops at the size asked for
NPY_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (
        3,
        0,
        # differs only in names of fields, which no features have
    ): np.lib.format.read_array_header_2_0,
}
UNBOUNDED_READ_BYTES = (
    16  # compressed bytes at a time of the other methods: 46 bytes of bzip2 can be 45 MB
)


def natural_order(name: str) -> tuple:
    """Sort key under which 2.jpg comes before 10.jpg."""
    return tuple(
        (1, int(part), "") if part.isdecimal() else (0, 0, part)
        for part in re.split(r"(\d+)", name)
    )


def read_images(source: Source, most: int, findings: Findings) -> list[bytes]:
    """Read the encoded frames of one video, an archive of pictures or a clip, in time order: `most`
    of its up to 32, chosen by position.

    A member that cannot be read gives b"", so that positions stay those of the archive. An archive
    that cannot
    be read gives []. Every fault is counted; nothing is ever extracted to disk. Raises only
    EnvironmentLacks: for a clip, without PyAV.
    """
    if source.path.suffix.lower() in CLIP_SUFFIXES:
        return read_clip(source.path, most, findings)
    place = f"{source.path.parent.name}/{source.path.name}"
    try:
        if source.path.stat().st_size > MAX_FILE_BYTES:
            findings.add("archive.huge", place)
            return []
        with open_regular(source.path) as file:
            data = file.read()
        if _directory_bytes(data) > MAX_DIRECTORY_BYTES:
            findings.add("archive.crowded", f"{place}: a list of {_directory_bytes(data)} bytes")
            return []
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            listed = _list_images(archive, place, findings)
            kept = [listed[i] for i in sample_frames(len(listed), MAX_FRAMES)]
            chosen = [kept[i] for i in sample_frames(len(kept), most)]
            return _read_members(archive, chosen, len(data), place, findings)
    except FileNotFoundError:
        findings.add("archive.missing", place)
    except DAMAGED_FILE_ERRORS as error:
        raise_if_exhausted(error)
        findings.add("archive.broken", f"{place}: {error}")
    return []


def read_features(source: Source, most: int, findings: Findings) -> np.ndarray:
    """Read the ready features of one video, `most` of its up to 32 rows: (n, D) float16; (0, 0)
    when there are none.
    """
    place = f"{source.path.name}:{source.member}"
    try:
        now = source.path.stat()
        archive = _open_shared_archive(
            source.path, os.getpid(), (now.st_ino, now.st_size, now.st_mtime_ns)
        )
        rows = _parse_npy(_read_member(archive, archive.getinfo(source.member)))
        if rows.ndim != 2 or rows.dtype.kind != "f":
            raise ValueError(f"shape {rows.shape} of {rows.dtype}, not (frames, D) of floats")
        with np.errstate(over="ignore"):
            rows = rows[sample_frames(len(rows), MAX_FRAMES)].astype(np.float16)
        if not np.isfinite(rows).all():
            raise ValueError("numbers that are not finite in float16")
        return rows[sample_frames(len(rows), most)]
    except (KeyError, FileNotFoundError):
        findings.add("archive.missing", place)
    except DAMAGED_FILE_ERRORS as error:
        raise_if_exhausted(error)
        findings.add("archive.broken", f"{place}: {error}")
    return np.zeros((0, 0), np.float16)


def member_checksums(path: Path) -> list[tuple[str, int]]:
    """List the members of an archive with their CRC-32, as its directory states them. Raises one of
    `BROKEN`.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        return sorted(
            (entry.filename, entry.CRC) for entry in archive.infolist() if not entry.is_dir()
        )


@lru_cache(maxsize=4)
def _open_shared_archive(path: Path, process: int, state: tuple[int, ...]) -> zipfile.ZipFile:
    """Open an archive that many videos share: anew in each process, since a fork shares the
    position in an open file
    (the standard library locks it among threads only), and when the file was replaced.
    """
    open_regular(path).close()
    return zipfile.ZipFile(path)


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Read a member: as much as it declares, since zipfile expands as much as it is asked for.
    Raises one of `BROKEN`.
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


def _parse_npy(data: bytes) -> np.ndarray:
    """Read a .npy file without a copy. Raises one of `BROKEN`, also for a shape larger than the
    file.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = NPY_HEADER_READERS.get(version)
    if read_header is None:
        raise ValueError(f"version {version} of the .npy format")

    try:
        shape, by_columns, kind = read_header(file)
    except MemoryError as error:  # Python's parser, on thousands of nested signs
        raise ValueError("its header is too deeply nested") from error
    if any(side < 0 for side in shape):
        raise ValueError(f"shape {shape}")

    numbers = np.frombuffer(data, kind, math.prod(shape), file.tell())
    return numbers.reshape(shape, order="F" if by_columns else "C")


def _list_images(archive: zipfile.ZipFile, place: str, findings: Findings) -> list[zipfile.ZipInfo]:
    """List the members that are pictures, in time order; of equal names the last one counts."""
    entries = archive.infolist()
    if len(entries) > MAX_MEMBERS:
        findings.add("archive.crowded", f"{place}: {len(entries)} members")
        return []
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.filename.replace("\\", "/")
        last = name.rsplit("/", 1)[-1]
        if entry.is_dir() or last.startswith(".") or not last.lower().endswith(IMAGE_SUFFIXES):
            continue
        if stat.S_ISLNK(entry.external_attr >> 16):
            findings.add("archive.link", f"{place}: {name}")
            continue
        if ".." in name.split("/") or name.startswith("/") or ":" in name:
            findings.add(
                "archive.escape", f"{place}: {name}"
            )  # read in memory like any other; never extracted
        if name in found:
            findings.add("archive.twice", f"{place}: {name}")
        found[name] = entry
    if not found:
        findings.add("archive.empty", place)
    ordered = sorted(found, key=natural_order)
    if ordered != sorted(found):
        findings.add("archive.order", place)  # sorting names as text would shuffle time
    return [found[name] for name in ordered]


def _directory_bytes(data: bytes) -> int:
    """Read how long an archive says its list of members is: zipfile reads all of that before it can
    be asked how many there are.
    """
    end = data.rfind(b"PK\5\6", max(0, len(data) - 65_557))
    return struct.unpack_from("<L", data, end + 12)[0] if 0 <= end <= len(data) - 22 else 0


def _read_members(
    archive: zipfile.ZipFile,
    chosen: list[zipfile.ZipInfo],
    size: int,
    place: str,
    findings: Findings,
) -> list[bytes]:
    """Read members until they are too much for one video."""
    read, total = [], 0
    for entry in chosen:
        if total + entry.file_size > MAX_VIDEO_BYTES:
            findings.add(
                "frame.bomb",
                f"{place}: {entry.filename} and those before it are more than {MAX_VIDEO_BYTES} bytes",
            )
            read.append(b"")
        else:
            read.append(_read_image(archive, entry, size, place, findings))
            total += len(read[-1])
    return read


def _read_image(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, size: int, place: str, findings: Findings
) -> bytes:
    """Read one member; b"" when it is encrypted, damaged, larger than allowed or larger than the
    archive can hold.
    """
    where = f"{place}: {entry.filename}"
    if entry.file_size > MAX_MEMBER_BYTES or entry.compress_size > size:
        findings.add("frame.bomb", f"{where} declares {entry.file_size} bytes")
        return b""
    try:
        data = _read_member(archive, entry)
    except DAMAGED_FILE_ERRORS as error:
        raise_if_exhausted(error)
        findings.add("frame.unreadable", f"{where}: {error}")
        return b""
    if not data:
        findings.add("frame.unreadable", f"{where} is empty")
    return data
