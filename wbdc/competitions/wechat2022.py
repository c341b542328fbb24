"""WeChat Big Data Challenge 2022: multimodal short-video classification, preliminary and final
round.
"""

import csv
import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import count, cycle
from pathlib import Path

from wbdc.competitions import CLIP_SUFFIXES, Competition, FrameFile, Limits, Source, Target, Video
from wbdc.competitions.formats.json_stream import Digits, clean_text, read_records
from wbdc.core.errors import DataInvalid, ResultInvalid
from wbdc.core.files import (
    file_sha256,
    open_regular,
    publish_bytes,
    publish_file,
    read_bytes,
    read_text,
)
from wbdc.core.findings import Findings
from wbdc.core.scores import f1_scores

CLASS_COUNTS_FILE = Path(__file__).with_name(
    "wechat2022_counts.json"
)  # rows per class of the labelled split; its keys are the official classes
FIRST_REPEATED_ID = 9 * 10**19  # 20 digits, as the contest's own ids


class WeChat2022(Competition):
    """200 leaf classes (4 characters) under 23 top classes (their first two). Score: mean of four
    F1.
    """

    fields = ("title", "asr", "ocr")
    labeled_split = "labeled"
    unlabeled_split = "unlabeled"
    test_split = "test"
    label_key = "category_id"
    score_components = ("lv1_micro", "lv1_macro", "lv2_micro", "lv2_macro")
    # 70 videos/s over the wall time of inference.sh, decoding included; 2 V100 of 32 GB
    limits = Limits(
        items=25_000, seconds=25_000 / 70, memory=80 * 2**30, gpu_memory=32 * 2**30, tolerance=0.003
    )
    # what the leaderboard's image and the audit's image hold; the audit trains the models itself,
    # from public weights
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
    judge_paths = {"data": "/opt/ml/input", "result": "/opt/ml/output/result.csv"}

    def frame_format(self, root: Path) -> str:
        for folder, holds in (
            ("zip_frames", "jpeg"),
            ("videos", "jpeg"),
            ("zip_feats", "features"),
        ):
            if (root / folder).is_dir():
                return holds
        raise DataInvalid(
            f"{root} holds neither zip_frames/ (final round) nor zip_feats/ (preliminary) nor videos/; give the folder that holds annotations/"
        )

    def splits(self, root: Path) -> list[str]:
        found = sorted(p.stem for p in (root / "annotations").glob("[!.]*.json"))
        if not found:
            raise DataInvalid(
                f"{root / 'annotations'} holds no .json file; give the folder that holds annotations/ and zip_frames/, videos/ or zip_feats/"
            )
        return found

    def videos(
        self,
        root: Path,
        split: str,
        findings: Findings,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> Iterator[Video]:
        for item in read_records(root / "annotations" / f"{split}.json", findings, progress):
            yield Video(
                item["id"],
                self.read_fields(item, findings),
                _read_label(item, findings)
                if split == self.labeled_split
                else _label_text(item.get("category_id")),
                self.source(root, split, item["id"]),
            )

    def annotations_hash(self, root: Path, split: str) -> str:
        return file_sha256(root / "annotations" / f"{split}.json")

    def read_fields(self, item: dict, findings: Findings) -> dict[str, str]:
        return {f: clean_text(item, f, findings) for f in ("title", "asr")} | {
            "ocr": _join_ocr(item, findings)
        }

    def source(self, root: Path, split: str, name: str) -> Source:
        """Build a path. name: an id that `records` found safe."""
        if self.frame_format(root) == "features":
            return Source(root / "zip_feats" / f"{split}.zip", f"{name}.npy")
        if _has_clips(root, split):
            folder = root / "videos" / split
            return Source(
                folder
                / _clip_paths(folder, folder.stat().st_mtime_ns if folder.is_dir() else 0).get(
                    name, f"{name}.mp4"
                )
            )
        return Source(root / "zip_frames" / split / name[-3:] / f"{name}.zip")

    def frame_files(self, root: Path, split: str) -> Iterator[FrameFile]:
        yield from (
            _list_clips(root / "videos" / split)
            if _has_clips(root, split)
            else _list_archives(root / "zip_frames" / split)
        )

    def repeat_videos(self, root: Path, into: Path, split: str, items: int) -> None:
        rows = list(read_records(root / "annotations" / f"{split}.json", Findings()))
        if not rows:
            raise DataInvalid(
                f"{root} holds no video of the split {split}; there is nothing to repeat"
            )
        taken = {row["id"] for row in rows}
        names = (
            name for name in map("{:020d}".format, count(FIRST_REPEATED_ID)) if name not in taken
        )
        new = [(row["id"], row | {"id": next(names)}) for row, _ in zip(cycle(rows), range(items))]
        lines = ",\n".join(json.dumps(row) for _, row in new)
        publish_bytes(into / "annotations" / f"{split}.json", f"[\n{lines}\n]\n".encode())
        if table := next(
            (p for p in (root / "taxonomy.csv", root.parent / "taxonomy.csv") if p.is_file()), None
        ):
            publish_bytes(into / "taxonomy.csv", read_bytes(table))
        if self.frame_format(root) == "features":
            publish_file(
                into / "zip_feats" / f"{split}.zip",
                lambda temporary: _repeat_members(
                    self.source(root, split, "").path, temporary, new
                ),
            )
            return
        filmed = _has_clips(root, split)
        (into / "videos" / split if filmed else into / "zip_frames" / split).mkdir(parents=True)
        for old, row in new:
            path = self.source(root, split, old).path
            own = (
                into / "videos" / split / f"{row['id']}{path.suffix}"
                if filmed
                else self.source(into, split, row["id"]).path
            )
            if path.is_file():
                _link_file(path, own)

    def classes(self, root: Path) -> list[str]:
        for path in (root / "taxonomy.csv", root.parent / "taxonomy.csv"):
            if path.is_file():
                return _read_taxonomy(path)
        return sorted(json.loads(read_text(CLASS_COUNTS_FILE)))

    def score(
        self, truth: Sequence[str], said: Sequence[str], classes: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Return lv1_micro, lv1_macro, lv2_micro, lv2_macro and mean.

        With classes None, macro is taken over the labels that occur in truth or answers, as the
        organisers' script does.
        """
        pairs = Counter(
            zip(truth, said, strict=True)
        )  # 100,000 rows are a few thousand pairs, and an interval scores a thousand times
        parts = {}
        for level, width in (("lv1", 2), ("lv2", 4)):
            t, s = [x[:width] for x, _ in pairs], [x[:width] for _, x in pairs]
            labels = sorted({c[:width] for c in classes} if classes is not None else {*t, *s})
            parts[f"{level}_micro"], parts[f"{level}_macro"] = f1_scores(
                t, s, labels, list(pairs.values())
            )
        return {**parts, "mean": sum(parts.values()) / 4}

    def write_result(self, ids: Sequence[str], labels: Sequence[str], path: Path) -> None:
        """Publish `id,category_id` lines: no header, no BOM, LF."""
        publish_bytes(
            path, "".join(f"{i},{c}\n" for i, c in zip(ids, labels, strict=True)).encode("ascii")
        )

    def read_result(self, path: Path, ids: Sequence[str], classes: Sequence[str]) -> list[str]:
        """Read a result file strictly: the official script counts rows only, so a duplicate beside
        a missing id passes there.
        """
        if not path.is_file():
            raise ResultInvalid(f"{path} was not written")
        data = read_bytes(path)
        for bad, why in (
            (b"\xef\xbb\xbf", "begins with a byte order mark"),
            (b"\r", "has CR line ends"),
        ):
            if bad in data:
                raise ResultInvalid(f"{path} {why}; write plain UTF-8 with LF")
        if data and not data.endswith(b"\n"):
            raise ResultInvalid(f"{path} ends inside a line; its last row may be cut")
        rows = [line.split(",") for line in data.decode("utf-8", "replace").split("\n")[:-1]]
        for number, row in enumerate(rows, 1):
            if len(row) != 2:
                raise ResultInvalid(
                    f"{path} line {number} is not `id,category_id`: {','.join(row)[:60]!r}"
                )
        said, known, wanted = dict(rows), set(classes), set(ids)
        repeated = [i for i, n in Counter(r[0] for r in rows).items() if n > 1]
        for faults, why in (
            (
                [r[0] for r in rows if r[0] not in wanted],
                "names ids that are not in the test split (a header?)",
            ),
            (repeated, "names ids twice"),
            ([i for i in ids if i not in said], "misses ids"),
            ([f"{i} → {c}" for i, c in rows if c not in known], "names unknown classes"),
        ):
            if faults:
                raise ResultInvalid(f"{path} {why}: {len(faults)}, first {', '.join(faults[:3])}")
        return [said[i] for i in ids]


def _link_file(path: Path, own: Path) -> None:
    """Give a file a second name; a symbolic link where that would cross file systems or is not
    allowed.
    """
    own.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, own)
    except OSError:
        own.symlink_to(path.resolve())


def _repeat_members(path: Path, copy: Path, rows: Sequence[tuple[str, dict]]) -> None:
    """Write an archive of features again, under other ids. rows: (id there, annotation with the new
    id).
    """
    with (
        open_regular(path) as file,
        zipfile.ZipFile(file) as archive,
        zipfile.ZipFile(copy, "w", allowZip64=True) as written,
    ):
        held = set(archive.namelist())
        for old, row in rows:
            if f"{old}.npy" in held:
                written.writestr(f"{row['id']}.npy", archive.read(f"{old}.npy"))


def _read_taxonomy(path: Path) -> list[str]:
    """Read the class ids of a table with a column category_id. Raises DataInvalid."""
    try:
        with io.TextIOWrapper(open_regular(path), "utf-8-sig", newline="") as file:
            return sorted({row["category_id"] for row in csv.DictReader(file)})
    except OSError as error:
        raise DataInvalid(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise DataInvalid(
            f"{path} is no UTF-8 table with a column category_id ({error}); correct it or take it away"
        ) from error


def _read_label(item: dict, findings: Findings) -> str | None:
    label = item.get("category_id")
    if label is None or (isinstance(label, str) and not isinstance(label, Digits)):
        return label
    findings.add("label.number", f"{item['id']}: {label!r}")  # a number has lost its leading zeros
    return str(label)[:60]


def _label_text(label: object) -> str | None:
    return None if label is None else str(label)[:60]


def _has_clips(root: Path, split: str) -> bool:
    """Tell whether a split comes as video files: only where it has no archives of frames."""
    return (root / "videos").is_dir() and not (root / "zip_frames" / split).is_dir()


@lru_cache(maxsize=8)
def _clip_paths(folder: Path, state: int) -> dict[str, str]:
    """Look up the video files of a folder by id, listed once for all its videos, and anew when its
    `state` changes. Of two with one id the first counts.
    """
    return {clip.id: clip.path for clip in reversed(list(_list_clips(folder)))}


def _list_clips(folder: Path) -> Iterator[FrameFile]:
    """List <id>.mp4 and the like."""
    for entry in sorted(os.scandir(folder), key=lambda e: e.name) if folder.is_dir() else ():
        name, suffix = os.path.splitext(entry.name)
        if suffix.lower() in CLIP_SUFFIXES and entry.is_file():
            yield FrameFile(name, entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)


def _list_archives(folder: Path) -> Iterator[FrameFile]:
    """List <bucket>/<id>.zip. One in the wrong bucket belongs to no video."""
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
    """Join the on-screen texts in the order given, which is that of time; a text equal to the one
    before it once.
    """
    entries = item.get("ocr")
    if isinstance(entries, str):
        findings.add("text.type", f"{item['id']}: ocr is a string")
        return clean_text(item, "ocr", findings)
    if not isinstance(entries, list):
        findings.add("text.missing" if entries is None else "text.type", f"{item['id']}: ocr")
        return ""
    parts: list[str] = []
    for entry in entries:
        said = clean_text(entry, "text", findings, item["id"]) if isinstance(entry, dict) else ""
        if not isinstance(entry, dict):
            findings.add("text.type", f"{item['id']}: an ocr entry is no object")
        if said and said not in parts[-1:]:
            parts.append(said)
    return " ".join(parts)
