"""Files that are either whole or absent: the only writer of the house, seals, hashes and locks."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from wbdc.core.errors import EnvironmentLacks, FolderInUse, IntegrityBroken, OutOfResources, WbdcError

SEAL = "DONE.json"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def publish(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then put it in place of `path` in one step, with the mode that umask gives.

    A reader sees the old file or the new one, also after a crash or a power loss.
    Raises OutOfResources when the disk is full, EnvironmentLacks when the folder cannot be written.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors would leave it to its owner alone
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _explained(error, path) or error


def publish_bytes(path: Path, data: bytes) -> None:
    """Publish `data` as the file `path`."""
    publish(path, lambda temporary: _write(temporary, data))


def publish_json(path: Path, value: object) -> None:
    """Publish `value` as indented JSON with sorted keys: equal values give equal bytes."""
    publish_bytes(path, (json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode(errors="backslashreplace"))


def read_json(path: Path) -> dict:
    """Read a JSON file that this program wrote. Raises IntegrityBroken when it is absent or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise IntegrityBroken(f"{path} is missing") from error
    except ValueError as error:
        raise IntegrityBroken(f"{path} is damaged: {error}") from error


def append_line(path: Path, line: str) -> None:
    """Add one line to a log. A log may be torn; nothing is ever rebuilt from it."""
    with path.open("a", encoding="utf-8") as log:
        log.write(line + "\n")


def sha256(path: Path) -> str:
    """Hash the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*values: object) -> str:
    """Hash JSON values into 12 hexadecimal digits: the name of what they determine."""
    return hashlib.sha256(json.dumps(values, ensure_ascii=False, sort_keys=True).encode(errors="backslashreplace")).hexdigest()[:12]


def seal(folder: Path, facts: dict, files: list[Path] | None = None) -> None:
    """Declare a folder finished: publish, last of all, some facts and the SHA-256 of its files (all of them by default)."""
    kept = [p for p in contents(folder) if p.name != SEAL] if files is None else files
    publish_json(folder / SEAL, {**facts, "files": {str(p.relative_to(folder)): sha256(p) for p in kept}})


def reseal(folder: Path, facts: dict) -> None:
    """Replace some facts of a finished folder."""
    before = read_json(folder / SEAL)
    if before | facts != before:
        publish_json(folder / SEAL, before | facts)


def sealed(folder: Path) -> dict | None:
    """Return the facts of a finished folder, or None when it is absent or unfinished."""
    return read_json(folder / SEAL) if (folder / SEAL).is_file() else None


def check_seal(folder: Path) -> dict:
    """Compare every sealed file with its hash and return the facts.

    Raises IntegrityBroken, naming up to ten files, when one is missing or differs.
    """
    facts = read_json(folder / SEAL)
    wrong = [n for n, h in facts["files"].items() if not (folder / n).is_file() or sha256(folder / n) != h]
    if wrong:
        raise IntegrityBroken(f"{folder} is damaged, {len(wrong)} files differ from what was written: {', '.join(wrong[:10])}")
    return facts


def contents(folder: Path) -> list[Path]:
    """List the regular files below a folder in a fixed order, temporaries and lock files left out."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.endswith((".tmp", ".lock")) and not p.name.startswith(".tmp"))


def sweep(folder: Path) -> None:
    """Remove temporaries that a killed process left. Call it while holding the folder's lock."""
    for pattern in (".*.tmp", ".tmp*"):  # ours, and those of safetensors, which makes one of its own beside ours
        for temporary in folder.rglob(pattern):
            if not temporary.is_dir():
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def hold(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder alone for the length of a block, and sweep it first.

    Raises FolderInUse at once, naming the holder; with `wait`, for work that another process does for us too, waits its turn
    instead. A killed holder holds nothing.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=-1 if wait else 0)
        lock.acquire()
    except Timeout as error:
        holder = (folder / ".holder.lock").read_text() if (folder / ".holder.lock").is_file() else ""
        raise FolderInUse(f"{folder} is in use by {holder or 'another process'}; wait for it to end") from error
    except OSError as error:
        raise _explained(error, folder / ".lock") or error
    try:
        _write(folder / ".holder.lock", f"process {os.getpid()}".encode())
        sweep(folder)
        yield
    finally:
        lock.release()


def _explained(error: BaseException, path: Path) -> WbdcError | None:
    """Say in our words why a file could not be written. Writers in Rust only mention the number: "(os error 28)"."""
    mentioned = re.search(r"\(os error (\d+)\)", str(error))
    number = int(mentioned[1]) if mentioned else getattr(error, "errno", None)
    if number in FULL:
        free = shutil.disk_usage(next(p for p in path.parents if p.is_dir())).free
        said = OutOfResources(f"{path} could not be written: {os.strerror(number)}, {free:,} bytes are free there; make room and run the command again")
    elif number in CLOSED:
        said = EnvironmentLacks(f"{path.parent} cannot be written to: {os.strerror(number)}; choose another folder with --work")
    else:
        return None
    said.__cause__ = error
    return said


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
