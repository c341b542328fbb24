"""Competitions: each file holds what one contest fixes, and nothing that a team chooses."""

import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.core.files import file_sha256 as hash_file
from wbdc.core.files import publish_bytes, read_bytes
from wbdc.core.findings import Findings

CONTEST_FOLDER = "contest"  # of a package: holds the file that defines the competition
CLIP_SUFFIXES = (".mp4", ".webm", ".avi", ".mkv", ".mov")  # real video files


class Source(NamedTuple):
    """Where the frames of a video lie: an archive of pictures, a video file, or one member (.npy
    features) of a shared archive.
    """

    path: Path
    member: str | None = None


class Video(NamedTuple):
    """One item as the annotations give it. fields: text by field name, never None; label: class id,
    None when unlabelled.
    """

    id: str
    fields: dict[str, str]
    label: str | None
    source: Source


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
    """What the judge allows. items: videos in the final run; seconds: wall time of the whole
    process for all of them; memory, gpu_memory: bytes.

    tolerance: by how much the score of a retrained submission may differ.
    """

    items: int
    seconds: float
    memory: int | None = None
    gpu_memory: int | None = None
    tolerance: float | None = None


class Target(NamedTuple):
    """A form in which a judge takes submissions. parts: what of a packed folder goes along, () for
    all; trains: no models go along, train.sh makes
    them there; renamed: {part: its name there}; pretrained: folder for the pretrained weights;
    zipped: all in one archive.
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

    fields: tuple[str, ...]  # text fields, in the order they are read
    labeled_split: str  # names of the splits
    unlabeled_split: str | None = None
    test_split: str
    limits: Limits | None = None
    label_key: str = "label"  # key of the class in the answer to a call
    score_components: tuple[
        str, ...
    ] = ()  # names in a score beside "mean", in the order of a table's columns
    judge_paths: dict[str, str] = {"data": "data", "result": "result.csv"}  # paths at the judge
    file: Path | None = None  # that defines the contest, where it does not come with wbdc
    targets: dict[str, Target] = {
        "folder": Target(),
        "zip": Target(zipped=True),
    }  # the first is what is made unasked

    @property
    def name(self) -> str:
        """The name that kits, runs and packages use: "wechat2022", or "./shorts.py" for a file."""
        return f"./{self.file.name}" if self.file else plug.plug_name(self)

    @property
    def source_hash(self) -> str:
        """Hash the file that defines the contest; "" for a contest that comes with wbdc."""
        return hash_file(self.file) if self.file else ""

    def save(self, folder: Path) -> list[Path]:
        """Copy the file that defines the contest into a folder and return [the copy]; [] when it
        comes with wbdc.
        """
        if self.file is None:
            return []
        copy = folder / self.file.name
        publish_bytes(copy, read_bytes(self.file))
        return [copy]

    def frame_format(self, root: Path) -> str:
        """Say what the archives below `root` hold: "jpeg" or "features". Raises DataInvalid when
        the layout is not known.
        """
        raise NotImplementedError

    def videos(
        self,
        root: Path,
        split: str,
        findings: Findings,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> Iterator[Video]:
        """Stream one split in the order of its annotations; count in `findings` what was mended.
        progress: bytes read, of.

        Raises DataInvalid for what cannot be read.
        """
        raise NotImplementedError

    def annotations_hash(self, root: Path, split: str) -> str:
        """Hash what the annotations of a split hold. Override it where hashing their files is
        faster.
        """
        hashed = sha256()
        for video in self.videos(root, split, Findings()):
            hashed.update(json.dumps([video.id, video.fields, video.label]).encode())

        return hashed.hexdigest()

    def read_fields(self, item: dict, findings: Findings) -> dict[str, str]:
        """Return the text fields of one annotation; count in `findings` what was mended."""
        raise NotImplementedError

    def source(self, root: Path, split: str, name: str) -> Source:
        """Say where the frames of a video should lie."""
        raise NotImplementedError

    def frame_files(self, root: Path, split: str) -> Iterator[FrameFile]:
        """List in a fixed order the files that lie where a split's frames should; none when its
        videos share an archive.
        """
        raise NotImplementedError

    def splits(self, root: Path) -> list[str]:
        """List the splits that lie below `root`."""
        raise NotImplementedError

    def find_test_split(self, splits: Collection[str]) -> str:
        """Choose the split that is to be answered: the test split, or the last of those that begin
        with its name (test_a, test_b).
        """
        return (
            max((name for name in splits if name.startswith(self.test_split)), default=self.test_split)
            if self.test_split not in splits
            else self.test_split
        )

    def repeat_videos(self, root: Path, into: Path, split: str, items: int) -> None:
        """Write a data root below `into` whose `split` has `items` videos: those of `root` again
        and again, all under new ids.

        Archives may be links to those of `root`.
        """
        raise UsageFault(
            f"this competition cannot repeat videos; give test data of {items:,} videos or more"
        )

    def classes(self, root: Path) -> list[str]:
        """List every class id that an answer may name, sorted."""
        raise NotImplementedError

    def score(
        self, truth: Sequence[str], said: Sequence[str], classes: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Score answers: the components and their "mean", over `classes`, or the official way when
        None.
        """
        raise NotImplementedError

    def write_result(self, ids: Sequence[str], labels: Sequence[str], path: Path) -> None:
        """Publish a result file."""
        raise NotImplementedError

    def read_result(self, path: Path, ids: Sequence[str], classes: Sequence[str]) -> list[str]:
        """Read a result file's labels in the order of `ids`. Raises ResultInvalid, naming the
        fault.
        """
        raise NotImplementedError


Plug = Competition
REQUIRED_ATTRIBUTES = ("fields", "labeled_split", "test_split")  # what every contest must state


def open_competition(use: str, folder: Path | None = None) -> Competition:
    """Open a contest by its name, or by the path of its file. Raises UsageFault.

    folder: where a relative path starts, the current folder by default. What is prepared, trained,
    blended
    or packed holds a copy of the file, so a saved contest is opened from the folder that names it.
    """
    if not isinstance(use, str) or not use.endswith(".py"):
        return plug.build_plug(sys.modules[__name__], {"use": use})
    file = Path(os.path.abspath((folder or Path()) / use))
    if not file.is_file():
        raise UsageFault(f"no competition at {file}; give the path of the file that defines it")
    contest = plug.build_plug(sys.modules[__name__], {"use": str(file)})
    if missing := [name for name in REQUIRED_ATTRIBUTES if not hasattr(contest, name)]:
        raise UsageFault(
            f"{file}: {type(contest).__name__} does not state {', '.join(missing)}; add it to the class"
        )
    contest.file = file
    return contest
