"""Files that are either whole or absent: the only writer of the house, seals, hashes and locks."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from wbdc.core.errors import (
    EnvironmentLacks,
    FolderInUse,
    IntegrityBroken,
    OutOfResources,
    UsageFault,
    WbdcError,
)
from wbdc.core.json_shape import find_mismatch

SEAL_FILE = "DONE.json"
LOCK_FILE, LOCK_HOLDER_FILE = ".lock", ".holder.lock"  # of a folder that is held, and who holds it
LOCK_GRACE_SECONDS = 0.2  # a command that looks for empty folders holds one for an instant
LOCK_POLL_SECONDS = 0.01
DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
ACCESS_ERRNOS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENXIO,
)
RESOURCE_ERRNOS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)


def publish_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then put it in place of `path` in one step, with the mode
    that umask gives.

    A reader sees the old file or the new one, also after a crash or a power loss.
    Raises OutOfResources when the disk is full, EnvironmentLacks when the folder cannot be written.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors would leave it to its owner alone
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise explain_os_error(error, path) or error


def publish_bytes(path: Path, data: bytes) -> None:
    """Publish `data` as the file `path`."""
    publish_file(path, lambda temporary: _write_bytes(temporary, data))


def publish_json(path: Path, value: object) -> None:
    """Publish `value` as indented JSON with sorted keys: equal values give equal bytes."""
    publish_bytes(
        path,
        (json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode(
            errors="backslashreplace"
        ),
    )


def read_json(path: Path, shape: object = dict) -> dict:
    """Read a JSON file that this program wrote. shape: what it holds, as `find_mismatch` takes it.

    Raises IntegrityBroken when it is absent or damaged.
    """
    try:
        with open_regular(path) as file:
            value = json.loads(file.read().decode("utf-8"))
    except FileNotFoundError as error:
        raise IntegrityBroken(f"{path} is missing") from error
    except RecursionError as error:
        raise IntegrityBroken(f"{path} is damaged: too deeply nested") from error
    except ValueError as error:
        raise IntegrityBroken(f"{path} is damaged: {str(error)[:200]}") from error
    except OSError as error:
        raise IntegrityBroken(f"{path} cannot be read: {error.strerror}") from error
    if mismatch := find_mismatch(value, shape):
        raise IntegrityBroken(f"{path} is damaged: {mismatch}")
    return value


class NotRegularFile(OSError):
    """A pipe, a device or a socket in the place of a file."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; every reader opens files by this function.

    Raises NotRegularFile for a pipe or a device: opening it, or reading from it, might never end.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = os.fstat(handle).st_mode
    if not stat.S_ISREG(kind):
        os.close(handle)
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise NotRegularFile(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "rb")


def read_bytes(path: Path) -> bytes:
    """Read a regular file. Raises as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Read a regular file of text; line ends become LF. Raises as `open_regular` does."""
    with io.TextIOWrapper(open_regular(path), encoding, errors) as file:
        return file.read()


def append_line(path: Path, line: str) -> None:
    """Add one line to a log. A log may be torn; nothing is ever rebuilt from it."""
    with path.open("a", encoding="utf-8") as log:
        log.write(line + "\n")


def file_sha256(path: Path) -> str:
    """Hash the content of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(*values: object) -> str:
    """Hash JSON values into 12 hexadecimal digits: the name of what they determine."""
    return hashlib.sha256(
        json.dumps(values, ensure_ascii=False, sort_keys=True).encode(errors="backslashreplace")
    ).hexdigest()[:12]


def seal_folder(folder: Path, facts: dict, files: list[Path] | None = None) -> None:
    """Declare a folder finished: publish, last of all, some facts and the SHA-256 of its files (all
    of them by default).
    """
    kept = [p for p in list_files(folder) if p.name != SEAL_FILE] if files is None else files
    publish_json(
        folder / SEAL_FILE,
        {**facts, "files": {str(p.relative_to(folder)): file_sha256(p) for p in kept}},
    )


def update_seal(folder: Path, facts: dict) -> None:
    """Replace some facts of a finished folder."""
    before = read_seal(folder)
    if before | facts != before:
        publish_json(folder / SEAL_FILE, before | facts)


def add_to_seal(folder: Path, path: Path) -> None:
    """List one more file in a folder's seal; the first one makes the seal."""
    before = sealed_facts(folder) or {"files": {}}
    files = {**before["files"], str(path.relative_to(folder)): file_sha256(path)}
    publish_json(folder / SEAL_FILE, {**before, "files": files})


