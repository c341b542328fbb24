"""Competitions: each file defines the rules of one contest, and nothing that a team chooses."""

import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Collection, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wbdc.competitions.formats.relative_path import is_inside
from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.core.files import file_sha256 as hash_file
from wbdc.core.files import publish_bytes, read_bytes, read_text
from wbdc.core.findings import Findings

if TYPE_CHECKING:
    import numpy as np

CONTEST_FOLDER = "contest"  # of a package, for the file that defines the contest
# they name tensors, columns and settings
MODALITY_NAME_PATTERN = re.compile(r"[a-z][a-z0-9]{0,31}")
RESERVED_NAMES = ("id", "label", "text", "frames")
CLIP_SUFFIXES = (".mp4", ".webm", ".avi", ".mkv", ".mov")  # of video files
FEATURE_SUFFIX = ".npy"  # of the features of a further modality
SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".m4a", *CLIP_SUFFIXES)  # of a further modality
TOKENS_SUFFIX = ".txt"  # of the speech tokens of a further modality
FRAMES_FILE = "{frames}"  # the path of a further modality: the video file that holds the frames


class Source(NamedTuple):
    """Where the frames of a video are stored.

    path: an archive of images, a video file, or an archive of features. member: name of the .npy
    file in a shared archive of features.
    """

    path: Path
    member: str | None = None


NO_FRAMES = Source(Path())  # of a video that has none
CONTEST_SUFFIXES = (".py", ".toml")  # of a file that defines a contest


class Video(NamedTuple):
    """One item of the annotations.

    fields: text by field name, never None. label: class id; None for an unlabeled video.
    modalities: where the file of each of the contest's further modalities is expected.
    """

    id: str
    fields: dict[str, str]
    label: str | None
    source: Source
    modalities: dict[str, Source] = {}


class FrameFile(NamedTuple):
    """A file in the folder that holds the frames of a split.

    id: video that the file belongs to; "" when it cannot belong to any. path: relative path, as it
    was found. size: bytes. modified_ns: modification time in nanoseconds; it is only compared for
    equality, to notice changes.
    """

    id: str
    path: str
    size: int
    modified_ns: int


class Limits(NamedTuple):
    """The limits of a contest.

    items: videos in the final run. seconds: wall time of the whole process for all of them. memory,
    gpu_memory: bytes. tolerance: allowed difference between the scores of a submission and of the
    same submission trained again.
    """

    items: int
    seconds: float
    memory: int | None = None
    gpu_memory: int | None = None
    tolerance: float | None = None


class JudgePaths(NamedTuple):
    """Paths on the machine of the judge. data: data root; result: result file to write."""

    data: str = "data"
    result: str = "result.csv"


class Target(NamedTuple):
    """A format of submissions that a contest accepts.

    parts: files and folders of the package that are included; (): all. trains: the models are left
    out, and train.sh trains them. renamed: {part: its name in the target}. pretrained: folder for
    the pretrained weights. zipped: whether the target is one zip archive.
    """

    parts: tuple[str, ...] = ()
    trains: bool = False
    renamed: dict[str, str] = {}
    pretrained: str | None = None
    zipped: bool = False


