"""Names of folders below the work folder, folders that are published in one step, and those that
killed commands left.
"""

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

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux
RUN_FILE = "run.json"  # what a run holds besides its folds
UNSUPPORTED_ERRNOS = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def check_name(name: str, option: str) -> str:
    """Return a name if it is that of one visible folder, so that nothing lies outside. Raises
    UsageFault.
    """
    if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
        raise UsageFault(
            f"{option} {name!r} is not a name; give one without slashes that does not begin with a dot"
        )
    return name


@contextlib.contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, to be filled, and put it in place of `path` in one
    step when the block ends.

    When the block fails, the temporary folder is removed and `path` stays as it was. What killed
    processes left
    of `path` is removed first.
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
    """Put a finished folder in the place of another, which is removed.

    The two are exchanged in one step: a reader finds the old folder or the new one, also after a
    kill.
    Where the file system cannot do that, the old one first moves to `.NAME.PID.old.tmp`; after a
    kill in
    between, `recover_folder` moves it back.
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
    """Move a folder back that a killed process had moved aside, and remove what killed processes
    left beside it.
    """
    for left in list_leftovers(path):
        if left.name.endswith(".old.tmp") and not path.exists():
            os.rename(left, path)
    remove_leftovers(path)


def sweep_work(work: Path) -> None:
    """Remove the empty folders of runs, prepared data and ensembles that killed commands left, and
    temporary ensembles.

    A folder that holds anything else stays, and so does one that another process holds. What cannot
    be removed,
    for example because the work folder is read-only, is left.
    """
    for folder in (*work.glob("runs/*/fold-*"), *work.glob("prepared/*")):
        if is_empty(folder):
            with contextlib.suppress(WbdcError, OSError), lock_folder(folder):
                remove_if_empty(folder)
    for run in work.glob("runs/*"):
        with contextlib.suppress(OSError):
            remove_empty_run(run)
    for name in {
        _ensemble_name(path)
        for path in work.glob("ensembles/*")
        if is_empty(path) or path.name.startswith(".")
    }:
        path = work / "ensembles" / name
        with contextlib.suppress(WbdcError, OSError), lock_output(path):
            recover_folder(path)
            remove_if_empty(path)
    for name in ("runs", "prepared", "ensembles"):
        with contextlib.suppress(OSError):
            (work / name).rmdir()


def is_empty(folder: Path) -> bool:
    """Tell whether a folder holds nothing but folders, its own lock, and temporaries of ended
    processes.
    """
    if folder.is_symlink() or not folder.is_dir():
        return False
    locks = (folder / LOCK_FILE, folder / LOCK_HOLDER_FILE)
    try:
        return all(path in locks or _is_disposable(path) for path in folder.rglob("*"))
    except OSError:  # it cannot be read, or another process removes it
        return False


def _is_disposable(path: Path) -> bool:
    is_folder = path.is_dir() and not path.is_symlink()
    return (
        is_folder or is_leftover(path) or path.name.startswith(".tmp")
    )  # of safetensors, as in `sweep`


def remove_if_empty(folder: Path) -> None:
    """Remove a folder that holds nothing, as `is_empty` tells. Call it while holding the folder."""
    if not is_empty(folder):
        return
    for path in folder.iterdir():
        if path.name != LOCK_FILE:
            remove_path(path)
    with contextlib.suppress(OSError):  # another process holds it as soon as the lock is gone
        (folder / LOCK_FILE).unlink(missing_ok=True)
        folder.rmdir()


def remove_empty_run(run: Path) -> None:
    """Remove the folder of a run without any fold. A fold that another process begins meanwhile
    writes run.json again.
    """
    if all(path.name == RUN_FILE or is_leftover(path) for path in run.iterdir()):
        for path in run.iterdir():
            path.unlink()
        run.rmdir()


def _ensemble_name(path: Path) -> str:
    """Return the name of the ensemble that a folder, a lock or a temporary belongs to."""
    hidden = re.fullmatch(r"\.(.+?)(\.\d{1,10}(\.old)?\.tmp|\.lock)", path.name, re.DOTALL)
    return hidden[1] if hidden else path.name


def _exchange_paths(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False where the system or the file system cannot."""
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
