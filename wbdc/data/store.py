"""The frame store and what a kit reads of it: shards of a few hundred videos, each one file that is whole or absent.

A store shard keeps the encoded frames as the archives gave them, so that training decodes the very bytes the judge
will decode. A view shard keeps what one kit reads: token ids, and frames as uint8 pixels of its tower's size.
"""

import bisect
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from wbdc.core.errors import IntegrityBroken
from wbdc.core.files import open_regular, publish

SHARD = 256  # videos; a kill costs at most one shard


def shards(count: int) -> list[range]:
    """Cut `count` rows into shards."""
    return [range(start, min(start + SHARD, count)) for start in range(0, count, SHARD)]


def shard_path(folder: Path, split: str, start: int) -> Path:
    """Name the file of the shard that begins at row `start`."""
    return folder / f"{split}-{start // SHARD:05d}.safetensors"


def write_shard(path: Path, columns: dict[str, Sequence[np.ndarray]], facts: dict | None = None) -> None:
    """Publish ragged columns: per column one array a row, joined along the first axis, with their ends.

    facts: JSON values kept in the header (what was found while reading).
    """
    tensors = {}
    for name, rows in columns.items():
        filled = [r for r in rows if len(r)] or list(rows[:1])  # an empty row has no say in the shape
        tensors[name] = np.ascontiguousarray(np.concatenate(filled))
        tensors[f"{name}_ends"] = np.cumsum([len(r) for r in rows], dtype=np.int64)
    publish(path, lambda temporary: save_file(tensors, temporary, {"facts": json.dumps(facts or {}, sort_keys=True)}))


def shard_facts(path: Path) -> dict:
    """Read what `write_shard` was told to keep."""
    return json.loads(_header(path)[0]["__metadata__"]["facts"])


def read_shard(path: Path, names: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Read ragged columns of one shard: per column one array a row."""
    return {name: np.split(_map(path, name), np.array(_map(path, f"{name}_ends"))[:-1]) for name in names}


class Column:
    """One ragged column of a split over all its shards, memory-mapped: column[row] -> array (a copy-free slice)."""

    def __init__(self, folder: Path, split: str, name: str, count: int):
        self.starts, self.parts = [], []
        for rows in shards(count):
            path = shard_path(folder, split, rows.start)
            values, ends = _map(path, name), np.array(_map(path, f"{name}_ends"))
            if len(ends) != len(rows):
                raise IntegrityBroken(f"{path} holds {len(ends)} videos, not {len(rows)}; delete {folder} and prepare again")
            self.starts.append(rows.start)
            self.parts.append((values, np.concatenate([[0], ends])))

    def __getitem__(self, row: int) -> np.ndarray:
        shard = bisect.bisect_right(self.starts, row) - 1
        values, ends = self.parts[shard]
        at = row - self.starts[shard]
        return values[ends[at] : ends[at + 1]]


def join_pictures(encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Lay the encoded frames of one video end to end: {"bytes": (n,) uint8, "sizes": (frames,) int64}."""
    return {"bytes": np.frombuffer(b"".join(encoded), np.uint8), "sizes": np.array([len(e) for e in encoded], np.int64)}


def split_pictures(data: np.ndarray, sizes: np.ndarray) -> list[bytes]:
    """Undo `join_pictures`."""
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    return [data[a:b].tobytes() for a, b in zip(ends[:-1], ends[1:])]


def _header(path: Path) -> tuple[dict, int]:
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            return json.loads(file.read(length)), 8 + length
    except (OSError, ValueError, OverflowError, MemoryError) as error:  # the length too may be damaged
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> IntegrityBroken:
    return IntegrityBroken(f"{path} cannot be read ({error}); delete the folder of this dataset and prepare again")


def _map(path: Path, name: str) -> np.ndarray:
    header, start = _header(path)
    try:
        entry = header[name]
        kind = {"U8": np.uint8, "F16": np.float16, "I32": np.int32, "I64": np.int64}[entry["dtype"]]
        if 0 in entry["shape"]:
            return np.zeros(entry["shape"], kind)
        return np.memmap(path, kind, "r", start + entry["data_offsets"][0], tuple(entry["shape"]))
    except (KeyError, ValueError) as error:
        raise _unreadable(path, error) from error
