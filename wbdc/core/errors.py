"""Errors that a user can act on.

The text of each is one sentence: what happened, why, and what to do next. Each class has an exit
code.
"""

from difflib import get_close_matches

MAX_LISTED_NAMES = 20
MIN_NAME_SIMILARITY = 0.65  # accepts two swapped letters, rejects other words


class WbdcError(Exception):
    """A failure that is not a bug in wbdc. `code` is the exit code of the process.

    is_echo: whether another rank of the same training reports it.
    """

    code = 1
    is_echo = False


class UsageFault(WbdcError):
    """A command, a kit or a setting is wrong, or names something that does not exist."""

    code = 2


class DataFault(WbdcError):
    """The data of the competition are invalid."""

    code = 3


class IntegrityFault(WbdcError):
    """A file that wbdc wrote is missing, damaged, or does not belong to this run or package."""

    code = 4


class OverBudget(WbdcError):
    """The submission would exceed the time or memory limit of the competition."""

    code = 5


class Inconclusive(WbdcError):
    """The measurement is too uncertain to tell whether the submission meets the limit."""

    code = 6


class EnvironmentFault(WbdcError):
    """A required device, model file, package or permission is missing on this machine."""

    code = 7


class FolderInUse(WbdcError):
    """Another process uses the folder."""

    code = 8


class OutOfResources(WbdcError):
    """The disk is full, or the memory is exhausted."""

    code = 9


class Diverged(WbdcError):
    """Training diverged: losses or gradients were not finite in several steps."""

    code = 10


class Stopped(WbdcError):
    """The user stopped the command. Running it again resumes the work."""

    code = 11


class ResultFault(WbdcError):
    """The result file has an invalid format, or wrong or missing rows."""

    code = 12


def error_class(code: int) -> type[WbdcError]:
    """Return the class of errors with an exit code; WbdcError, a bug, for any other code."""
    return next((kind for kind in WbdcError.__subclasses__() if kind.code == code), WbdcError)


def suggest_name(name: str, allowed: list[str]) -> str:
    """Return the end of a sentence about an unknown name: the most similar allowed name, or a list
    of the allowed names.
    """
    close = get_close_matches(name, allowed, 1, MIN_NAME_SIMILARITY)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not allowed:
        return "; there are none"

    hidden = len(allowed) - MAX_LISTED_NAMES
    more = f", and {hidden} more" if hidden > 0 else ""
    return f"; it may be one of: {', '.join(allowed[:MAX_LISTED_NAMES])}{more}"
