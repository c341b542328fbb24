"""A survey of all videos in bounded memory: statistics, distribution shift and near-duplicates."""

from collections.abc import Sequence

import numpy as np

from wbdc.competitions import Video
from wbdc.core.findings import Findings
from wbdc.core.progress import ProgressCallback
from wbdc.prepare.check import CheckedSplit
from wbdc.prepare.describe import duplicates
from wbdc.prepare.describe.distribution_shift import distribution_shifts
from wbdc.prepare.describe.group_leaks import (
    MAX_GRAM_CHARACTERS,
    GroupLeak,
    frame_vectors,
    group_leak,
    sample_groups,
    text_vectors,
)
from wbdc.prepare.describe.statistics import SplitStatistics

MAX_NAMED_VIDEOS = 5  # of a group of near-duplicates with different classes


class Survey:
    """Collects the frames and the texts of every video, split by split in order.

    A row is the position of a video among the videos of all splits.
    """

    def __init__(
        self,
        splits: dict[str, CheckedSplit],
        fields: Sequence[str],
        modalities: Sequence[str] = (),
    ):
        """splits: from `check_data`; fields: names of the text fields; modalities: names of those
        beside text and frames.
        """
        self.ids = [video_id for split in splits.values() for video_id in split.ids]
        self.labels = [label for split in splits.values() for label in split.labels]
        self.rows: dict[str, range] = {}
        for name, split in splits.items():
            start = sum(map(len, self.rows.values()))
            self.rows[name] = range(start, start + len(split.ids))

        self.fields = tuple(fields)
        self.split_statistics = {name: SplitStatistics() for name in splits}
        # bit i: text field i is not empty; the bit after the fields: the video has frames
        self.modalities = np.zeros(len(self.ids), np.uint8)
        self.frame_counts = np.zeros(len(self.ids), np.int32)  # usable frames
        # stored rows of each further modality
        self.modality_counts = {name: np.zeros(len(self.ids), np.int32) for name in modalities}
        self.text_signatures = np.tile(duplicates.text_signature(""), (len(self.ids), 1))
        self.texts: dict[int, str] = {}  # the beginning of each text, by row
        self.frame_hashes: list[np.ndarray] = []
        self.frame_rows: list[np.ndarray] = []

    def add_frames(
        self,
        split: str,
        start: int,
        counts: Sequence[int],
        measures: Sequence[np.ndarray],
        hashes: Sequence[np.ndarray],
    ) -> None:
        """Add a shard of frames, which begins with video `start` of a split.

        counts: usable frames of each video; measures: (frames, 5) of each video; hashes: (frames,)
        of each video. For features, measures and hashes are empty.
        """
        row = self.rows[split].start + start
        has_frames = (np.asarray(counts) > 0).astype(np.uint8)
        self.frame_counts[row : row + len(counts)] = counts
        self.modalities[row : row + len(counts)] |= has_frames << len(self.fields)
        self.split_statistics[split].add_frames(counts, measures)
        if hashes:
            rows = np.arange(row, row + len(hashes), dtype=np.int32)
            self.frame_hashes.append(np.concatenate(hashes))
            self.frame_rows.append(np.repeat(rows, [len(h) for h in hashes]))

    def add_modality(self, split: str, start: int, name: str, counts: Sequence[int]) -> None:
        """Add the rows of a further modality of a shard, which begins with video `start` of a
        split. counts: of each video.
        """
        row = self.rows[split].start + start
        self.modality_counts[name][row : row + len(counts)] = counts

    def add_text(self, split: str, position: int, video: Video, store: bool = False) -> None:
        """Add the text and the class of the video at a position in a split.

        store: whether `list_group_leaks` compares the text.
        """
        row = self.rows[split].start + position
        if store:
            self.texts[row] = " ".join(video.fields.values())[:MAX_GRAM_CHARACTERS]
        self.split_statistics[split].add_text(video.fields, video.label)
        self.text_signatures[row] = duplicates.text_signature(" ".join(video.fields.values()))
        for bit, field in enumerate(self.fields):
            self.modalities[row] |= bool(video.fields[field]) << bit

    def group_duplicates(
        self, labeled: str, test: str, findings: Findings, progress: ProgressCallback
    ) -> np.ndarray:
        """Group near-duplicates: the first row of the group of each row, (n,) int32.

        Counts duplicates, contradictory labels, and test videos that repeat a labeled video.
        """
        hashes = _join(self.frame_hashes, np.int64)
        pairs = {
            "frames": duplicates.similar_frames(
                hashes, _join(self.frame_rows, np.int32), progress=progress
            ),
            "text": duplicates.similar_texts(self.text_signatures),
        }
        for modality, rows in pairs.items():
            for first, second in rows.tolist():
                findings.add(f"duplicate.{modality}", f"{self.ids[first]} ~ {self.ids[second]}")

        groups = duplicates.duplicate_groups(len(self.ids), np.concatenate(list(pairs.values())))
        self._count_test_duplicates(groups, labeled, test, findings)
        self._count_label_conflicts(groups, labeled, findings)
        return groups

    def list_group_leaks(
        self, split: str, columns: dict[str, dict[str, str]], duplicates: np.ndarray
    ) -> list[str]:
        """Describe the columns whose groups help to find the class of a video by its neighbors.

        columns: {name: {id: group}}; a video without a group is a group of its own. The texts of
        the split must be stored. duplicates: from `group_duplicates`.
        """
        rows = self.rows[split]
        frames = self._frames_of(rows)
        return [
            f"{name}: the nearest neighbor by {modality} has the class of {leak.accuracy:.1%} of"
            f" the videos, and of {leak.accuracy_between_groups:.1%} without those of its group"
            f" ({leak.videos:,} videos, {leak.groups:,} groups)"
            for name, group_of in columns.items()
            for modality, leak in self._group_leaks(rows, frames, group_of, duplicates).items()
            if leak and leak.is_notable
        ]

    def _group_leaks(
        self,
        rows: range,
        frames: list[np.ndarray],
        group_of: dict[str, str],
        duplicates: np.ndarray,
    ) -> dict[str, GroupLeak | None]:
        """Measure the leak of a column in each modality, on a sample of whole groups.

        frames: the hashes of each video's frames, from `_frames_of`.
        """
        names = [group_of.get(self.ids[row]) or f"\0{row}" for row in rows]
        drawn = sample_groups(np.unique(names, return_inverse=True)[1])
        sample = np.array([i for i in drawn if self.labels[rows[i]] is not None], int)
        if not len(sample):
            return {}
        codes = np.unique([self.labels[rows[i]] for i in sample], return_inverse=True)[1]
        groups = np.unique([names[i] for i in sample], return_inverse=True)[1]

        vectors = {
            "text": text_vectors([self.texts[rows[i]] for i in sample]),
            "frames": frame_vectors([frames[i] for i in sample]),
        }
        near = duplicates[rows.start + sample]
        return {name: group_leak(values, codes, groups, near) for name, values in vectors.items()}

    def _frames_of(self, rows: range) -> list[np.ndarray]:
        """Return the hashes of the frames of each video of some rows."""
        hashes = _join(self.frame_hashes, np.int64)
        frame_rows = _join(self.frame_rows, np.int32)
        starts = np.searchsorted(frame_rows, rows, "left")
        ends = np.searchsorted(frame_rows, rows, "right")
        return [hashes[start:end] for start, end in zip(starts, ends, strict=True)]

    def statistics(self) -> dict[str, dict]:
        """Return the statistics of every split in JSON values."""
        return {split: statistics.report() for split, statistics in self.split_statistics.items()}

    def shifts(self, labeled: str, test: str, findings: Findings) -> list[dict]:
        """Compare the labeled split with the test split; notable differences become findings."""
        if test not in self.split_statistics:
            return []
        shifts = distribution_shifts(
            self.split_statistics[labeled].values_per_video(),
            self.split_statistics[test].values_per_video(),
        )
        for shift in shifts:
            if shift.notable:
                means = f"{shift.train_mean:.4g} → {shift.test_mean:.4g}"
                findings.add("shift", f"{shift.statistic}: {means}")
        return [shift._asdict() for shift in shifts]

    def _count_test_duplicates(
        self, groups: np.ndarray, labeled: str, test: str, findings: Findings
    ) -> None:
        """Count test videos that repeat a labeled video: reported, never used."""
        if test not in self.rows:
            return
        labeled_rows = self.rows[labeled]
        labeled_groups = set(groups[labeled_rows.start : labeled_rows.stop].tolist())
        for row in self.rows[test]:
            if groups[row] in labeled_groups:
                findings.add("duplicate.test", f"{self.ids[row]} ~ {self.ids[groups[row]]}")

    def _count_label_conflicts(self, groups: np.ndarray, labeled: str, findings: Findings) -> None:
        rows = self.rows[labeled]
        conflicts = duplicates.label_conflicts(
            groups[rows.start : rows.stop], self.labels[rows.start : rows.stop]
        )
        for members, labels in conflicts:
            examples = [
                f"{self.ids[rows.start + row]} is {label}"
                for row, label in zip(members, labels, strict=True)
            ][:MAX_NAMED_VIDEOS]
            more = ["…"] if len(members) > MAX_NAMED_VIDEOS else []
            findings.add(
                "duplicate.conflict",
                f"{len(members)} near-duplicates: {', '.join(examples + more)}",
            )


def _join(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
