"""PyAV, the decoder of video and sound files: an optional package, imported when needed."""

from types import ModuleType

from wbdc.core.errors import EnvironmentFault

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
