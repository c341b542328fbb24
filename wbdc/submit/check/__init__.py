"""Checks of a packed folder: integrity, differences, reproduction."""

from dataclasses import dataclass

MAX_SAMPLE_VIDEOS = 256  # test videos that are predicted for a comparison


@dataclass(frozen=True)
class SampleOptions:
    """Which random test videos are predicted for a comparison, and where.

    max_videos: all test videos when there are fewer. seed: draws the videos. threads: by default
    all that this process may use.
    """

    max_videos: int = MAX_SAMPLE_VIDEOS
    seed: int = 0
    device: str = "auto"
    threads: int | None = None


DEFAULT_SAMPLE = SampleOptions()
