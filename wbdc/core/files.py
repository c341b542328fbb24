"""Publishing, reading, sealing and locking files.

All files that wbdc writes are published by this module: they are complete or absent.
"""

import contextlib
import errno
import fcntl
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
    EnvironmentFault,
    FolderInUse,
    IntegrityFault,
    OutOfResources,
    UsageFault,
    WbdcError,
)
from wbdc.core.json_shape import find_mismatch

SEAL_FILE = "DONE.json"
LOCK_FILE = ".lock"
LOCK_HOLDER_FILE = ".holder.lock"  # contains the name of the process that holds the lock
LOCK_GRACE_SECONDS = 0.2  # a command that removes empty folders locks each of them briefly
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
    """Let `write` fill a temporary file, then move it to `path` in one atomic step.

    A reader finds the old file or the new one, also after a crash or a power loss. The file gets
    the mode that umask gives. Raises OutOfResources when the disk is full, EnvironmentFault when
    the folder cannot be written.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        temporary.touch()
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors gives access to the owner only
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if explained := explain_os_error(error, path):
            raise explained from error
        raise


def publish_bytes(path: Path, data: bytes) -> None:
    """Publish `data` as the file `path`."""
    publish_file(path, lambda temporary: _write_bytes(temporary, data))


def publish_json(path: Path, value: object) -> None:
    """Publish `value` as indented JSON with sorted keys: equal values give equal bytes."""
    text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    publish_bytes(path, text.encode(errors="backslashreplace"))


def read_json(path: Path, shape: object = dict) -> dict:
    """Read a JSON file that wbdc wrote.

    shape: of the content, as `find_mismatch` takes it. Raises IntegrityFault when the file is
    missing or damaged.
    """
    try:
        with open_regular(path) as file:
            value = json.loads(file.read().decode("utf-8"))
    except FileNotFoundError as error:
        raise IntegrityFault(f"{path} is missing") from error
    except RecursionError as error:
        raise IntegrityFault(f"{path} is damaged: too deeply nested") from error
    except ValueError as error:
        raise IntegrityFault(f"{path} is damaged: {str(error)[:200]}") from error
    except OSError as error:
        raise IntegrityFault(f"{path} cannot be read: {error.strerror}") from error
    if mismatch := find_mismatch(value, shape):
        raise IntegrityFault(f"{path} is damaged: {mismatch}")
    return value


class NotRegularFile(OSError):
    """A path is a pipe, a device or a socket, and not a file."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. All readers of wbdc use this function.

    Raises NotRegularFile for a pipe or a device: opening or reading it might never return.
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
    """Read a regular text file; line ends become LF. Raises as `open_regular` does."""
    with io.TextIOWrapper(open_regular(path), encoding, errors) as file:
        return file.read()


def append_line(path: Path, line: str) -> None:
    """Append one line to a log. A kill may cut the line, so nothing may depend on a log."""
    with path.open("a", encoding="utf-8") as log:
        log.write(line + "\n")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(*values: object) -> str:
    """Hash JSON values to 12 hexadecimal digits, which identify what the values determine."""
    text = json.dumps(values, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:12]


def seal_folder(folder: Path, facts: dict, files: list[Path] | None = None) -> None:
    """Mark a folder as finished: publish its seal, with `facts` and the SHA-256 of its files.

    files: None for all files of the folder. The seal must be the last file that is written.
    """
    if files is None:
        files = [path for path in list_files(folder) if path.name != SEAL_FILE]
    hashes = {str(path.relative_to(folder)): file_sha256(path) for path in files}
    publish_json(folder / SEAL_FILE, {**facts, "files": hashes})


def update_seal(folder: Path, facts: dict) -> None:
    """Replace some facts of a finished folder."""
    before = read_seal(folder)
    if before | facts != before:
        publish_json(folder / SEAL_FILE, before | facts)


def add_to_seal(folder: Path, path: Path) -> None:
    """Add a file to the seal of a folder; the first file creates the seal."""
    before = sealed_facts(folder) or {"files": {}}
    files = {**before["files"], str(path.relative_to(folder)): file_sha256(path)}
    publish_json(folder / SEAL_FILE, {**before, "files": files})


