"""Clips: the frames of a video file, one a second, as the JPEG bytes that an archive of frames
would hold.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import simplejpeg

from wbdc.core.errors import EnvironmentLacks
from wbdc.core.files import open_regular
from wbdc.core.findings import Findings
from wbdc.core.limits import MAX_FRAMES
from wbdc.core.out_of_memory import is_memory_short, is_out_of_memory, raise_if_exhausted
from wbdc.data.frame_sampling import DAMAGED_FILE_ERRORS, MAX_FILE_BYTES, sample_frames
from wbdc.data.frames import MAX_PIXELS

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

# no format that names further files to open, as a playlist does
CONTAINER_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
MAX_DECODED_FRAMES = 240 * MAX_FRAMES  # a file may say that a million frames last no time
# pixels: a longer short side is scaled to it; towers look at less, and the store keeps 32 frames of
# every video
MAX_SHORT_SIDE_PIXELS = 512
JPEG_QUALITY = 95

Frame = TypeVar("Frame")


def read_clip(path: Path, most: int, findings: Findings) -> list[bytes]:
    """Read a video file as JPEGs in time order: of the frames shown at 0, 1, ... 31 seconds, `most`
    chosen by position.

    Time counts from the first frame. Frames are upright RGB, their short side at most 512 pixels,
    quality 95 without subsampling; pixels are taken as
    square. Equal bytes on every run. A stream that breaks gives what came before; each fault is
    counted. Raises EnvironmentLacks without PyAV.
    """
    av, place, encoded = _import_av(), f"{path.parent.name}/{path.name}", []
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            findings.add("archive.huge", place)
            return []
        limits = {"format_whitelist": CONTAINER_FORMATS, "max_pixels": str(MAX_PIXELS)}
        with (
            open_regular(path) as file,
            av.open(file, options=limits) as container,
        ):  # a file, not its name: a name may be an address
            encoded.extend(
                _encode_frames(container, _scaling_flags(av))
            )  # of a stream that breaks, what came before
        if not encoded:
            findings.add("archive.empty", place)
    except FileNotFoundError:
        findings.add("archive.missing", place)
    except (*DAMAGED_FILE_ERRORS, av.FFmpegError) as error:
        if not isinstance(error, av.FFmpegError):
            raise_if_exhausted(error)
        elif is_out_of_memory(error) and is_memory_short():
            raise  # FFmpeg also fails so when a damaged file declares an absurd length
        findings.add("frame.unreadable" if encoded else "archive.broken", f"{place}: {error}")
    return [encoded[i] for i in sample_frames(len(encoded), most)]


def one_frame_per_second(frames: Iterable[tuple[Fraction, Fraction, Frame]]) -> Iterator[Frame]:
    """Yield what is shown at 0, 1, 2, ... seconds, as soon as that is known. frames: (start, end,
    what) in order of start, the first at 0.
    """
    second, end, shown = 0, Fraction(0), None
    for start, until, what in frames:
        while second < start:
            yield shown
            second += 1
        if second == start:
            yield what
            second += 1
        end, shown = until, what
    while second < end:
        yield shown
        second += 1


def rotate_upright(picture: np.ndarray, matrix: list[int]) -> np.ndarray:
    """Turn and mirror a picture (H, W, 3) as a display matrix says, to the nearest quarter turn.

    matrix: a, b, u, c, d, ... of ISO/IEC 14496-12 (2022), 6.2.2: what lies at (x, y) is shown at
    (ax + cy, bx + dy).
    """
    a, b, _, c, d = matrix[:5]
    if abs(b) > abs(a):
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _import_av() -> ModuleType:
    """Import PyAV. Older ones convert colours as the processor likes, and do not say how long a
    frame is shown.
    """
    try:
        import av

        _scaling_flags(av)
    except (ImportError, AttributeError) as error:
        raise EnvironmentLacks(
            "video files are read with PyAV 18 or newer, which is not installed; run: pip install 'wbdc[video]'"
        ) from error
    return av


def _scaling_flags(av: ModuleType) -> int:
    """Say how pixels are converted and scaled: equally on every processor, and with no colour
    darker or shifted.
    """
    how = av.video.reformatter.Interpolation
    return how.BICUBIC | how.FULL_CHR_H_INT | how.ACCURATE_RND | how.BITEXACT


def _encode_frames(container: "InputContainer", flags: int) -> Iterator[bytes]:
    """Encode the frame of each second; none without a video stream. Raises EOFError when the clip
    says that it is longer, as half a download does.
    """
    stream, count = container.streams.best("video"), 0
    if stream is None:
        return
    for count, frame in enumerate(
        islice(one_frame_per_second(_decode_timed_frames(container, stream)), MAX_FRAMES), 1
    ):
        yield _encode_jpeg(frame, flags)
    seconds = _declared_seconds(container, stream)
    if count + 1 < min(MAX_FRAMES, seconds):
        raise EOFError(f"ends after {count} of {seconds:.1f} seconds")


def _declared_seconds(container: "InputContainer", stream: "VideoStream") -> float:
    """Read how long a clip says it is; 0 when it does not say. Matroska tells only when the whole
    file ends.
    """
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (
        container.duration / 1_000_000 - float((stream.start_time or 0) * stream.time_base)
        if container.duration
        else 0.0
    )


def _decode_timed_frames(
    container: "InputContainer", stream: "VideoStream"
) -> "Iterator[tuple[Fraction, Fraction, VideoFrame]]":
    """Decode frames with the seconds between which each is shown, never going back in time."""
    if stream.codec_context is None:
        raise ValueError("no decoder for this kind of video")
    first, start, end = None, Fraction(0), Fraction(0)
    stream.codec_context.thread_count = 1  # videos are read side by side
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    counted = (
        container.format.name == "avi"
    )  # it numbers frames as they are shown, and gives no other time
    for frame in islice(container.decode(stream), MAX_DECODED_FRAMES):
        stamp = frame.dts if counted else frame.pts
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
    picture = frame.reformat(width, height, "rgb24", interpolation=flags, threads=1).to_ndarray()
    if turn := frame.side_data.get("DISPLAYMATRIX"):
        picture = rotate_upright(picture, np.frombuffer(bytes(turn), np.int32).tolist())
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(picture), JPEG_QUALITY, "RGB", "444", fastdct=False
    )
