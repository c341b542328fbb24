"""Verification of sealed folders: each file must have the SHA-256 that the seal lists.

A file that was verified before and has not changed since (same device, inode, size and times) is
not hashed again. Verified files are listed in the user's cache folder, one line each. A lost or
damaged line only costs one more hash.
"""

import hashlib
import os
import shlex
import time
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path

from wbdc.core.errors import IntegrityFault
from wbdc.core.files import SEAL_FILE, file_sha256, read_seal
from wbdc.core.user_cache import append_to_cache, cache_file, read_cache

FRESH_SECONDS = 2  # a newer file may change again without a change of its modification time
HASHES_FILE = "hashed"
WORK_FOLDERS = ("prepared", "runs", "ensembles", "pseudo")

_options = {"hash_always": False}


def hash_always(on: bool = True) -> None:
    """Hash all files, also those that were verified before and have not changed."""
    _options["hash_always"] = on


def verify_seal(
    folder: Path, names: Collection[str] | None = None, shape: dict | None = None
) -> dict:
    """Compare sealed files with their hashes and return the facts of the seal.

    names: files to compare; None: all. shape: of the facts, as `read_json` takes it. Raises
    IntegrityFault, which names up to ten files, when the seal or a file is missing or damaged.
    """
    facts = read_seal(folder, shape)
    files = facts["files"]
    damaged = [
        name
        for name in (files if names is None else names)
        if name not in files or not has_hash(folder / name, files[name])
    ]
    if damaged:
        difference = f"{len(damaged)} files differ from what was written: {', '.join(damaged[:10])}"
        raise IntegrityFault(f"{folder} is damaged, {difference}; {repair_hint(folder, facts)}")
    return facts


def verify_seal_if_present(folder: Path) -> None:
    """Verify a folder if it has a seal. A packed model has none, but a manifest."""
    if (folder / SEAL_FILE).is_file():
        verify_seal(folder)


def repair_hint(folder: Path, facts: dict) -> str:
    """Return the hint how to restore a damaged folder, for an error message."""
    return f"delete {folder} and run {repair_command(folder, facts)} again"


def repair_command(folder: Path, facts: dict) -> str:
    """Return the command that writes a sealed folder again, quoted.

    It gets --work when the folder is not in the default work folder.
    """
    command = facts.get("command")
    if not isinstance(command, str):
        return "the command that made it"
    work = next((p.parent for p in folder.parents if p.name in WORK_FOLDERS), Path("work"))
    is_default = str(work) == "work" and "WBDC_WORK" not in os.environ
    return f"`{command}`" if is_default else f"`{command} --work {shlex.quote(str(work))}`"


def has_hash(path: Path, expected: str, hash_file: Callable[[Path], str] = file_sha256) -> bool:
    """Return whether a file exists and has a hash, or had it at its last verification and has not
    changed since.

    hash_file: computes the hash of a file. Raises IntegrityFault when the file cannot be read.
    """
    try:
        before = _state_hash(path, expected)
        if before is None:
            return False
        if not _options["hash_always"] and before in _verified_states():
            return True
        if hash_file(path) != expected:
            return False
    except FileNotFoundError:
        return False
    except OSError as error:
        raise IntegrityFault(f"{path} cannot be read: {error.strerror}") from error
    _cache_state(path, before, expected)
    return True


def _state_hash(path: Path, expected: str) -> str | None:
    """Hash the state of a file that changes whenever its content does, and its expected hash.

    None when the path is not a regular file.
    """
    if not path.is_file():
        return None

    status = path.stat()
    facts = (
        str(path.absolute()),
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        expected,
    )
    text = "\n".join(map(str, facts))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _cache_state(path: Path, before: str, expected: str) -> None:
    """Add a verified file to the cache, unless it changed during or shortly before the hash."""
    changed = max(path.stat().st_mtime, path.stat().st_ctime)
    if changed >= time.time() - FRESH_SECONDS or _state_hash(path, expected) != before:
        return
    if append_to_cache(cache_file(HASHES_FILE), before):  # otherwise, files are hashed again
        _verified_states().add(before)


def _verified_states() -> set[str]:
    return _read_states(cache_file(HASHES_FILE))


@cache
def _read_states(file: Path) -> set[str]:
    return set(read_cache(file))
