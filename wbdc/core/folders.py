"""Names of folders below the work folder, and a folder that is replaced by another in one step."""

import ctypes
import errno
import os
import shutil
from pathlib import Path

from wbdc.core.errors import UsageFault
from wbdc.core.files import leftovers, remove_leftovers

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def check_name(name: str, option: str) -> str:
    """Return a name if it is that of one visible folder, so that nothing lies outside. Raises UsageFault."""
    if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
        raise UsageFault(f"{option} {name!r} is not a name; give one without slashes that does not begin with a dot")
    return name


def replace_folder(new: Path, old: Path) -> None:
    """Put a finished folder in the place of another, which is removed.

    The two are exchanged in one step: a reader finds the old folder or the new one, also after a kill.
    Where the file system cannot do that, the old one first moves to `.NAME.PID.old.tmp`; after a kill in
    between, `recover_folder` moves it back.
    """
    if not old.exists():
        os.rename(new, old)
        return
    if _exchange(new, old):
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
    """Move a folder back that a killed process had moved aside, and remove what killed processes left beside it."""
    for left in leftovers(path):
        if left.name.endswith(".old.tmp") and not path.exists():
            os.rename(left, path)
    remove_leftovers(path)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    rename.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(other))
