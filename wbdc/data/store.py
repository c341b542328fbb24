"""Shards: files of a few hundred videos each, which hold ragged columns.

The shards of the frame store hold the encoded frames as the archives gave them, so that training
decodes the same bytes as inference. The shards of a view hold what one kit reads: token ids, and
frames as uint8 pixels of the size that its vision tower takes.

The header of a shard holds the SHA-256 of the file, computed with zeros in place of the hash. It is
verified when a shard is opened; `has_hash` remembers files that have not changed since.
"""

import bisect
import hashlib
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from wbdc.core.errors import IntegrityFault
from wbdc.core.files import open_regular, publish_file, read_seal
from wbdc.core.integrity import has_hash, repair_command
from wbdc.core.json_shape import find_mismatch

SHARD_VIDEOS = 256  # a kill loses the work on one shard at most
# the folder of a prepared dataset that `wbdc prepare` fills; all others hold views
FRAMES_FOLDER = "frames"
# in the metadata of the header: hash, a space, facts. One key, as the order of several is random
HEADER_KEY = "shard"
ZERO_HASH = "0" * 64
MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors
HASH_CHUNK_BYTES = 2**20
SHARD_DTYPES = {
    "U8": np.uint8,
    "F16": np.float16,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
}


def shard_starts(count: int) -> list[range]:
    """Split `count` rows into the ranges of their shards."""
    return [
        range(start, min(start + SHARD_VIDEOS, count)) for start in range(0, count, SHARD_VIDEOS)
    ]


def shard_path(folder: Path, split: str, start: int) -> Path:
    """Return the path of the shard whose first row is `start`."""
    return folder / f"{split}-{start // SHARD_VIDEOS:05d}.safetensors"


def write_shard(
    path: Path, columns: dict[str, Sequence[np.ndarray]], facts: dict | None = None
) -> None:
    """Publish a shard of ragged columns.

    columns: by name, one array for each row; the arrays of a column are concatenated along the
    first axis. facts: JSON values to store in the header.
    """
    tensors = {}
    for name, rows in columns.items():
        # empty rows may have another shape
        filled = [r for r in rows if len(r)] or list(rows[:1])
        tensors[name] = np.ascontiguousarray(np.concatenate(filled))
        tensors[f"{name}_ends"] = np.cumsum([len(r) for r in rows], dtype=np.int64)

    def save(temporary: Path) -> None:
        save_file(
            tensors,
            temporary,
            {HEADER_KEY: f"{ZERO_HASH} {json.dumps(facts or {}, sort_keys=True)}"},
        )
        content_hash = _content_hash(temporary)
        with temporary.open("r+b") as file:
            file.seek(8 + _read_header(temporary)[0].index(ZERO_HASH.encode()))
            file.write(content_hash.encode())

    publish_file(path, save)


