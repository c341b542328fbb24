"""The frame store and what a kit reads of it: shards of a few hundred videos, each one file that is
whole or absent.

A store shard keeps the encoded frames as the archives gave them, so that training decodes the very
bytes the judge
will decode. A view shard keeps what one kit reads: token ids, and frames as uint8 pixels of its
tower's size.

The header of a shard holds the SHA-256 of the file with the place of the hash itself set to zeros.
It is compared
when a shard is opened; `has_hash` remembers files that have not changed since.
"""

import bisect
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from wbdc.core.errors import IntegrityBroken
from wbdc.core.files import open_regular, publish_file, read_seal
from wbdc.core.integrity import has_hash, repair_command
from wbdc.core.json_shape import find_mismatch

SHARD_VIDEOS = 256  # videos; a kill costs at most one shard
FRAMES_FOLDER = (
    "frames"  # the folder of a prepared dataset that `wbdc prepare` fills; all others are of views
)
# of the header's metadata: hash, a space, facts; a single key, as the order of several is random
HEADER_KEY = "shard"
ZERO_HASH = "0" * 64
MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors
CHUNK_BYTES = 2**20
SHARD_DTYPES = {"U8": np.uint8, "F16": np.float16, "I32": np.int32, "I64": np.int64}


def shard_starts(count: int) -> list[range]:
    """Cut `count` rows into shards."""
    return [
        range(start, min(start + SHARD_VIDEOS, count)) for start in range(0, count, SHARD_VIDEOS)
    ]


def shard_path(folder: Path, split: str, start: int) -> Path:
    """Name the file of the shard that begins at row `start`."""
    return folder / f"{split}-{start // SHARD_VIDEOS:05d}.safetensors"


def write_shard(
    path: Path, columns: dict[str, Sequence[np.ndarray]], facts: dict | None = None
) -> None:
    """Publish ragged columns: per column one array a row, joined along the first axis, with their
    ends.

    facts: JSON values kept in the header (what was found while reading).
    """
    tensors = {}
    for name, rows in columns.items():
        filled = [r for r in rows if len(r)] or list(
            rows[:1]
        )  # an empty row has no say in the shape
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
    """One shard, opened and compared with its hash once for all that is read of it.

    Raises IntegrityBroken for a damaged shard, and for a column that it does not hold.
    """

    def __init__(self, path: Path):
        raw, self._header = _read_header(path)
        if not has_hash(path, _expected_hash(self._header), _content_hash):
            damage = "its content differs from what was written"
            raise IntegrityBroken(f"{path} is damaged: {damage}; {_repair_hint(path)}")

        self.path = path
        self._data_start = 8 + len(raw)

    @property
    def facts(self) -> dict:
        """The facts that `write_shard` kept in the header."""
        return json.loads(self._header["__metadata__"][HEADER_KEY].split(" ", 1)[1])

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of a column, all rows joined and memory-mapped, and the rows' ends."""
        return self._map(name), np.array(self._map(f"{name}_ends"))

    def rows(self, name: str) -> list[np.ndarray]:
        """Return a column as one array a row."""
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
    """One ragged column of a split: column[row] -> array (a copy-free slice)."""

    def __init__(self, opened: Sequence[tuple[range, ShardFile]], name: str):
        self.starts, self.parts = [], []
        for rows, shard in opened:
            values, ends = shard.column(name)
            if len(ends) != len(rows):
                fault = f"holds {len(ends)} videos, not {len(rows)}"
                raise IntegrityBroken(f"{shard.path} {fault}; {_repair_hint(shard.path)}")
            self.starts.append(rows.start)
            self.parts.append((values, np.concatenate([[0], ends])))

    def __getitem__(self, row: int) -> np.ndarray:
        shard = bisect.bisect_right(self.starts, row) - 1
        values, ends = self.parts[shard]
        at = row - self.starts[shard]
        return values[ends[at] : ends[at + 1]]


def open_columns(folder: Path, split: str, names: Sequence[str], count: int) -> tuple[Column, ...]:
    """Open columns of a split of `count` rows; each shard is opened and verified once."""
    opened = [
        (rows, ShardFile(shard_path(folder, split, rows.start))) for rows in shard_starts(count)
    ]
    return tuple(Column(opened, name) for name in names)


def join_images(encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Lay the encoded frames of one video end to end: {"bytes": (n,) uint8, "sizes": (frames,)
    int64}.
    """
    return {
        "bytes": np.frombuffer(b"".join(encoded), np.uint8),
        "sizes": np.array([len(e) for e in encoded], np.int64),
    }


def split_images(data: np.ndarray, sizes: np.ndarray) -> list[bytes]:
    """Undo `join_pictures`."""
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    return [data[a:b].tobytes() for a, b in zip(ends[:-1], ends[1:])]


def _read_header(path: Path) -> tuple[bytes, dict]:
    """Read the header of a shard: its bytes, and what they say."""
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
        old = "was written by an earlier version of wbdc, without a hash"
        raise IntegrityBroken(f"{path} {old}; run `wbdc prepare` again")
    if mismatch := find_mismatch(header, {"__metadata__": {HEADER_KEY: str}}):
        raise _unreadable_shard(path, mismatch)
    if not re.match(f"[0-9a-f]{{{len(ZERO_HASH)}}} ", header["__metadata__"][HEADER_KEY]):
        raise _unreadable_shard(path, "its header holds no hash")
    return raw, header


def _expected_hash(header: dict) -> str:
    return header["__metadata__"][HEADER_KEY][: len(ZERO_HASH)]


def _content_hash(path: Path) -> str:
    """Hash a shard as it was before its hash was put into the header."""
    raw, header = _read_header(path)
    with open_regular(path) as file:
        content = hashlib.sha256(file.read(8))
        written = file.read(len(raw))
        content.update(written.replace(_expected_hash(header).encode(), ZERO_HASH.encode(), 1))
        while chunk := file.read(CHUNK_BYTES):
            content.update(chunk)
    return content.hexdigest()


def _repair_hint(path: Path) -> str:
    """Say how to make a damaged shard again."""
    command = (
        _prepare_command(path.parents[1])
        if path.parent.name == FRAMES_FOLDER
        else "the same command"
    )
    return f"delete this file and run {command} again"


def _prepare_command(folder: Path) -> str:
    """Quote the command that made a prepared dataset."""
    try:
        return repair_command(folder, read_seal(folder, {"command": str}))
    except IntegrityBroken:  # not finished, or damaged too
        return "`wbdc prepare`"


def _unreadable_shard(path: Path, error: object) -> IntegrityBroken:
    return IntegrityBroken(f"{path} cannot be read ({str(error)[:200]}); {_repair_hint(path)}")