class Competition:
    """The contract of a contest. Subclass it in a file of its own, and open it with
    `open_competition`.
    """

    fields: tuple[str, ...]  # text fields, in reading order
    labeled_split: str
    unlabeled_split: str | None = None
    test_split: str
    limits: Limits | None = None
    label_key: str = "label"  # key of the class in a reply of `main.py --calls`
    score_components: tuple[str, ...] = ()  # keys of a score beside "mean", in display order
    judge_paths: JudgePaths = JudgePaths()
    needs_probabilities: bool = False  # whether the score depends on more than the best class
    # what a contest has beside text and frames: by name, the path of a video's .npy, sound or
    # .txt file below the data root, for example {"audio": "audio/{split}/{id}.npy"}; "{frames}":
    # the sound of the video file that holds the frames
    modalities: dict[str, str] = {}
    file: Path | None = None  # defines the contest; None for a contest of wbdc
    # the first is the default
    targets: dict[str, Target] = {"folder": Target(), "zip": Target(zipped=True)}

    @property
    def name(self) -> str:
        """The name in kits, runs and packages: "wechat2022", or "./shorts.py" for a file."""
        return f"./{self.file.name}" if self.file else plug.plug_name(self)

    @property
    def source_hash(self) -> str:
        """The SHA-256 of the file that defines the contest; "" for a contest of wbdc."""
        return hash_file(self.file) if self.file else ""

    def parent_class(self, label: str) -> str | None:
        """Return the group of a class, for example its level-1 class; None if classes are flat."""
        return None

    def class_counts(self) -> dict[str, int]:
        """Return the videos of each class in the contest's own labeled split, as far as they are
        published; by default {}.
        """
        return {}

    def save(self, folder: Path) -> list[Path]:
        """Copy the file that defines the contest into a folder.

        Returns a list with the path of the copy; an empty list for a contest of wbdc.
        """
        if self.file is None:
            return []
        copy = folder / self.file.name
        publish_bytes(copy, read_bytes(self.file))
        return [copy]

    def frame_format(self, root: Path) -> str:
        """Return what the archives below `root` hold: "jpeg" or "features".

        Raises DataFault for an unknown layout.
        """
        raise NotImplementedError

    def videos(
        self,
        root: Path,
        split: str,
        findings: Findings,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[Video]:
        """Yield the videos of a split in the order of its annotations.

        findings: counts the faults that were corrected. progress: called with the bytes read and
        their total. Raises DataFault for annotations that cannot be read.
        """
        raise NotImplementedError

    def column_values(self, root: Path, split: str) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield (id, {column: value}) for each video of a split, in any order: the strings and
        numbers of its annotation, without id and class.

        `wbdc prepare --groups COLUMN` groups videos by them. By default, there are none. Raises
        DataFault.
        """
        return iter(())

    def annotations_hash(self, root: Path, split: str) -> str:
        """Hash the annotations of a split. Override it where hashing the files is faster."""
        content_hash = sha256()
        for video in self.videos(root, split, Findings()):
            content_hash.update(json.dumps([video.id, video.fields, video.label]).encode())
        return content_hash.hexdigest()

    def read_fields(self, item: dict, findings: Findings) -> dict[str, str]:
        """Return the text fields of one annotation. findings: counts corrected faults."""
        raise NotImplementedError

    def source(self, root: Path, split: str, name: str) -> Source:
        """Return where the frames of a video are expected. name: id of the video."""
        raise NotImplementedError

    def modality_sources(self, root: Path, split: str, name: str) -> dict[str, Source]:
        """Return where the file of each further modality of a video is expected; {} for a contest
        without any. `videos` yields them. name: id of the video.
        """
        return {
            modality: self._sound_of_frames(root, split, name)
            if path == FRAMES_FILE
            else _inside_source(root, path.replace("{split}", split).replace("{id}", name))
            for modality, path in self.modalities.items()
        }

    def _sound_of_frames(self, root: Path, split: str, name: str) -> Source:
        """Return the video file that holds the frames of a video; NO_FRAMES if an archive does."""
        source = self.source(root, split, name)
        return source if source.path.suffix.lower() in CLIP_SUFFIXES else NO_FRAMES

    def frame_files(self, root: Path, split: str) -> Iterator[FrameFile]:
        """Yield the files in the folders of a split's frames, in a fixed order.

        Yields none when the videos of the split share one archive.
        """
        raise NotImplementedError

    def splits(self, root: Path) -> list[str]:
        """List the splits below `root`."""
        raise NotImplementedError

    def find_test_split(self, splits: Collection[str]) -> str:
        """Return the split to predict: the test split, or the last one whose name starts with its
        name (test_a, test_b).
        """
        return (
            max(
                (name for name in splits if name.startswith(self.test_split)),
                default=self.test_split,
            )
            if self.test_split not in splits
            else self.test_split
        )

    def repeat_videos(self, root: Path, into: Path, split: str, items: int) -> None:
        """Write a data root below `into` whose `split` has `items` videos.

        They are the videos of `root`, repeated under new ids. Archives may be links to those of
        `root`.
        """
        raise UsageFault(
            f"this contest does not support repeating videos; use test data of {items:,} videos "
            "or more"
        )

    def classes(self, root: Path) -> list[str]:
        """List all class ids that a result may contain, sorted."""
        raise NotImplementedError

    def score(
        self, truth: Sequence[str], predictions: Sequence[str], classes: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Score predictions: return the components of the score and their "mean".

        classes: over which macro averages are taken; None: as the official script does.
        """
        raise NotImplementedError

    def weighted_scorer(
        self, truth: "np.ndarray", predictions: "np.ndarray", classes: Sequence[str]
    ) -> "Callable[[np.ndarray], float] | None":
        """Return a function of the weights of the rows (n,) that computes the "mean" of `score` for
        rows that occur so many times; None, the default, for a contest that repeats the rows.

        truth, predictions: (n,) int, positions in `classes`. With it, a bootstrap of many rows
        takes a fraction of the time.
        """
        return None

    def score_probabilities(
        self,
        truth: Sequence[str],
        probabilities: "np.ndarray",
        classes: Sequence[str],
        *,
        official: bool = False,
    ) -> dict[str, float]:
        """Score probabilities (n, C), columns as `classes`; official: the official way, as in
        `score`.

        By default the most probable classes are scored. A contest whose score depends on the
        probabilities overrides this, and sets `needs_probabilities`. A higher "mean" is better.
        """
        predictions = [classes[code] for code in probabilities.argmax(1)]
        return self.score(truth, predictions, None if official else classes)

    def write_predictions(
        self,
        ids: Sequence[str],
        probabilities: "np.ndarray",
        classes: Sequence[str],
        path: Path,
    ) -> None:
        """Publish a result file of probabilities (n, C); by default the most probable classes."""
        labels = [classes[code] for code in probabilities.argmax(1)]
        self.write_result(ids, labels, path)

    def write_result(self, ids: Sequence[str], labels: Sequence[str], path: Path) -> None:
        """Publish a result file with one label for each id."""
        raise NotImplementedError

    def read_result(self, path: Path, ids: Sequence[str], classes: Sequence[str]) -> list[str]:
        """Read the labels of a result file in the order of `ids`.

        Raises ResultFault with the first fault.
        """
        raise NotImplementedError


Plug = Competition
REQUIRED_ATTRIBUTES = ("fields", "labeled_split", "test_split")


def open_competition(use: str, folder: Path | None = None) -> Competition:
    """Open a contest by its name, or by the path of its file. Raises UsageFault.

    folder: to which a relative path belongs; None: the current folder. Prepared data, runs,
    ensembles and packages hold a copy of the file, and are the folder of their contest.
    """
    if not is_contest_file(use):
        return plug.build_plug(sys.modules[__name__], {"use": use})
    file = Path(os.path.abspath((folder or Path()) / use))
    if not file.is_file():
        raise UsageFault(f"no competition at {file}; give the path of the file that defines it")
    if file.suffix == ".toml":
        contest = _open_table(file)
        contest.file = file
        return contest

    contest = plug.build_plug(sys.modules[__name__], {"use": str(file)})
    if missing := [name for name in REQUIRED_ATTRIBUTES if not hasattr(contest, name)]:
        raise UsageFault(
            f"{file}: {type(contest).__name__} does not state {', '.join(missing)}; "
            "add it to the class"
        )
    try:
        check_modalities(contest.modalities, contest.fields)
    except UsageFault as error:
        raise UsageFault(f"{file}: {error}") from error
    contest.file = file
    return contest


def check_modalities(modalities: dict[str, str], fields: Sequence[str]) -> None:
    """Raise UsageFault unless each modality has a plain name and the path of its files.

    fields: the names of the text fields, which no modality may have.
    """
    if not isinstance(modalities, dict):
        raise UsageFault(f"modalities = {modalities!r} is not a table of names and paths")
    for name, path in modalities.items():
        if not MODALITY_NAME_PATTERN.fullmatch(name) or name in (*RESERVED_NAMES, *fields):
            raise UsageFault(
                f"modalities cannot have the name {name!r}; choose lower-case letters and digits, "
                f"and none of {', '.join((*RESERVED_NAMES, *fields))}"
            )
        if path == FRAMES_FILE:
            continue
        if not isinstance(path, str) or "{id}" not in path or modality_content(path) is None:
            suffixes = ", ".join((FEATURE_SUFFIX, *SOUND_SUFFIXES, TOKENS_SUFFIX))
            raise UsageFault(
                f"modalities.{name} = {path!r} is not the path of a file for each video ({suffixes}"
                f'); write for example {name} = "{name}/{{id}}.npy" or "{name}/{{id}}.wav"'
            )
        if not is_inside(path):
            raise UsageFault(
                f"modalities.{name} = {path!r} leads out of the data folder; give a path below it"
            )


def modality_content(path: str) -> str | None:
    """Return what the files at a path of `Competition.modalities` hold: "features", "sound" or
    "tokens"; None for another kind of file.
    """
    if path == FRAMES_FILE or path.lower().endswith(SOUND_SUFFIXES):
        return "sound"
    if path.endswith(FEATURE_SUFFIX):
        return "features"
    return "tokens" if path.endswith(TOKENS_SUFFIX) else None


def _inside_source(root: Path, relative: str) -> Source:
    """Return a source below the data root; NO_FRAMES for a path that leads out of it."""
    return Source(root / relative) if is_inside(relative) else NO_FRAMES


def is_contest_file(use: object) -> bool:
    """Return whether a contest is named by the path of its file, code or TOML."""
    return isinstance(use, str) and use.endswith(CONTEST_SUFFIXES)


def _open_table(file: Path) -> Competition:
    """Open a contest that a TOML file describes. Raises UsageFault."""
    try:
        settings = tomllib.loads(read_text(file))
    except (ValueError, RecursionError) as error:  # broken syntax, or not UTF-8
        raise UsageFault(f"{file}: {error}") from error

    table = plug.find_plug(sys.modules[__name__], "table")
    plug.check_settings(str(file), table, settings)
    try:
        return table(**settings)
    except UsageFault as error:
        raise UsageFault(f"{file}: {error}") from error
