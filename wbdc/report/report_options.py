"""Options of a report."""

from typing import NamedTuple

DEFAULT_MISTAKES = 200


class ReportOptions(NamedTuple):
    """draws: bootstrap samples of an interval; seed: of these samples; mistakes: how many the error
    browser shows; pictures: whether the page holds thumbnails of frames.
    """

    draws: int = 1000
    seed: int = 0
    mistakes: int = DEFAULT_MISTAKES
    pictures: bool = True
