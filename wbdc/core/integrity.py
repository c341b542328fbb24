"""Check sealed folders when they are read: every file must have the SHA-256 that its seal lists.

A file that was hashed before and has not changed since (same device, inode, size, and both times)
is not
hashed again. What was hashed is remembered as one line a file in the user's cache folder; a line
that is
lost or damaged only costs another hash.
"""

import contextlib
import hashlib
import os
import shlex
import time
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path

from wbdc.core.errors import IntegrityBroken
from wbdc.core.files import SEAL_FILE, append_line, file_sha256, read_seal, read_text

FRESH_SECONDS = 2  # a file changed this recently may change again within one tick of its clock
MAX_CACHE_BYTES = 2**23  # about 120,000 files; then the cache starts anew
WORK_PARTS = ("prepared", "runs", "ensembles")  # folders of a work folder

_options = {"hash_always": False}


def hash_always(on: bool = True) -> None:
    """Hash files again although they have not changed since they were hashed last."""
    _options["hash_always"] = on


def verify_seal(
    folder: Path, names: Collection[str] | None = None, shape: dict | None = None
) -> dict:
    """Compare sealed files with their hashes and return the seal's facts. names: only these files.

    shape: of the facts, as `read_json` takes it. Raises IntegrityBroken, naming up to ten files,
    when
    the seal or a file is missing or damaged.
    """
    facts = read_seal(folder, shape)
    files = facts["files"]
    listed = files if names is None else names
    wrong = [n for n in listed if n not in files or not has_hash(folder / n, files[n])]
    if wrong:
        differ = f"{len(wrong)} files differ from what was written: {', '.join(wrong[:10])}"
        raise IntegrityBroken(f"{folder} is damaged, {differ}; {repair_hint(folder, facts)}")
    return facts


def verify_seal_if_present(folder: Path) -> None:
    """Do `verify_seal` where there is a seal; a packed model has none, its manifest was checked."""
    if (folder / SEAL_FILE).is_file():
        verify_seal(folder)


def repair_hint(folder: Path, facts: dict) -> str:
    """Say how to make a damaged folder again."""
    return f"delete {folder} and run {repair_command(folder, facts)} again"


def repair_command(folder: Path, facts: dict) -> str:
    """Quote the command that made a sealed folder, as it can be typed now: with --work where the
    folder lies today.
    """
    command = facts.get("command")
    if not isinstance(command, str):
        return "the command that made it"
    work = next((p.parent for p in folder.parents if p.name in WORK_PARTS), Path("work"))
    is_default = str(work) == "work" and "WBDC_WORK" not in os.environ
    return f"`{command}`" if is_default else f"`{command} --work {shlex.quote(str(work))}`"


def has_hash(path: Path, expected: str, hash_file: Callable[[Path], str] = file_sha256) -> bool:
    """Tell whether a file exists and has a hash, as `hash_file` computes it, or had it when it last
    changed.
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
        raise IntegrityBroken(f"{path} cannot be read: {error.strerror}") from error
    _cache_state(path, before, expected)
    return True


def _state_hash(path: Path, expected: str) -> str | None:
    """Hash what changes whenever a file does, together with the hash it should have; None for no
    regular file.
    """
    if not path.is_file():
        return None
    now = path.stat()
    facts = (
        str(path.absolute()),
        now.st_dev,
        now.st_ino,
        now.st_size,
        now.st_mtime_ns,
        now.st_ctime_ns,
    )
    return hashlib.sha256(
        "\n".join(map(str, (*facts, expected))).encode(errors="surrogateescape")
    ).hexdigest()


def _cache_state(path: Path, before: str, expected: str) -> None:
    changed = max(path.stat().st_mtime, path.stat().st_ctime)
    if changed >= time.time() - FRESH_SECONDS or _state_hash(path, expected) != before:
        return
    file = _cache_file()
    with contextlib.suppress(OSError):  # a cache that cannot be written is no cache
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file() and file.stat().st_size > MAX_CACHE_BYTES:
            file.unlink()
        append_line(file, before)
        _verified_states().add(before)


def _verified_states() -> set[str]:
    return _read_cache(_cache_file())


@cache
def _read_cache(file: Path) -> set[str]:
    try:
        return set(read_text(file, "ascii", "replace").splitlines())
    except OSError:
        return set()


def _cache_file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(home):  # an unknown home: nothing can be kept below this file
        home = os.devnull
    return Path(home) / "wbdc" / "hashed"
