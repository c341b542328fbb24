"""Small data in the layout of the contest: images of a few pixels, archives of a few frames, a data
root of twenty videos. And helpers that run and stop processes.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import wave
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from wbdc.core.image_settings import ImageSettings

IMAGE_SETTINGS = ImageSettings(32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
LABELS = ("0000", "0001", "0100", "0203")
SPLITS = {"labeled": 12, "unlabeled": 4, "test": 4}
HANGS_SECONDS = 600  # so long that a process on a busy machine ends before


def image(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Return a smooth image with some noise, similar to a photo."""
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
    """Encode an image."""
    stream = io.BytesIO()
    picture.save(stream, form, **settings)
    return stream.getvalue()


def photos(count: int, seed: int = 0, **size: int) -> list[bytes]:
    """Return `count` different images as JPEG."""
    return [encode(image(seed=100 * seed + i, **size)) for i in range(count)]


def numbers(rows: np.ndarray) -> bytes:
    """Encode an array as .npy; objects are allowed."""
    stream = io.BytesIO()
    np.save(stream, rows, allow_pickle=True)
    return stream.getvalue()


def wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    """Encode samples (n, channels) int16 as .wav."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return stream.getvalue()


def pack(
    path: Path,
    members: dict[str, bytes] | list[tuple[str, bytes]],
    method: int = zipfile.ZIP_STORED,
) -> Path:
    """Write a zip archive. Equal members give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def frames(encoded: list[bytes]) -> dict[str, bytes]:
    """Name frames as in the contest: 1.jpg, 2.jpg, ..."""
    return {f"{i}.jpg": data for i, data in enumerate(encoded, 1)}


def ids(split: str) -> list[str]:
    """Return the ids of a split: 20 digits, which overflow int64. The first labeled id begins with
    zeros.
    """
    number = list(SPLITS).index(split)
    start = 10_000_000_000_000_000_000 * (1 + number // 2) + 1000 * number
    names = [str(start + 7 * i) for i in range(SPLITS[split])]
    return ["00000000000000000001", *names[1:]] if split == "labeled" else names


def items(split: str) -> list[dict]:
    """Return the annotations of a split."""
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
    """Return the path of the archive of a video."""
    return root / "zip_frames" / split / name[-3:] / f"{name}.zip"


def root(into: Path) -> Path:
    """Write a data root with archives of 0 to 4 JPEG frames. One frame is damaged."""
    for split in SPLITS:
        annotate(into, split, items(split))
        for i, name in enumerate(ids(split)):
            encoded = photos(i % 5, i)
            if i == 3:
                encoded[1] = encoded[1][: len(encoded[1]) // 2]
            pack(archive(into, split, name), frames(encoded))
    return into


def audio(root: Path, split: str, name: str, ending: str) -> Path:
    """Return the path of the audio file of a video, in the contest of `audio_contest`."""
    return root / "audio" / split / f"{name}.{ending}"


def audio_contest(folder: Path, ending: str) -> Path:
    """Write a contest whose videos have a modality `audio` in files of one ending."""
    file = folder / "own.py"
    lines = (
        "from wbdc.competitions.wechat2022 import WeChat2022",
        "class Own(WeChat2022):",
        f'    modalities = {{"audio": "audio/{{split}}/{{id}}.{ending}"}}',
    )
    file.write_text("\n".join(lines))
    return file


def add_audio(root: Path, ending: str, content: Callable[[int], bytes]) -> Path:
    """Write the audio files of a data root: every fifth video of a split has none.

    content: the bytes of the file of a video, by its number in the split.
    """
    for split in SPLITS:
        for i, name in enumerate(ids(split)):
            if i % 5:
                path = audio(root, split, name, ending)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content(i))
    return root


def features(into: Path, width: int = 6) -> Path:
    """Write a data root with features of 0 to 4 frames."""
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
    """Run a script in a process of its own, which may be killed or limited."""
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | settings
    return start([sys.executable, "-c", script, *map(str, arguments)], **settings)


def soon(is_met: Callable[[], object], seconds: float = 20) -> object:
    """Wait until `is_met` returns something true, and return its last result."""
    end = time.monotonic() + seconds
    while not is_met() and time.monotonic() < end:
        time.sleep(0.02)
    return is_met()


def pids_in(folder: Path) -> list[int]:
    """Read the process ids that a script wrote to the file `pids` of a folder."""
    file = folder / "pids"
    return [int(line) for line in file.read_text().split()] if file.is_file() else []


def ended_process() -> int:
    """Return the id of a process that has ended."""
    with subprocess.Popen(["true"]) as child:
        child.wait()
    return child.pid


def stop_midway(
    command: Sequence[object], folder: Path, has_begun: Callable[[], object], **variables: str
) -> tuple[int, str]:
    """Run a command, send SIGTERM when its work has begun, and return its exit code and stderr.

    place: folder for its temporary files and its stderr. has_begun: returns whether to stop it.
    Fails when the command ends before that, or when a process or a temporary file of it remains.
    """
    home = folder / "tmp"
    errors = folder / "stderr"
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
        assert soon(lambda: has_begun() or process.poll() is not None, HANGS_SECONDS), (
            "the work did not begin"
        )
        process.terminate()
        code = process.wait(HANGS_SECONDS)
    finally:
        remaining = soon_none(lambda: processes_with(home), 5)
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    message = errors.read_text()
    assert not remaining, (code, message)
    assert not list(home.iterdir()), (code, message)
    return code, message


def soon_none(find: Callable[[], list], seconds: float) -> list:
    """Wait until `find` returns an empty list, and return its last result."""
    soon(lambda: not find(), seconds)
    return find()


def processes_with(home: Path) -> list[int]:
    """List the processes whose TMPDIR is a folder: all that a command started."""
    setting = f"TMPDIR={home}".encode()
    processes: list[int] = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if setting in path.read_bytes().split(b"\0"):
                processes.append(int(path.parent.name))
    return processes
