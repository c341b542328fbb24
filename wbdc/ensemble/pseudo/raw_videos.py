"""The videos of the raw data by their ids, one split at a time."""

from collections.abc import Sequence
from pathlib import Path

from wbdc.competitions import Video
from wbdc.core.errors import DataFault
from wbdc.core.findings import Findings
from wbdc.prepare.dataset import PreparedData


class RawVideos:
    """Finds videos in the raw data that were prepared. data: their folder."""

    def __init__(self, prepared: PreparedData, data: Path):
        self.contest = prepared.contest
        self.data = data
        self.split = ""
        self.videos: dict[str, Video] = {}

    def find(self, split: str, ids: Sequence[str]) -> list[Video]:
        """Return videos of a split in the order of `ids`. Raises DataFault for a missing one."""
        if split != self.split:
            videos = self.contest.videos(self.data, split, Findings())
            self.videos = {video.id: video for video in videos}
            self.split = split
        if missing := [name for name in ids if name not in self.videos]:
            raise DataFault(
                f"{self.data} lacks {len(missing)} videos of the prepared split {split}, first "
                f"{missing[0]}; give the data that were prepared with --data"
            )
        return [self.videos[name] for name in ids]
