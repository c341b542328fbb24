"""A survey: what all videos tell while they are read, in bounded memory: statistics, shift, and
which of them are (nearly) the same.
"""

from collections.abc import Callable, Sequence

import numpy as np

from wbdc.competitions import Video
from wbdc.core.findings import Findings
from wbdc.prepare.check import CheckedSplit
from wbdc.prepare.describe import duplicates
from wbdc.prepare.describe.distribution_shift import distribution_shifts
from wbdc.prepare.describe.statistics import SplitStatistics

TOLD = 5  # members of a group that are named

Progress = Callable[[str, int, int], None]


class Survey:
    """Fed with the frames and the texts of every video, split by split in order; rows are counted
    over all splits.
    """

    def __init__(self, splits: dict[str, CheckedSplit], fields: Sequence[str]):
        """splits: as the check found them. fields: names of the text fields."""
        self.ids = [name for split in splits.values() for name in split.ids]
        self.labels = [label for split in splits.values() for label in split.labels]
        self.rows: dict[str, range] = {}
        for name, split in splits.items():
            start = sum(map(len, self.rows.values()))
            self.rows[name] = range(start, start + len(split.ids))
        self.fields, self.tallies = tuple(fields), {name: SplitStatistics() for name in splits}
        self.presence = np.zeros(
            len(self.ids), np.uint8
        )  # a bit for each text field, and one for frames
        self.frames = np.zeros(len(self.ids), np.int32)  # that can be used
        self.signatures = np.tile(duplicates.text_signature(""), (len(self.ids), 1))
        self.hashes: list[np.ndarray] = []
        self.owners: list[np.ndarray] = []

    def see(
        self,
        split: str,
        start: int,
        counts: Sequence[int],
        measures: Sequence[np.ndarray],
        hashes: Sequence[np.ndarray],
    ) -> None:
        """Take a shard of frames. counts: usable frames per video; measures, hashes: per video
        (frames, 5) and (frames,), none for ready features.
        """
        row = self.rows[split].start + start
        self.frames[row : row + len(counts)] = counts
        self.presence[row : row + len(counts)] |= (np.asarray(counts) > 0).astype(np.uint8) << len(
            self.fields
        )
        self.tallies[split].add_frames(counts, measures)
        if hashes:
            self.hashes.append(np.concatenate(hashes))
            self.owners.append(
                np.repeat(
                    np.arange(row, row + len(hashes), dtype=np.int32), [len(h) for h in hashes]
                )
            )

    def read(self, split: str, at: int, video: Video) -> None:
        """Take the text of the video in place `at` of a split."""
        row = self.rows[split].start + at
        self.tallies[split].add(video.fields, video.label)
        self.signatures[row] = duplicates.text_signature(" ".join(video.fields.values()))
        for bit, field in enumerate(self.fields):
            self.presence[row] |= bool(video.fields[field]) << bit

    def groups(self, labelled: str, test: str, found: Findings, progress: Progress) -> np.ndarray:
        """Find what is (nearly) the same: the group of each row, named by its first row. Counts
        duplicates, conflicts and overlap in `found`.
        """
        hashes, owners = (
            np.concatenate(parts) if parts else np.zeros(0, kind)
            for parts, kind in ((self.hashes, np.int64), (self.owners, np.int32))
        )
        pairs = {
            "frames": duplicates.similar_frames(hashes, owners, progress=progress),
            "text": duplicates.similar_texts(self.signatures),
        }
        for kind, found_pairs in pairs.items():
            for a, b in found_pairs.tolist():
                found.add(f"duplicate.{kind}", f"{self.ids[a]} ~ {self.ids[b]}")
        group = duplicates.duplicate_groups(len(self.ids), np.concatenate(list(pairs.values())))
        self._overlap(group, labelled, test, found)
        rows = self.rows[labelled]
        for same, labels in duplicates.label_conflicts(
            group[rows.start : rows.stop], self.labels[rows.start : rows.stop]
        ):
            told = ", ".join(
                f"{self.ids[rows.start + row]} is {label}"
                for row, label in list(zip(same, labels))[:TOLD]
            )
            found.add(
                "duplicate.conflict",
                f"{len(same)} alike: {told}{', …' if len(same) > TOLD else ''}",
            )
        return group

    def _overlap(self, group: np.ndarray, labelled: str, test: str, found: Findings) -> None:
        """Count videos of the test split that repeat a labelled one: reported, never used."""
        if test not in self.rows:
            return
        own, known = (
            self.rows[test],
            set(group[self.rows[labelled].start : self.rows[labelled].stop].tolist()),
        )
        for row in own:
            if group[row] in known:
                found.add("duplicate.test", f"{self.ids[row]} ~ {self.ids[group[row]]}")

    def statistics(self) -> dict[str, dict]:
        """Describe every split."""
        return {split: tally.report() for split, tally in self.tallies.items()}

    def shifted(self, labelled: str, test: str, found: Findings) -> list[dict]:
        """Compare the labelled with the test split, statistic by statistic; what differs notably is
        counted in `found`.
        """
        if test not in self.tallies:
            return []
        moved = distribution_shifts(self.tallies[labelled].numbers(), self.tallies[test].numbers())
        for one in moved:
            if one.notable:
                found.add("shift", f"{one.statistic}: {one.train_mean:.4g} → {one.test_mean:.4g}")
        return [one._asdict() for one in moved]
