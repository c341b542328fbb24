"""Video files: one frame per second, as the JPEG bytes that an archive of frames would hold."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import simplejpeg

from wbdc.core.findings import Findings
from wbdc.core.frame_limit import MAX_FRAMES
from wbdc.data.damaged_files import DAMAGED_FILE_ERRORS, MAX_FILE_BYTES
from wbdc.data.frame_sampling import sample_frames
from wbdc.data.frames import MAX_PIXELS
from wbdc.data.pyav import (
    CONTAINER_FORMATS,
    import_av,
    open_container,
    raise_if_memory_ran_out,
    scaling_flags,
)

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

MAX_DECODED_FRAMES = 240 * MAX_FRAMES  # a file may declare a million frames without duration
# larger frames are reduced to this short side: vision towers take less, and up to 32 frames of
# each video are stored
MAX_SHORT_SIDE_PIXELS = 512
JPEG_QUALITY = 95

Frame = TypeVar("Frame")


def read_clip(path: Path, max_frames: int, findings: Findings) -> list[bytes]:
    """Read frames of a video file as JPEGs in time order.

    Of the frames displayed at 0, 1, ... 31 seconds after the first one, `max_frames` are sampled by
    position. They are upright RGB with square pixels, a short side of at most 512 pixels, quality
    95 and no chroma subsampling. Every run gives equal bytes. A damaged stream gives the frames
    before the damage; every fault is counted in `findings`. Raises EnvironmentFault when PyAV is
    not installed.
    """
    av = import_av()
    location = f"{path.parent.name}/{path.name}"
    encoded: list[bytes] = []
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            findings.add("archive.huge", location)
            return []

        limits = {"max_pixels": str(MAX_PIXELS)}
        with open_container(av, path, CONTAINER_FORMATS, **limits) as container:
            # `extend` keeps the frames before an error
            encoded.extend(_encode_frames(container, scaling_flags(av)))
        if not encoded:
            findings.add("archive.empty", location)
    except FileNotFoundError:
        findings.add("archive.missing", location)
    except (*DAMAGED_FILE_ERRORS, av.FFmpegError) as error:
        raise_if_memory_ran_out(av, error)
        findings.add("frame.unreadable" if encoded else "archive.broken", f"{location}: {error}")
    return [encoded[i] for i in sample_frames(len(encoded), max_frames)]


def one_frame_per_second(frames: Iterable[tuple[Fraction, Fraction, Frame]]) -> Iterator[Frame]:
    """Yield the frames that are displayed at 0, 1, 2, ... seconds, as soon as they are known.

    frames: (start, end, frame) in seconds, sorted by start; the first starts at 0.
    """
    second = 0
    last_end = Fraction(0)
    last_frame = None
    for start, end, frame in frames:
        while second < start:
            yield last_frame
            second += 1
        if second == start:
            yield frame
            second += 1
        last_end = end
        last_frame = frame

    while second < last_end:
        yield last_frame
        second += 1


def rotate_upright(image: np.ndarray, matrix: list[int]) -> np.ndarray:
    """Rotate and mirror an image (H, W, 3) by a display matrix, to the nearest quarter turn.

    matrix: a, b, u, c, d, ... of ISO/IEC 14496-12 (2022), 6.2.2: the pixel at (x, y) is displayed
    at (ax + cy, bx + dy).
    """
    a, b, _, c, d = matrix[:5]
    if abs(b) > abs(a):
        image = image.transpose(1, 0, 2)
        a = c
        d = b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _encode_frames(container: "InputContainer", flags: int) -> Iterator[bytes]:
    """Encode the frame of each second. A container without a video stream gives none.

    Raises EOFError when the file declares a longer video, as an incomplete download does.
    """
    stream = container.streams.best("video")
    if stream is None:
        return

    count = 0
    frames = one_frame_per_second(_decode_timed_frames(container, stream))
    for frame in islice(frames, MAX_FRAMES):
        yield _encode_jpeg(frame, flags)
        count += 1

    seconds = _declared_seconds(container, stream)
    if count + 1 < min(MAX_FRAMES, seconds):
        raise EOFError(f"ends after {count} of {seconds:.1f} seconds")


def _declared_seconds(container: "InputContainer", stream: "VideoStream") -> float:
    """Return the duration that a file declares for a stream; 0 when it declares none.

    Matroska declares the end of the whole file only.
    """
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return container.duration / 1_000_000 - float((stream.start_time or 0) * stream.time_base)
    return 0.0


def _decode_timed_frames(
    container: "InputContainer", stream: "VideoStream"
) -> "Iterator[tuple[Fraction, Fraction, VideoFrame]]":
    """Yield (start, end, frame) in seconds since the first frame. Starts never decrease."""
    if stream.codec_context is None:
        raise ValueError("no decoder for this kind of video")
    stream.codec_context.thread_count = 1  # several videos are read at the same time
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    is_avi = container.format.name == "avi"  # it numbers frames in display order, without times

    first = None
    start = Fraction(0)
    end = Fraction(0)
    for frame in islice(container.decode(stream), MAX_DECODED_FRAMES):
        stamp = frame.dts if is_avi else frame.pts
        if stamp is None:
            start = end
        else:
            first = stamp if first is None else first
            start = max(start, (stamp - first) * stream.time_base)
        end = start + frame.duration * stream.time_base
        yield start, end, frame


def _encode_jpeg(frame: "VideoFrame", flags: int) -> bytes:
    """Encode a frame as an upright JPEG."""
    short = min(frame.width, frame.height)
    width, height = (
        side * min(MAX_SHORT_SIDE_PIXELS, short) // short for side in (frame.width, frame.height)
    )
    image = frame.reformat(width, height, "rgb24", interpolation=flags, threads=1).to_ndarray()
    if matrix := frame.side_data.get("DISPLAYMATRIX"):
        image = rotate_upright(image, np.frombuffer(bytes(matrix), np.int32).tolist())
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), JPEG_QUALITY, "RGB", "444", fastdct=False
    )