def read_seal(folder: Path, shape: dict | None = None) -> dict:
    """Return the facts of a finished folder.

    Raises IntegrityFault when they are missing or do not fit `shape`.
    """
    return read_json(folder / SEAL_FILE, {"files": {str: str}, **(shape or {})})


def sealed_facts(folder: Path, shape: dict | None = None) -> dict | None:
    """Return the facts of a finished folder; None when it is missing or unfinished.

    Raises as `read_seal` does.
    """
    return read_seal(folder, shape) if (folder / SEAL_FILE).is_file() else None


def list_files(folder: Path) -> list[Path]:
    """List the regular files below a folder, sorted, without temporaries and lock files."""
    return sorted(
        p
        for p in folder.rglob("*")
        if p.is_file() and not p.name.endswith((".tmp", ".lock")) and not p.name.startswith(".tmp")
    )


def folder_bytes(folder: Path) -> int:
    """Return the total size of the files below a folder."""
    files = (path for path in folder.rglob("*") if not path.is_symlink())
    return sum(path.stat().st_size for path in files if path.is_file())


def sweep_temporaries(folder: Path) -> None:
    """Remove the temporaries of killed processes. The caller must hold the lock of the folder."""
    for temporary in [*folder.rglob(".*.tmp")]:
        if is_leftover(temporary):
            remove_path(temporary)
    for temporary in folder.rglob(".tmp*"):  # temporaries of safetensors
        if not temporary.is_dir():
            temporary.unlink(missing_ok=True)


def list_leftovers(path: Path) -> list[Path]:
    """List the temporaries `.NAME.PID.tmp` of a file or folder whose process has ended."""
    try:
        names = os.listdir(path.parent)
    except OSError:  # there is no such folder, or it cannot be read
        return []
    start = f".{path.name}."  # compared first, since every published file lists its folder
    candidates = [path.parent / name for name in sorted(names) if name.startswith(start)]
    return [candidate for candidate in candidates if is_leftover(candidate, path.name)]


def remove_leftovers(path: Path) -> None:
    """Remove the temporaries of a file or folder that killed processes left beside it."""
    for temporary in list_leftovers(path):
        remove_path(temporary)


def is_leftover(temporary: Path, name: str | None = None) -> bool:
    """Return whether a path is a temporary whose process has ended.

    name: of the file or folder that the temporary was made for; None for any.
    """
    match = re.fullmatch(r"\.(.+?)\.(\d{1,10})(\.old)?\.tmp", temporary.name, re.DOTALL)
    return bool(match) and name in (None, match[1]) and not is_process_alive(int(match[2]))