def read_seal(folder: Path, shape: dict | None = None) -> dict:
    """Return the facts of a finished folder. Raises IntegrityBroken when they are absent or do not
    fit `shape`.
    """
    return read_json(folder / SEAL_FILE, {"files": {str: str}, **(shape or {})})


def sealed_facts(folder: Path, shape: dict | None = None) -> dict | None:
    """Return the facts of a finished folder, or None when it is absent or unfinished. Raises as
    `read_seal` does.
    """
    return read_seal(folder, shape) if (folder / SEAL_FILE).is_file() else None


def list_files(folder: Path) -> list[Path]:
    """List the regular files below a folder in a fixed order, temporaries and lock files left out."""
    return sorted(
        p
        for p in folder.rglob("*")
        if p.is_file() and not p.name.endswith((".tmp", ".lock")) and not p.name.startswith(".tmp")
    )


def sweep_temporaries(folder: Path) -> None:
    """Remove temporaries that killed processes left. Call it while holding the folder's lock."""
    for temporary in [*folder.rglob(".*.tmp")]:
        if is_leftover(temporary):
            remove_path(temporary)
    for temporary in folder.rglob(
        ".tmp*"
    ):  # of safetensors, which makes one of its own beside ours
        if not temporary.is_dir():
            temporary.unlink(missing_ok=True)


