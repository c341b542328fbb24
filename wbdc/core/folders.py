"""Publishing folders in one step, checking their names, and removing what killed commands left."""

import contextlib
import ctypes
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from wbdc.core.errors import UsageFault, WbdcError
from wbdc.core.files import (
    LOCK_FILE,
    LOCK_HOLDER_FILE,
    is_leftover,
    list_leftovers,
    lock_folder,
    lock_output,
    remove_leftovers,
    remove_path,
    temporary_path,
)

AT_FDCWD = -100  # of Linux
RENAME_EXCHANGE = 2
RUN_FILE = "run.json"  # in the folder of a run, beside its folds
LOG_FILE = "train.log"  # in the folder of a fold
UNSUPPORTED_ERRNOS = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def check_name(name: str, option: str) -> str:
    """Return `name` if it can name one visible folder, without a path to another one.

    option: for the error message. Raises UsageFault.
    """
    if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
        raise UsageFault(
            f"{option} {name!r} is not a valid name; "
            "use a name without slashes that does not begin with a dot"
        )
    return name


@contextlib.contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill, and move it to `path` in one step when the block ends.

    When the block fails, the temporary folder is removed and `path` does not change. Temporary
    folders that killed processes left beside `path` are removed first.
    """
    recover_folder(path)
    temporary = temporary_path(path)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        replace_folder(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def replace_folder(new: Path, old: Path) -> None:
    """Replace the folder `old` by `new`.

    The two are exchanged in one step, so that a reader finds the old folder or the new one, also
    after a kill. Where the file system cannot exchange paths, the old folder first moves to
    `.NAME.PID.old.tmp`; after a kill in between, `recover_folder` moves it back.
    """
    if not old.exists():
        os.rename(new, old)
        return
    if _exchange_paths(new, old):
        shutil.rmtree(new, ignore_errors=True)
        return
    aside = old.parent / f".{old.name}.{os.getpid()}.old.tmp"
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except BaseException:
        os.rename(aside, old)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Move a folder back that a killed process had moved aside, and remove the temporaries of
    killed processes beside it.
    """
    for leftover in list_leftovers(path):
        if leftover.name.endswith(".old.tmp") and not path.exists():
            os.rename(leftover, path)
    remove_leftovers(path)


def sweep_work(work: Path) -> None:
    """Remove empty folders of runs, prepared data, ensembles and pseudo-labels, and temporary
    ensembles, that killed commands left.

    Folders with content and folders that another process has locked stay. Errors are ignored, for
    example when the work folder is read-only.
    """
    for folder in (*work.glob("runs/*/fold-*"), *work.glob("prepared/*"), *work.glob("pseudo/*")):
        if is_empty(folder):
            with contextlib.suppress(WbdcError, OSError), lock_folder(folder):
                remove_if_empty(folder)
    for run in work.glob("runs/*"):
        with contextlib.suppress(OSError):
            remove_empty_run(run)

    ensembles = {
        _ensemble_name(path)
        for path in work.glob("ensembles/*")
        if is_empty(path) or path.name.startswith(".")
    }
    for name in ensembles:
        path = work / "ensembles" / name
        with contextlib.suppress(WbdcError, OSError), lock_output(path):
            recover_folder(path)
            remove_if_empty(path)

    for name in ("runs", "prepared", "ensembles", "pseudo"):
        with contextlib.suppress(OSError):
            (work / name).rmdir()


def is_empty(folder: Path) -> bool:
    """Return whether a folder holds only folders, its lock, a log, and temporaries of ended
    processes.
    """
    if folder.is_symlink() or not folder.is_dir():
        return False
    locks = (folder / LOCK_FILE, folder / LOCK_HOLDER_FILE)
    try:
        return all(path in locks or _is_disposable(path) for path in folder.rglob("*"))
    except OSError:  # the folder cannot be read, or another process is removing it
        return False


def _is_disposable(path: Path) -> bool:
    """Return whether a path may be removed with its folder: a folder, a log or a temporary."""
    is_folder = path.is_dir() and not path.is_symlink()
    is_of_safetensors = path.name.startswith(".tmp")
    return is_folder or path.name == LOG_FILE or is_leftover(path) or is_of_safetensors


def remove_if_empty(folder: Path) -> None:
    """Remove a folder if `is_empty` is true for it. The caller must hold its lock."""
    if not is_empty(folder):
        return
    for path in folder.iterdir():
        if path.name != LOCK_FILE:
            remove_path(path)
    with contextlib.suppress(OSError):  # another process may lock it as soon as the lock is gone
        (folder / LOCK_FILE).unlink(missing_ok=True)
        folder.rmdir()


def remove_empty_run(run: Path) -> None:
    """Remove the folder of a run without folds.

    If another process starts a fold meanwhile, that process writes run.json again.
    """
    if all(path.name == RUN_FILE or is_leftover(path) for path in run.iterdir()):
        for path in run.iterdir():
            path.unlink()
        run.rmdir()


def _ensemble_name(path: Path) -> str:
    """Return the name of the ensemble to which a folder, a lock or a temporary belongs."""
    match = re.fullmatch(r"\.(.+?)(\.\d{1,10}(\.old)?\.tmp|\.lock)", path.name, re.DOTALL)
    return match[1] if match else path.name


def _exchange_paths(one: Path, other: Path) -> bool:
    """Exchange two paths in one step. Returns False where the system cannot do that."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    rename.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in UNSUPPORTED_ERRNOS:
        return False
    raise OSError(number, os.strerror(number), str(other))