def is_process_alive(process: int) -> bool:
    """Return whether a process of this machine runs, also one of another user."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # a process of another user
        return True
    return True


def remove_path(path: Path) -> None:
    """Remove a file, a link, or a folder with its content, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock_folder(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock a folder for the duration of a block, and remove old temporaries from it first.

    wait: whether to wait for another holder. Otherwise FolderInUse is raised almost at once; it
    names the holder. The lock of a killed process is released by the system.
    """
    from filelock import FileLock, Timeout

    deadline = time.monotonic() + LOCK_GRACE_SECONDS
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / LOCK_FILE, timeout=-1 if wait else LOCK_GRACE_SECONDS)
            with lock:
                _write_bytes(folder / LOCK_HOLDER_FILE, f"process {os.getpid()}".encode())
                lock.acquire()  # a second time, so that it stays locked after the block
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
                continue  # another process has removed the empty folder
            if explained := explain_os_error(error, folder / LOCK_FILE):
                raise explained from error
            raise
    try:
        sweep_temporaries(folder)
        yield
    finally:
        lock.release()


def explain_os_error(error: BaseException, path: Path | None = None) -> WbdcError | None:
    """Explain an error of the operating system about a file or memory; None for other errors.

    path: the file that was written; None: the file that the error names. Writers in Rust only state
    the number, as in "(os error 28)".
    """
    mentioned = re.search(r"\(os error (\d+)\)", str(error))
    number = int(mentioned[1]) if mentioned else getattr(error, "errno", None)
    name = path or getattr(error, "filename", None) or "a file"
    if number in DISK_ERRNOS:
        folder = next(parent for parent in Path(name).absolute().parents if parent.is_dir())
        free_bytes = shutil.disk_usage(folder).free
        explained = OutOfResources(
            f"{name} could not be written: {os.strerror(number)}, {free_bytes:,} bytes are free; "
            "free some space and run the command again"
        )
    elif number in ACCESS_ERRNOS:
        explained = EnvironmentFault(
            f"{name} cannot be {'written' if path else 'used'}: {os.strerror(number)}; "
            "choose another path"
        )
    elif isinstance(error, NotRegularFile):
        explained = IntegrityFault(f"{name} is not a regular file; replace it with a file")
    elif number in RESOURCE_ERRNOS:
        explained = OutOfResources(
            f"{name} could not be opened or created: {os.strerror(number)}; "
            "run fewer processes or raise the limit"
        )
    else:
        return None
    explained.__cause__ = error
    return explained


def check_output(path: Path) -> None:
    """Check that an output file can be written, before any work is done for it.

    Raises UsageFault for a folder or a device, EnvironmentFault for a folder that cannot be
    written.
    """
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        kind = stat.S_IFREG
    except OSError as error:
        if explained := explain_os_error(error, path):
            raise explained from error
        raise
    if kind != stat.S_IFREG:
        kind_name = "a folder" if kind == stat.S_IFDIR else "not a regular file"
        raise UsageFault(f"{path} is {kind_name}; name a file to write")
    check_writable(path.parent, temporary_path(path).name)


def check_writable(folder: Path, name: str = "") -> None:
    """Check that a file called `name` can be created in a folder, before any work is done for it.

    The folder may not exist yet. Raises EnvironmentFault.
    """
    try:
        child = name
        parent = folder.absolute()
        while not os.path.lexists(parent):
            child = parent.name
            parent = parent.parent

        with contextlib.suppress(FileNotFoundError):
            (parent / child).lstat()  # raises when the name is too long
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise explain_os_error(error, folder) or EnvironmentFault(
            f"{folder} cannot be written: {reason}; choose another path"
        ) from error


def check_input(folder: Path) -> None:
    """Check that a data folder exists, before any work is done. Raises UsageFault."""
    if not os.path.isdir(folder):
        raise UsageFault(f"{folder} is not a folder; give the folder of the data with --data")


@contextlib.contextmanager
def lock_output(path: Path) -> Iterator[None]:
    """Lock the path of an output for the duration of a block.

    The lock is a hidden file beside the output, which is removed when the block ends. Raises
    FolderInUse almost at once when another process holds it; the error names the process. The lock
    of a killed process is released by the system. Without support for locks in the file system,
    the block runs without one.
    """
    lock = path.parent / f".{path.name}.lock"
    try:
        handle = _lock_file(lock)
    except BlockingIOError as error:
        holder = error.filename or "another process"
        raise FolderInUse(
            f"{path} is being written by {holder}; wait for it to end, or choose another name"
        ) from error
    except OSError as error:
        if explained := explain_os_error(error, path):
            raise explained from error
        raise
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()}".encode())
        yield
    finally:
        # removed while it is locked, so that a waiting process notices
        lock.unlink(missing_ok=True)
        os.close(handle)


def _lock_file(path: Path) -> int:
    """Lock a file and return its handle.

    Raises BlockingIOError, whose `filename` is the name of the process that holds the lock.
    """
    deadline = time.monotonic() + LOCK_GRACE_SECONDS
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666)
        except FileNotFoundError:  # another process has removed the empty folder
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
        os.close(handle)  # its holder has removed it in the meantime


def temporary_path(path: Path) -> Path:
    """Return the path of this process's temporary for a file or folder, beside it."""
    return path.parent / f".{path.name}.{os.getpid()}.tmp"


def _write_bytes(path: Path, data: bytes) -> None:
    """Write a file, not atomically."""
    with path.open("wb") as file:
        file.write(data)


def _fsync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
