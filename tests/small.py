"""Small data as the contest gives them: pictures of a few pixels, archives of a few frames, a root
of twenty videos.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from wbdc.core.image_transform import ImageTransform

LOOK = ImageTransform(32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
LABELS = ("0000", "0001", "0100", "0203")
SPLITS = {"labeled": 12, "unlabeled": 4, "test": 4}


def image(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Draw a smooth picture with some noise, as photos are: what resampling and JPEG treat gently
    and not so gently.
    """
    random = np.random.default_rng([seed, width, height])
    coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return Image.fromarray(
        (np.asarray(coarse) + random.normal(0, 12, (height, width, 3)))
        .clip(0, 255)
        .astype(np.uint8)
    )


def encode(picture: Image.Image, form: str = "JPEG", **settings: object) -> bytes:
    """Encode a picture."""
    stream = io.BytesIO()
    picture.save(stream, form, **settings)
    return stream.getvalue()


def photos(count: int, seed: int = 0, **size: int) -> list[bytes]:
    """Encode `count` different JPEG pictures."""
    return [encode(image(seed=100 * seed + i, **size)) for i in range(count)]


def numbers(rows: np.ndarray) -> bytes:
    """Encode an array as .npy, objects and all."""
    stream = io.BytesIO()
    np.save(stream, rows, allow_pickle=True)
    return stream.getvalue()


def pack(
    path: Path,
    members: dict[str, bytes] | list[tuple[str, bytes]],
    method: int = zipfile.ZIP_STORED,
) -> Path:
    """Write an archive, of equal members in equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def frames(encoded: list[bytes]) -> dict[str, bytes]:
    """Name frames as the contest does: 1.jpg, 2.jpg, ..."""
    return {f"{i}.jpg": data for i, data in enumerate(encoded, 1)}


def ids(split: str) -> list[str]:
    """Name the videos of a split: 20 digits, which overflow int64; the first of all begins with
    zeros.
    """
    start = 10_000_000_000_000_000_000 * (1 + list(SPLITS).index(split) // 2) + 1000 * list(
        SPLITS
    ).index(split)
    found = [str(start + 7 * i) for i in range(SPLITS[split])]
    return ["00000000000000000001", *found[1:]] if split == "labeled" else found


def items(split: str) -> list[dict]:
    """Annotate a split."""
    rows = [
        {
            "id": name,
            "title": f"标题 {i}",
            "asr": f"speech {i} 说话" * (i % 3),
            "ocr": [{"time": t, "text": f"字幕 {t // 2}"} for t in range(i % 5)],
        }
        for i, name in enumerate(ids(split))
    ]
    return (
        [row | {"category_id": LABELS[i % len(LABELS)]} for i, row in enumerate(rows)]
        if split == "labeled"
        else rows
    )


def annotate(root: Path, split: str, rows: list[dict]) -> Path:
    """Write the annotations of a split."""
    path = root / "annotations" / f"{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False))
    return path


def archive(root: Path, split: str, name: str) -> Path:
    """Say where the archive of a video lies."""
    return root / "zip_frames" / split / name[-3:] / f"{name}.zip"


def root(into: Path) -> Path:
    """Write a data root with JPEG archives of 0 to 4 frames; one holds a damaged frame."""
    for split in SPLITS:
        annotate(into, split, items(split))
        for i, name in enumerate(ids(split)):
            shown = photos(i % 5, i)
            if i == 3:
                shown[1] = shown[1][: len(shown[1]) // 2]
            pack(archive(into, split, name), frames(shown))
    return into


def features(into: Path, width: int = 6) -> Path:
    """Write a data root with ready features of 0 to 4 frames."""
    for number, split in enumerate(SPLITS):
        annotate(into, split, items(split))
        random = np.random.default_rng(number)
        rows = {
            f"{name}.npy": numbers(random.normal(size=(i % 5, width)).astype(np.float16))
            for i, name in enumerate(ids(split))
        }
        pack(into / "zip_feats" / f"{split}.zip", rows)
    return into


def python(
    script: str, *arguments: object, start: Callable = subprocess.run, **settings: object
) -> subprocess.CompletedProcess | subprocess.Popen:
    """Run a script in a process of its own, to be killed or limited there."""
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | settings
    return start([sys.executable, "-c", script, *map(str, arguments)], **settings)


def soon(is_met: Callable[[], object], seconds: float = 20) -> object:
    """Wait until something is the case, and return what it is by then."""
    end = time.monotonic() + seconds
    while not is_met() and time.monotonic() < end:
        time.sleep(0.02)
    return is_met()


def pids_in(place: Path) -> list[int]:
    """Read the process ids that a script wrote to the file `pids`."""
    file = place / "pids"
    return [int(line) for line in file.read_text().split()] if file.is_file() else []


def ended_process() -> int:
    """Return the number of a process that has ended."""
    with subprocess.Popen(["true"]) as child:
        child.wait()
    return child.pid


def stop_midway(
    command: Sequence[object], place: Path, has_begun: Callable[[], object], **variables: str
) -> tuple[int, str]:
    """Run a command, send SIGTERM once its work has begun, and return its exit code and stderr.

    place: a folder for its temporary files and its stderr. has_begun: takes no arguments.
    Fails when the command ends before that, or leaves a process or a temporary file behind.
    """
    home, errors = place / "tmp", place / "stderr"
    home.mkdir(parents=True)
    environment = os.environ | {"TMPDIR": str(home)} | variables
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [str(word) for word in command],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        assert soon(lambda: has_begun() or process.poll() is not None, 120), "it never began"
        process.terminate()
        code = process.wait(60)
    finally:
        left = soon_none(lambda: processes_with(home), 5)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    said = errors.read_text()
    assert not left, (code, said)
    assert not list(home.iterdir()), (code, said)
    return code, said


def soon_none(find: Callable[[], list], seconds: float) -> list:
    """Wait until nothing is found any more, and return what is found by then."""
    soon(lambda: not find(), seconds)
    return find()


def processes_with(home: Path) -> list[int]:
    """List the processes whose temporary files lie in a folder: all that a command started."""
    setting, found = f"TMPDIR={home}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if setting in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found
