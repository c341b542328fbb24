"""Statistics of a split: how long its texts are, which modalities are there, what its frames look
like; a few bytes a video.
"""

from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np
from tokenizers import normalizers, pre_tokenizers

# videos of a split whose tokens are counted: cutting a text costs a hundred times as much as
# measuring it
SAMPLED = 20_000
EVERY = 7  # so many videos lie between two sampled ones while the sample is being filled

_normal, _cut = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()


class SplitStatistics:
    """What the videos of one split look like. Fed with all texts, and with frames shard by shard,
    both in order.
    """

    def __init__(self) -> None:
        self.characters: dict[str, array] = {}
        self.tokens: dict[str, array] = {}
        self.classes: Counter[str] = Counter()
        self.frames, self.bytes = array("H"), array("I")
        self.brightness, self.contrast = (
            array("B"),
            array("B"),
        )  # of a video's usable frames, mean gray levels
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.videos = 0

    def add(self, fields: dict[str, str], label: str | None) -> None:
        """Take the texts of the next video."""
        sampled = self.videos % EVERY == 0 and self.videos < SAMPLED * EVERY
        for field, text in fields.items():
            self.characters.setdefault(field, array("I")).append(len(text))
            if sampled and text:
                self.tokens.setdefault(field, array("I")).append(
                    len(_cut.pre_tokenize_str(_normal.normalize_str(text)))
                )
        if label is not None:
            self.classes[label] += 1
        self.videos += 1

    def add_frames(self, counts: Sequence[int], measures: Sequence[np.ndarray]) -> None:
        """Take the frames of the next videos. counts: usable ones of each; measures: (frames, 5)
        int of each, rows of
        width, height, bytes, brightness, contrast, 0 for a damaged frame; none for ready features.
        """
        self.frames.extend(counts)
        for rows in measures:
            usable = rows[rows[:, 0] > 0]
            self.bytes.append(int(usable[:, 2].sum()))
            self.brightness.append(round(usable[:, 3].mean()) if len(usable) else 0)
            self.contrast.append(round(usable[:, 4].mean()) if len(usable) else 0)
            self.sizes.update(map(tuple, usable[:, :2].tolist()))

    def numbers(self) -> dict[str, np.ndarray]:
        """Return what can be compared between splits: per statistic one number a video; lengths and
        looks of those that have any.
        """
        found = {}
        for field, lengths in self.characters.items():
            each = np.asarray(lengths)
            found |= {
                f"{field} present": (each > 0).astype(np.uint8),
                f"characters of {field}": each[each > 0],
            }
        frames = np.asarray(self.frames)
        found |= {"frames present": (frames > 0).astype(np.uint8), "frames": frames[frames > 0]}
        if len(self.bytes):
            looks = {
                "kilobytes": np.asarray(self.bytes) / 1000,
                "brightness": np.asarray(self.brightness),
                "contrast": np.asarray(self.contrast),
            }
            found |= {name: values[frames > 0] for name, values in looks.items()}
        return found

    def report(self) -> dict:
        """Describe the split in JSON values."""
        numbers = self.numbers()
        present = {
            name.removesuffix(" present"): values.astype(bool)
            for name, values in numbers.items()
            if name.endswith(" present")
        }
        code = sum(
            (there.astype(int) << bit for bit, there in enumerate(present.values())),
            np.zeros(self.videos, int),
        )
        together = {
            "+".join(n for bit, n in enumerate(present) if c >> bit & 1) or "nothing": int(n)
            for c, n in zip(*np.unique(code, return_counts=True))
        }
        described = {
            name: _described(values)
            for name, values in numbers.items()
            if not name.endswith(" present")
        }
        return {
            "videos": self.videos,
            "classes": len(self.classes),
            "present": {
                name: round(float(there.mean()), 4) if self.videos else 0.0
                for name, there in present.items()
            },
            "modalities": together,
            **described,
            **{
                f"tokens of {field}, sampled": _described(np.asarray(lengths))
                for field, lengths in self.tokens.items()
            },
            "frame sizes": {
                f"{width} x {height}": count for (width, height), count in self.sizes.most_common(5)
            },
        }


def _described(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {"mean": 0.0, "p50": 0.0, "p95": 0.0, "most": 0.0}
    return {"mean": round(float(values.mean()), 2)} | {
        name: round(float(value), 2)
        for name, value in zip(
            ("p50", "p95", "most"), np.quantile(values, (0.5, 0.95, 1), method="nearest")
        )
    }
