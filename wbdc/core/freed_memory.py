"""Memory that a process has freed stays with it, so that a training does not ask for it again."""

import ctypes

# of mallopt in malloc.h of glibc
TRIM_THRESHOLD = -1
TOP_PAD = -2
MMAP_MAX = -4
NEVER = 2**31 - 1
PAD_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for later allocations; return whether it can.

    By default, glibc returns each large tensor to the system and asks for it again, and the system
    then clears every page: 3 to 8 % of a training step on a CPU. The bits are the same. The process
    holds what it once needed until it ends. Other C libraries have no such setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = {MMAP_MAX: 0, TRIM_THRESHOLD: NEVER, TOP_PAD: PAD_BYTES}
    are_set = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(are_set)