class ShardFile:
    """One shard, which is verified once, when it is opened.

    Raises IntegrityFault for a damaged shard, and for a column that it does not hold.
    """

    def __init__(self, path: Path):
        raw, self._header = _read_header(path)
        if not has_hash(path, _expected_hash(self._header), _content_hash):
            raise IntegrityFault(
                f"{path} is damaged: its content differs from what was written; "
                f"{_repair_hint(path)}"
            )

        self.path = path
        self._data_start = 8 + len(raw)

    @property
    def facts(self) -> dict:
        """The facts that `write_shard` stored in the header."""
        return json.loads(self._header["__metadata__"][HEADER_KEY].split(" ", 1)[1])

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the concatenated, memory-mapped values of a column and the end of each row."""
        return self._map(name), np.array(self._map(f"{name}_ends"))

    def rows(self, name: str) -> list[np.ndarray]:
        """Return a column as one array for each row."""
        values, ends = self.column(name)
        return np.split(values, ends[:-1])

    def _map(self, name: str) -> np.ndarray:
        try:
            entry = self._header[name]
            dtype = SHARD_DTYPES[entry["dtype"]]
            if 0 in entry["shape"]:
                return np.zeros(entry["shape"], dtype)
            offset = self._data_start + entry["data_offsets"][0]
            return np.memmap(self.path, dtype, "r", offset, tuple(entry["shape"]))
        except (KeyError, ValueError) as error:
            raise _unreadable_shard(self.path, f"column {name}: {error}") from error


class Column:
    """One ragged column of a split: column[row] is an array, without a copy."""

    def __init__(self, shards: Sequence[tuple[range, ShardFile]], name: str):
        self.starts: list[int] = []
        self.parts: list[tuple[np.ndarray, np.ndarray]] = []
        for rows, shard in shards:
            values, ends = shard.column(name)
            if len(ends) != len(rows):
                fault = f"holds {len(ends)} videos, not {len(rows)}"
                raise IntegrityFault(f"{shard.path} {fault}; {_repair_hint(shard.path)}")
            self.starts.append(rows.start)
            self.parts.append((values, np.concatenate([[0], ends])))

    @property
    def lengths(self) -> np.ndarray:
        """The length of every row, without reading one: (rows,) int."""
        return np.concatenate([np.diff(ends) for _, ends in self.parts])

    def __getitem__(self, row: int) -> np.ndarray:
        shard = bisect.bisect_right(self.starts, row) - 1
        values, ends = self.parts[shard]
        position = row - self.starts[shard]
        return values[ends[position] : ends[position + 1]]


def modality_column(name: str) -> str:
    """Return the name of the column of a further modality in a shard of stored frames."""
    return f"modality.{name}"


def open_columns(folder: Path, split: str, names: Sequence[str], count: int) -> tuple[Column, ...]:
    """Open columns of a split with `count` rows. Each shard is opened and verified once."""
    shards = [
        (rows, ShardFile(shard_path(folder, split, rows.start))) for rows in shard_starts(count)
    ]
    return tuple(Column(shards, name) for name in names)


def join_images(encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Concatenate the encoded frames of one video.

    Returns {"bytes": (n,) uint8, "sizes": (frames,) int64}.
    """
    return {
        "bytes": np.frombuffer(b"".join(encoded), np.uint8),
        "sizes": np.array([len(e) for e in encoded], np.int64),
    }


def split_images(data: np.ndarray, sizes: np.ndarray) -> list[bytes]:
    """Split the concatenated frames of one video: the inverse of `join_images`."""
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    return [data[start:end].tobytes() for start, end in pairwise(ends)]


def _read_header(path: Path) -> tuple[bytes, dict]:
    """Return the header of a shard as bytes and parsed. Raises IntegrityFault."""
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER_BYTES:
                raise ValueError(f"its header is {length:,} bytes long")
            raw = file.read(length)
        header = json.loads(raw.decode("utf-8"))
    except RecursionError as error:
        raise _unreadable_shard(path, "its header is too deeply nested") from error
    except (OSError, ValueError) as error:
        raise _unreadable_shard(path, error) from error
    if find_mismatch(header, {"__metadata__": {"facts": str}}) is None:
        raise IntegrityFault(
            f"{path} was written by an earlier version of wbdc, without a hash; "
            "run `wbdc prepare` again"
        )
    if mismatch := find_mismatch(header, {"__metadata__": {HEADER_KEY: str}}):
        raise _unreadable_shard(path, mismatch)
    if not re.match(f"[0-9a-f]{{{len(ZERO_HASH)}}} ", header["__metadata__"][HEADER_KEY]):
        raise _unreadable_shard(path, "its header holds no hash")
    return raw, header


def _expected_hash(header: dict) -> str:
    return header["__metadata__"][HEADER_KEY][: len(ZERO_HASH)]


def _content_hash(path: Path) -> str:
    """Hash a shard with zeros in place of the hash in its header."""
    raw, header = _read_header(path)
    with open_regular(path) as file:
        content = hashlib.sha256(file.read(8))
        header_bytes = file.read(len(raw))
        content.update(header_bytes.replace(_expected_hash(header).encode(), ZERO_HASH.encode(), 1))
        while chunk := file.read(HASH_CHUNK_BYTES):
            content.update(chunk)
    return content.hexdigest()


def _repair_hint(path: Path) -> str:
    """Return the hint how to restore a damaged shard, for an error message."""
    command = (
        _prepare_command(path.parents[1])
        if path.parent.name == FRAMES_FOLDER
        else "the same command"
    )
    return f"delete this file and run {command} again"


def _prepare_command(folder: Path) -> str:
    """Return the command that writes a prepared dataset again, quoted."""
    try:
        return repair_command(folder, read_seal(folder, {"command": str}))
    except IntegrityFault:  # the seal is missing or damaged
        return "`wbdc prepare`"


def _unreadable_shard(path: Path, error: object) -> IntegrityFault:
    return IntegrityFault(f"{path} cannot be read ({str(error)[:200]}); {_repair_hint(path)}")
