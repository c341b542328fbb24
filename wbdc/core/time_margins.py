"""Margins that are added to measured seconds before they are compared with a time limit.

The time check (`wbdc submit --check-latency`) and the budget search (`wbdc ensemble --limit`) use
the same constants, so that an ensemble chosen by the one can pass the other.
"""

TIME_MARGIN = 0.10  # share; at least 512 timed videos, the full run, and the budget search
SMALL_SAMPLE_TIME_MARGIN = 0.25  # share; 64 to 511 timed videos
TINY_SAMPLE_SPREAD = 0.5  # share of the mean, up and down; fewer videos: replaces the interval
