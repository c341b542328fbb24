"""Statistics of a split: lengths, modalities and frame properties, in a few bytes per video."""

from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np
from tokenizers import normalizers, pre_tokenizers

# tokens are counted for a sample only: tokenizing costs 100 times as much as measuring the length
MAX_TOKENIZED_VIDEOS = 20_000
TOKENIZE_EVERY_VIDEOS = 7  # until the sample is full
MAX_FRAME_SIZES = 5  # most frequent frame sizes that a report lists

_normalizer = normalizers.BertNormalizer()
_pre_tokenizer = pre_tokenizers.BertPreTokenizer()


class SplitStatistics:
    """Statistics of the videos of one split; collects all texts and all frames, each in order."""

    def __init__(self) -> None:
        self.characters: dict[str, array] = {}
        self.tokens: dict[str, array] = {}
        self.classes: Counter[str] = Counter()
        self.frame_counts = array("H")
        self.frame_bytes = array("I")
        self.brightness = array("B")  # mean gray level of the usable frames of a video
        self.contrast = array("B")  # mean standard deviation of the gray levels
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.video_count = 0

    def add_text(self, fields: dict[str, str], label: str | None) -> None:
        """Add the text fields and the class of the next video."""
        is_sampled = (
            self.video_count % TOKENIZE_EVERY_VIDEOS == 0
            and self.video_count < MAX_TOKENIZED_VIDEOS * TOKENIZE_EVERY_VIDEOS
        )
        for field, text in fields.items():
            self.characters.setdefault(field, array("I")).append(len(text))
            if is_sampled and text:
                tokens = _pre_tokenizer.pre_tokenize_str(_normalizer.normalize_str(text))
                self.tokens.setdefault(field, array("I")).append(len(tokens))

        if label is not None:
            self.classes[label] += 1
        self.video_count += 1

    def add_frames(self, counts: Sequence[int], measures: Sequence[np.ndarray]) -> None:
        """Add the frames of the next videos.

        counts: usable frames of each video; measures: (frames, 5) int of each video, with width,
        height, bytes, brightness and contrast, all 0 for a damaged frame; empty for features.
        """
        self.frame_counts.extend(counts)
        for frames in measures:
            usable = frames[frames[:, 0] > 0]
            self.frame_bytes.append(int(usable[:, 2].sum()))
            self.brightness.append(round(usable[:, 3].mean()) if len(usable) else 0)
            self.contrast.append(round(usable[:, 4].mean()) if len(usable) else 0)
            self.sizes.update(map(tuple, usable[:, :2].tolist()))

    def values_per_video(self) -> dict[str, np.ndarray]:
        """Return the statistics that can be compared between splits, one number per video.

        "... present" has a value for every video, the others for videos with this modality.
        """
        values = {}
        for field, characters in self.characters.items():
            lengths = np.asarray(characters)
            values[f"{field} present"] = (lengths > 0).astype(np.uint8)
            values[f"characters of {field}"] = lengths[lengths > 0]

        frames = np.asarray(self.frame_counts)
        has_frames = frames > 0
        values["frames present"] = has_frames.astype(np.uint8)
        values["frames"] = frames[has_frames]
        if len(self.frame_bytes):
            values["kilobytes"] = (np.asarray(self.frame_bytes) / 1000)[has_frames]
            values["brightness"] = np.asarray(self.brightness)[has_frames]
            values["contrast"] = np.asarray(self.contrast)[has_frames]
        return values

    def report(self) -> dict:
        """Return the statistics of the split in JSON values."""
        values = self.values_per_video()
        present = {
            name.removesuffix(" present"): flags.astype(bool)
            for name, flags in values.items()
            if name.endswith(" present")
        }
        distributions = {
            name: _summarize(numbers)
            for name, numbers in values.items()
            if not name.endswith(" present")
        }
        return {
            "videos": self.video_count,
            "classes": len(self.classes),
            "present": {
                name: round(float(flags.mean()), 4) if self.video_count else 0.0
                for name, flags in present.items()
            },
            "modalities": self._count_modalities(present),
            **distributions,
            **{
                f"tokens of {field}, sampled": _summarize(np.asarray(lengths))
                for field, lengths in self.tokens.items()
            },
            "frame sizes": {
                f"{width} x {height}": count
                for (width, height), count in self.sizes.most_common(MAX_FRAME_SIZES)
            },
        }

    def _count_modalities(self, present: dict[str, np.ndarray]) -> dict[str, int]:
        """Count the videos of each set of modalities: {"title+frames": 12, "nothing": 1}."""
        codes = np.zeros(self.video_count, int)
        for bit, flags in enumerate(present.values()):
            codes += flags.astype(int) << bit

        counts = {}
        for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
            names = [name for bit, name in enumerate(present) if code >> bit & 1]
            counts["+".join(names) or "nothing"] = int(count)
        return counts


def _summarize(values: np.ndarray) -> dict[str, float]:
    """Return mean, median, 95th percentile and maximum; zeros for no values."""
    if not len(values):
        return {"mean": 0.0, "p50": 0.0, "p95": 0.0, "max": 0.0}
    quantiles = np.quantile(values, (0.5, 0.95, 1), method="nearest")
    summary = {"mean": round(float(values.mean()), 2)}
    for name, value in zip(("p50", "p95", "max"), quantiles, strict=True):
        summary[name] = round(float(value), 2)
    return summary