def list_leftovers(path: Path) -> list[Path]:
    """List the temporaries of a file or folder, `.NAME.PID.tmp` beside it, whose process has ended."""
    return [
        p
        for p in sorted(path.parent.glob(f".{glob.escape(path.name)}.*.tmp"))
        if is_leftover(p, path.name)
    ]


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left beside a file or folder while they made it."""
    for temporary in list_leftovers(path):
        remove_path(temporary)


def is_leftover(temporary: Path, name: str | None = None) -> bool:
    """Tell whether a path is a temporary, of a file or folder called `name` if given, whose process
    has ended.
    """
    made = re.fullmatch(r"\.(.+?)\.(\d{1,10})(\.old)?\.tmp", temporary.name, re.DOTALL)
    return bool(made) and name in (None, made[1]) and not _is_process_alive(int(made[2]))


def _is_process_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def remove_path(path: Path) -> None:
    """Remove a file, a link or a folder with all that it holds, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock_folder(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder alone for the length of a block, and sweep it first.

    Raises FolderInUse almost at once, naming the holder; with `wait`, for work that another process
    does for us too, waits its turn
    instead. A killed holder holds nothing.
    """
    from filelock import FileLock, Timeout

    deadline = time.monotonic() + LOCK_GRACE_SECONDS
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / LOCK_FILE, timeout=-1 if wait else LOCK_GRACE_SECONDS)
            with lock:
                _write_bytes(folder / LOCK_HOLDER_FILE, f"process {os.getpid()}".encode())
                lock.acquire()  # once more: it stays locked when the block ends
            break
        except Timeout as error:
            holder = (
                read_text(folder / LOCK_HOLDER_FILE)
                if (folder / LOCK_HOLDER_FILE).is_file()
                else ""
            )
            raise FolderInUse(
                f"{folder} is in use by {holder or 'another process'}; wait for it to end"
            ) from error
        except OSError as error:
            if isinstance(error, FileNotFoundError) and time.monotonic() < deadline:
                continue  # another process removed the folder, which was empty
            raise explain_os_error(error, folder / LOCK_FILE) or error
    try:
        sweep_temporaries(folder)
        yield
    finally:
        lock.release()


def explain_os_error(error: BaseException, path: Path | None = None) -> WbdcError | None:
    """Explain in one sentence why the system refused a file or memory; None for errors of another
    kind.

    path: the file that was written; by default what the error names. Writers in Rust only mention
    the number: "(os error 28)".
    """
    mentioned = re.search(r"\(os error (\d+)\)", str(error))
    number = int(mentioned[1]) if mentioned else getattr(error, "errno", None)
    name = path or getattr(error, "filename", None) or "a file"
    if number in DISK_ERRNOS:
        places = (place for place in Path(name).absolute().parents if place.is_dir())
        why = (
            f"{os.strerror(number)}, {shutil.disk_usage(next(places)).free:,} bytes are free there"
        )
        explained = OutOfResources(
            f"{name} could not be written: {why}; make room and run the command again"
        )
    elif number in ACCESS_ERRNOS:
        explained = EnvironmentLacks(
            f"{name} cannot be {'written' if path else 'used'}: {os.strerror(number)}; choose another place"
        )
    elif isinstance(error, NotRegularFile):
        explained = IntegrityBroken(f"{name} is not a regular file; put the file in its place")
    elif number in RESOURCE_ERRNOS:
        explained = OutOfResources(
            f"{name} could not be opened or made: {os.strerror(number)}; run fewer processes or raise the limit"
        )
    else:
        return None
    explained.__cause__ = error
    return explained


def check_output(path: Path) -> None:
    """Refuse an output file that could not be written, before any work is done for it.

    Raises UsageFault for a folder or a device, EnvironmentLacks for a place where nothing can be
    written.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        kind = stat.S_IFREG
    except OSError as error:
        raise explain_os_error(error, path) or error
    if kind != stat.S_IFREG:
        raise UsageFault(
            f"{path} is {'a folder' if kind == stat.S_IFDIR else 'no regular file'}; name a file to write"
        )
    check_writable(path.parent, temporary_path(path).name)


def check_writable(folder: Path, name: str = "") -> None:
    """Refuse a folder in which no file called `name` could be made, before any work is done for it.
    Raises EnvironmentLacks.
    """
    try:
        below, place = name, folder.absolute()
        while not os.path.lexists(place):
            below, place = place.name, place.parent
        with contextlib.suppress(FileNotFoundError):
            (place / below).lstat()  # too long a name?
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise explain_os_error(error, folder) or EnvironmentLacks(
            f"{folder} cannot be written: {why}; choose another place"
        ) from error


def check_input(folder: Path) -> None:
    """Refuse a data folder that is not there, before any work is done. Raises UsageFault."""
    if not os.path.isdir(folder):
        raise UsageFault(f"{folder} is not a folder; give the folder of the data with --data")


@contextlib.contextmanager
def lock_output(path: Path) -> Iterator[None]:
    """Hold the name of an output alone for the length of a block, by a hidden file beside it that
    goes when the block ends.

    Raises FolderInUse almost at once, naming the holder. A killed holder holds nothing. Where the
    file system has no locks,
    nobody is kept out.
    """
    lock = path.parent / f".{path.name}.lock"
    try:
        handle = _lock_file(lock)
    except BlockingIOError as error:
        holder = error.filename or "another process"
        raise FolderInUse(
            f"{path} is being made by {holder}; wait for it to end, or choose another name"
        ) from error
    except OSError as error:
        raise explain_os_error(error, path) or error
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()}".encode())
        yield
    finally:
        lock.unlink(
            missing_ok=True
        )  # while it is still locked: whoever waits for it sees that it is gone
        os.close(handle)


def _lock_file(path: Path) -> int:
    """Lock a file and return its handle. Raises BlockingIOError with the holder's name in place of
    the file's.
    """
    deadline = time.monotonic() + LOCK_GRACE_SECONDS
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666)
        except FileNotFoundError:  # another process removed the folder, which was empty
            if time.monotonic() < deadline:
                continue
            raise
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 100, 0).decode(errors="replace")
            os.close(handle)
            if time.monotonic() < deadline:
                time.sleep(LOCK_POLL_SECONDS)
                continue
            raise BlockingIOError(error.errno, error.strerror, holder) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                os.close(handle)
                raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)  # its holder removed it in the meantime


def temporary_path(path: Path) -> Path:
    """Name this process's temporary of a file or folder, beside it."""
    return path.parent / f".{path.name}.{os.getpid()}.tmp"


def _write_bytes(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
