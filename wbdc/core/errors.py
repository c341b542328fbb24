"""Errors that a user can act on: one sentence each (what, where, what next), and an exit code."""

from difflib import get_close_matches

MAX_LISTED_NAMES = 20  # names in a hint
MIN_NAME_SIMILARITY = (
    0.65  # similarity of a name that is worth suggesting: two letters swapped, not another word
)


class WbdcError(Exception):
    """A failure that is not a bug. Its text is one sentence; `code` is the process's exit code."""

    code = 1


class UsageFault(WbdcError):
    """The command, a kit or a setting asks for something that does not exist."""

    code = 2


class DataInvalid(WbdcError):
    """The competition's data breaks its own rules."""

    code = 3


class IntegrityBroken(WbdcError):
    """A file of ours is not what was written, or belongs to something else."""

    code = 4


class OverBudget(WbdcError):
    """The submission would need more time or memory than the judge gives."""

    code = 5


class Inconclusive(WbdcError):
    """The measurement cannot decide between within and over the limit."""

    code = 6


class EnvironmentLacks(WbdcError):
    """The machine lacks a device, weights, a library or a permission."""

    code = 7


class FolderInUse(WbdcError):
    """Another process holds the folder."""

    code = 8


class OutOfResources(WbdcError):
    """Disk or memory ran out."""

    code = 9


class Diverged(WbdcError):
    """Training met numbers that are not finite, again and again."""

    code = 10


class Stopped(WbdcError):
    """The user stopped the work; the same command goes on where it ended."""

    code = 11


class ResultInvalid(WbdcError):
    """The result file would be rejected, or worse, accepted with wrong rows."""

    code = 12


def suggest_name(name: str, allowed: list[str]) -> str:
    """End a sentence about an unknown name: the nearest known one, or the first of them all."""
    close = get_close_matches(name, allowed, 1, MIN_NAME_SIMILARITY)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not allowed:
        return "; there are none"
    more = (
        f", and {len(allowed) - MAX_LISTED_NAMES} more" if len(allowed) > MAX_LISTED_NAMES else ""
    )
    return f"; it may be one of: {', '.join(allowed[:MAX_LISTED_NAMES])}{more}"
