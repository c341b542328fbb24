"""PyAV, the decoder of video and sound files: an optional package, imported when needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from wbdc.core.errors import EnvironmentFault
from wbdc.core.files import open_regular
from wbdc.core.out_of_memory import is_memory_short, is_out_of_memory, raise_if_exhausted

if TYPE_CHECKING:
    from av.container import InputContainer

# without formats that refer to other files, for example playlists
CONTAINER_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"


def import_av() -> ModuleType:
    """Import PyAV 18 or newer.

    Older versions convert colors differently on different processors, and do not report the
    duration of a frame. Raises EnvironmentFault.
    """
    try:
        import av

        scaling_flags(av)
    except (ImportError, AttributeError) as error:
        raise EnvironmentFault(
            "video and sound files are read with PyAV 18 or newer, which is not installed; "
            "run: pip install 'wbdc[video]'"
        ) from error
    return av


def scaling_flags(av: ModuleType) -> int:
    """Return FFmpeg's flags for converting and scaling pixels.

    Results are equal on all processors, and colors do not become darker or shift.
    """
    flags = av.video.reformatter.Interpolation
    return flags.BICUBIC | flags.FULL_CHR_H_INT | flags.ACCURATE_RND | flags.BITEXACT


@contextmanager
def open_container(
    av: ModuleType, path: Path, formats: str, **limits: str
) -> Iterator["InputContainer"]:
    """Open a video or sound file of one of some formats. limits: further options of FFmpeg."""
    # PyAV gets an open file, since it would take a path for a URL
    with (
        open_regular(path) as file,
        av.open(file, options={"format_whitelist": formats, **limits}) as container,
    ):
        yield container


def raise_if_memory_ran_out(av: ModuleType, error: Exception) -> None:
    """Raise an error of PyAV or of Python again if it means that this machine has no memory left: a
    damaged file that declares an absurd length causes the same error.
    """
    if not isinstance(error, av.FFmpegError):
        raise_if_exhausted(error)
    elif is_out_of_memory(error) and is_memory_short():
        raise error
