"""Shorts: a contest of one CSV table with three text fields, its own classes, and accuracy."""

import csv
from pathlib import Path

from wbdc.competitions import Competition, FrameFile, Limits, Source, Video
from wbdc.core.errors import ResultFault
from wbdc.core.files import publish_bytes

HEADER = ["video", "genre"]


class Shorts(Competition):
    """Three genres; the score is the accuracy."""

    fields = ("headline", "speech", "tags")
    labeled_split, test_split = "train", "final"
    limits = Limits(items=12, seconds=600.0)
    label_key = "genre"
    score_components = ("accuracy",)

    def frame_format(self, root):
        return "jpeg"

    def splits(self, root):
        return ["final", "train"]

    def videos(self, root, split, findings, progress=lambda done, total: None):
        for row in csv.DictReader((root / "shorts.csv").read_text(encoding="utf-8").splitlines()):
            if row["split"] == split:
                texts, source = self.read_fields(row, findings), self.source(root, split, row["id"])
                yield Video(row["id"], texts, row["genre"] or None, source)

    def read_fields(self, item, findings):
        return {field: item.get(field) or "" for field in self.fields}

    def source(self, root, split, name):
        return Source(Path(root, split, f"{name}.zip"))

    def frame_files(self, root, split):
        for path in sorted((root / split).glob("*.zip")):
            yield FrameFile(path.stem, path.name, path.stat().st_size, path.stat().st_mtime_ns)

    def classes(self, root):
        return ["comedy", "drama", "news"]

    def score(self, truth, predictions, classes=None):
        hits = sum(map(str.__eq__, truth, predictions)) / max(1, len(truth))
        return {"accuracy": hits, "mean": hits}

    def write_result(self, ids, labels, path):
        rows = [HEADER, *zip(ids, labels, strict=True)]
        publish_bytes(path, "".join(f"{a},{b}\n" for a, b in rows).encode())

    def read_result(self, path, ids, classes):
        header, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
        genres, complete = dict(rows), sorted(a for a, _ in rows) == sorted(ids)
        if header != HEADER or not complete or not {*genres.values()} <= {*classes}:
            raise ResultFault(f"{path} lacks the header or a known genre for each test video")
        return [genres[name] for name in ids]
