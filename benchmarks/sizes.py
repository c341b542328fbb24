"""Sizes of benchmarks, by the environment variable WBDC_FULL."""

import os


def choose_size(smallest: int, usual: int, full: int) -> int:
    """Return the usual size, that of the contest with WBDC_FULL=1, or the smallest one with
    WBDC_FULL=0, with which the tests see that a benchmark runs.
    """
    return {"0": smallest, "1": full}.get(os.environ.get("WBDC_FULL", ""), usual)
