"""WeChat Big Data Challenge 2022: multimodal short-video classification, preliminary and final
rounds.
"""

import csv
import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import count, cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from wbdc.competitions import (
    CLIP_SUFFIXES,
    FRAMES_FILE,
    Competition,
    FrameFile,
    JudgePaths,
    Limits,
    Source,
    Target,
    Video,
)
from wbdc.competitions.formats.json_stream import Digits, clean_text, read_records
from wbdc.core.errors import DataFault, ResultFault
from wbdc.core.files import (
    file_sha256,
    open_regular,
    publish_bytes,
    publish_file,
    read_bytes,
    read_text,
)
from wbdc.core.findings import Findings

if TYPE_CHECKING:
    import numpy as np

# rows of each class of the labeled split; the keys are the official classes
CLASS_COUNTS_FILE = Path(__file__).with_name("wechat2022_counts.json")
FIRST_REPEATED_ID = 9 * 10**19  # 20 digits, as the ids of the contest
MAX_LABEL_CHARACTERS = 60  # of an invalid label


class WeChat2022(Competition):
    """200 leaf classes (4 characters) under 23 top classes (their first two characters). The score
    is the mean of four F1 scores.
    """

    fields = ("title", "asr", "ocr")
    labeled_split = "labeled"
    unlabeled_split = "unlabeled"
    test_split = "test"
    label_key = "category_id"
    score_components = ("lv1_micro", "lv1_macro", "lv2_micro", "lv2_macro")
    # 70 videos a second over the wall time of inference.sh with decoding; 2 V100 of 32 GB
    limits = Limits(
        items=25_000, seconds=25_000 / 70, memory=80 * 2**30, gpu_memory=32 * 2**30, tolerance=0.003
    )
    # content of the image for the audit, which trains the models from public weights
    audit = (
        "README.md",
        "requirements.txt",
        "requirements.lock",
        "Dockerfile",
        "init.sh",
        "train.sh",
        "source",
        "report.json",
        "weights.json",
        "sbom.json",
    )
    targets = {
        "leaderboard": Target(),
        "audit": Target(
            audit, trains=True, renamed={"source": "src"}, pretrained="opensource_models"
        ),
        "zip": Target(zipped=True),
    }
    judge_paths = JudgePaths(data="/opt/ml/input", result="/opt/ml/output/result.csv")

    def frame_format(self, root: Path) -> str:
        formats = {"zip_frames": "jpeg", "videos": "jpeg", "zip_feats": "features"}
        for folder, frame_format in formats.items():
            if (root / folder).is_dir():
                return frame_format
        raise DataFault(
            f"{root} holds neither zip_frames/ (final round) nor zip_feats/ (preliminary) nor "
            "videos/; give the folder that holds annotations/"
        )

    def splits(self, root: Path) -> list[str]:
        names = sorted(p.stem for p in (root / "annotations").glob("[!.]*.json"))
        if not names:
            raise DataFault(
                f"{root / 'annotations'} holds no .json file; give the folder that holds "
                "annotations/ and zip_frames/, videos/ or zip_feats/"
            )
        return names

    def videos(
        self,
        root: Path,
        split: str,
        findings: Findings,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[Video]:
        source_of = None
        for item in read_records(root / "annotations" / f"{split}.json", findings, progress):
            # read with the first video: a split without videos needs no frames
            source_of = source_of or self._source_finder(root, split)
            yield Video(
                item["id"],
                self.read_fields(item, findings),
                _read_label(item, findings)
                if split == self.labeled_split
                else _label_text(item.get("category_id")),
                source_of(item["id"]),
                self.modality_sources(root, split, item["id"]),
            )

    def column_values(self, root: Path, split: str) -> Iterator[tuple[str, dict[str, str]]]:
        for item in read_records(root / "annotations" / f"{split}.json", Findings()):
            yield (
                item["id"],
                {
                    name: str(value)
                    for name, value in item.items()
                    if isinstance(value, str) and value and name not in ("id", "category_id")
                },
            )

    def annotations_hash(self, root: Path, split: str) -> str:
        return file_sha256(root / "annotations" / f"{split}.json")

    def read_fields(self, item: dict, findings: Findings) -> dict[str, str]:
        texts = {field: clean_text(item, field, findings) for field in ("title", "asr")}
        return texts | {"ocr": _join_ocr(item, findings)}

    def source(self, root: Path, split: str, name: str) -> Source:
        """Return where the frames of a video are expected. name: a valid id of `read_records`."""
        return self._source_finder(root, split)(name)

    def _source_finder(self, root: Path, split: str) -> Callable[[str], Source]:
        """Return `source` for the videos of a split, whose layout is read once for all of them."""
        if self.frame_format(root) == "features":
            archive = root / "zip_feats" / f"{split}.zip"
            return lambda name: Source(archive, f"{name}.npy")
        if _has_clips(root, split):
            folder = root / "videos" / split
            state = folder.stat().st_mtime_ns if folder.is_dir() else 0
            clips = _clip_paths(folder, state)
            return lambda name: Source(folder / clips.get(name, f"{name}.mp4"))
        folder = root / "zip_frames" / split
        return lambda name: Source(folder / f"{name[-3:]}/{name}.zip")

    def frame_files(self, root: Path, split: str) -> Iterator[FrameFile]:
        yield from (
            _list_clips(root / "videos" / split)
            if _has_clips(root, split)
            else _list_archives(root / "zip_frames" / split)
        )

    def repeat_videos(self, root: Path, into: Path, split: str, items: int) -> None:
        rows = list(read_records(root / "annotations" / f"{split}.json", Findings()))
        if not rows:
            raise DataFault(
                f"{root} holds no video of the split {split}; there is nothing to repeat"
            )

        repeated = _repeat_rows(rows, items)
        lines = ",\n".join(json.dumps(row) for _, row in repeated)
        publish_bytes(into / "annotations" / f"{split}.json", f"[\n{lines}\n]\n".encode())
        if taxonomy := _find_taxonomy(root):
            publish_bytes(into / "taxonomy.csv", read_bytes(taxonomy))

        for original_id, row in repeated if self.modalities else ():
            copies = self.modality_sources(into, split, row["id"])
            for modality, source in self.modality_sources(root, split, original_id).items():
                is_own_file = self.modalities[modality] != FRAMES_FILE
                if is_own_file and source.path.is_file():
                    _link_file(source.path, copies[modality].path)

        if self.frame_format(root) == "features":
            features = self.source(root, split, "").path
            publish_file(
                into / "zip_feats" / f"{split}.zip",
                lambda temporary: _repeat_members(features, temporary, repeated),
            )
            return

        has_clips = _has_clips(root, split)
        source_of = self._source_finder(root, split)
        (into / ("videos" if has_clips else "zip_frames") / split).mkdir(parents=True)
        copy_of = self._source_finder(into, split)
        for original_id, row in repeated:
            path = source_of(original_id).path
            copy = (
                into / "videos" / split / f"{row['id']}{path.suffix}"
                if has_clips
                else copy_of(row["id"]).path
            )
            if path.is_file():
                _link_file(path, copy)

    def classes(self, root: Path) -> list[str]:
        if taxonomy := _find_taxonomy(root):
            return _read_taxonomy(taxonomy)
        return sorted(self.class_counts())

    def class_counts(self) -> dict[str, int]:
        return json.loads(read_text(CLASS_COUNTS_FILE))

    def parent_class(self, label: str) -> str:
        """Return the level-1 class: the first two characters of a class."""
        return label[:2]

    def score(
        self, truth: Sequence[str], predictions: Sequence[str], classes: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Return lv1_micro, lv1_macro, lv2_micro, lv2_macro and mean.

        classes: over which macro averages are taken; None: the labels that occur in the truth or
        the predictions, as in the official script.
        """
        from wbdc.competitions.formats.level_scores import score_levels  # imports numpy

        return score_levels(truth, predictions, classes)

    def weighted_scorer(
        self, truth: "np.ndarray", predictions: "np.ndarray", classes: Sequence[str]
    ) -> "Callable[[np.ndarray], float]":
        from wbdc.competitions.formats.level_scores import level_scorer

        return level_scorer(truth, predictions, tuple(classes))

    def write_result(self, ids: Sequence[str], labels: Sequence[str], path: Path) -> None:
        """Publish lines of `id,category_id` without a header or a byte order mark, ended by LF."""
        lines = (f"{name},{label}\n" for name, label in zip(ids, labels, strict=True))
        publish_bytes(path, "".join(lines).encode("ascii"))

    def read_result(self, path: Path, ids: Sequence[str], classes: Sequence[str]) -> list[str]:
        """Read a result file strictly.

        The official script only counts rows, so that it accepts a duplicate beside a missing id.
        """
        if not path.is_file():
            raise ResultFault(f"{path} was not written")
        rows = _read_rows(path)
        labels = dict(rows)
        known_classes = set(classes)
        expected_ids = set(ids)
        counts = Counter(name for name, _ in rows)
        faults = {
            "names ids that are not in the test split (a header?)": [
                name for name, _ in rows if name not in expected_ids
            ],
            "names ids twice": [name for name, count in counts.items() if count > 1],
            "misses ids": [name for name in ids if name not in labels],
            "names unknown classes": [
                f"{name} → {label}" for name, label in rows if label not in known_classes
            ],
        }
        for fault, examples in faults.items():
            if examples:
                raise ResultFault(
                    f"{path} {fault}: {len(examples)}, first {', '.join(examples[:3])}"
                )
        return [labels[name] for name in ids]


def _read_rows(path: Path) -> list[list[str]]:
    """Read the rows of a result file as [id, label]. Raises ResultFault for a wrong format."""
    data = read_bytes(path)
    for pattern, fault in (
        (b"\xef\xbb\xbf", "begins with a byte order mark"),
        (b"\r", "has CR line ends"),
    ):
        if pattern in data:
            raise ResultFault(f"{path} {fault}; write plain UTF-8 with LF")
    if data and not data.endswith(b"\n"):
        raise ResultFault(f"{path} ends inside a line; its last row may be cut")

    rows = [line.split(",") for line in data.decode("utf-8", "replace").split("\n")[:-1]]
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise ResultFault(
                f"{path} line {number} is not `id,category_id`: {','.join(row)[:60]!r}"
            )
    return rows


def _repeat_rows(rows: list[dict], items: int) -> list[tuple[str, dict]]:
    """Repeat annotations to `items` rows: (original id, annotation with a new id)."""
    used_ids = {row["id"] for row in rows}
    new_ids = (
        name for name in map("{:020d}".format, count(FIRST_REPEATED_ID)) if name not in used_ids
    )
    return [(row["id"], row | {"id": next(new_ids)}) for row in islice(cycle(rows), items)]


def _link_file(path: Path, copy: Path) -> None:
    """Link a file to a second path; by a symbolic link where a hard link is not possible."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, copy)
    except OSError:
        copy.symlink_to(path.resolve())


def _repeat_members(path: Path, copy: Path, rows: Sequence[tuple[str, dict]]) -> None:
    """Copy the members of an archive of features under new ids.

    rows: (original id, annotation with the new id).
    """
    with (
        open_regular(path) as file,
        zipfile.ZipFile(file) as archive,
        zipfile.ZipFile(copy, "w", allowZip64=True) as output,
    ):
        names = set(archive.namelist())
        for original_id, row in rows:
            if f"{original_id}.npy" in names:
                output.writestr(f"{row['id']}.npy", archive.read(f"{original_id}.npy"))


def _find_taxonomy(root: Path) -> Path | None:
    """Find the table of classes in the data root or beside it."""
    paths = (root / "taxonomy.csv", root.parent / "taxonomy.csv")
    return next((path for path in paths if path.is_file()), None)


def _read_taxonomy(path: Path) -> list[str]:
    """Read the class ids of a table with a column category_id. Raises DataFault."""
    try:
        with io.TextIOWrapper(open_regular(path), "utf-8-sig", newline="") as file:
            return sorted({row["category_id"] for row in csv.DictReader(file)})
    except OSError as error:
        raise DataFault(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise DataFault(
            f"{path} is not a UTF-8 table with a column category_id ({error}); "
            "correct it or remove it"
        ) from error


def _read_label(item: dict, findings: Findings) -> str | None:
    """Return the class of an annotation. A number is counted, since it has lost leading zeros."""
    label = item.get("category_id")
    if label is None or (isinstance(label, str) and not isinstance(label, Digits)):
        return label
    findings.add("label.number", f"{item['id']}: {label!r}")
    return str(label)[:MAX_LABEL_CHARACTERS]


def _label_text(label: object) -> str | None:
    """Return the class of an annotation outside the labeled split, without any check."""
    return None if label is None else str(label)[:MAX_LABEL_CHARACTERS]


def _has_clips(root: Path, split: str) -> bool:
    """Return whether a split has video files, and no archives of frames."""
    return (root / "videos").is_dir() and not (root / "zip_frames" / split).is_dir()


@lru_cache(maxsize=8)
def _clip_paths(folder: Path, state: int) -> dict[str, str]:
    """Return the video files of a folder by id. Of several with one id, the first counts.

    The folder is listed once, and again when its `state` has changed.
    """
    return {clip.id: clip.path for clip in reversed(list(_list_clips(folder)))}


def _list_clips(folder: Path) -> Iterator[FrameFile]:
    """Yield the video files <id>.mp4 (or another suffix) of a folder."""
    for entry in sorted(os.scandir(folder), key=lambda e: e.name) if folder.is_dir() else ():
        name, suffix = os.path.splitext(entry.name)
        if suffix.lower() in CLIP_SUFFIXES and entry.is_file():
            yield FrameFile(name, entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)


def _list_archives(folder: Path) -> Iterator[FrameFile]:
    """Yield the archives <bucket>/<id>.zip. One in the wrong bucket belongs to no video."""
    for bucket in sorted(folder.iterdir()) if folder.is_dir() else ():
        for entry in sorted(os.scandir(bucket), key=lambda e: e.name) if bucket.is_dir() else ():
            if entry.name.endswith(".zip") and entry.is_file():
                name = entry.name.removesuffix(".zip")
                yield FrameFile(
                    name if name[-3:] == bucket.name else "",
                    f"{bucket.name}/{entry.name}",
                    entry.stat().st_size,
                    entry.stat().st_mtime_ns,
                )


def _join_ocr(item: dict, findings: Findings) -> str:
    """Join the on-screen texts in order of time. A text that equals the one before is skipped."""
    entries = item.get("ocr")
    if isinstance(entries, str):
        findings.add("text.type", f"{item['id']}: ocr is a string")
        return clean_text(item, "ocr", findings)
    if not isinstance(entries, list):
        findings.add("text.missing" if entries is None else "text.type", f"{item['id']}: ocr")
        return ""
    parts: list[str] = []
    for entry in entries:
        if not isinstance(entry, dict):
            findings.add("text.type", f"{item['id']}: an ocr entry is not an object")
            continue
        text = clean_text(entry, "text", findings, item["id"])
        if text and text not in parts[-1:]:
            parts.append(text)
    return " ".join(parts)
