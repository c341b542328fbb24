"""The sound of a video: a sound file, or the video file itself, decoded to samples."""

from collections.abc import Iterator
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from wbdc.competitions import NO_FRAMES, Source
from wbdc.core.findings import Findings
from wbdc.core.frame_limit import MAX_FRAMES
from wbdc.core.mel_settings import SAMPLE_RATE
from wbdc.data.damaged_files import DAMAGED_FILE_ERRORS, MAX_FILE_BYTES
from wbdc.data.pyav import (
    CONTAINER_FORMATS,
    import_av,
    open_container,
    raise_if_memory_ran_out,
)

if TYPE_CHECKING:
    from av.container import InputContainer

SOUND_FORMATS = f"{CONTAINER_FORMATS},wav,flac,mp3,ogg"
MAX_SOUND_SAMPLES = MAX_FRAMES * SAMPLE_RATE  # the seconds of which frames are read, too
MAX_SILENT_PEAK = 3  # of 32,768: what a lossy codec makes of silence
MIN_DECLARED_RATE, MAX_DECLARED_RATE = 1000, 768_000  # samples a second that a file may declare
MAX_DECODED_PACKETS = 100_000  # a file may hold any number of packets without samples


def read_sound(source: Source, findings: Findings) -> np.ndarray:
    """Read the first 32 seconds of the sound of a video: (n,) int16, mono, 16,000 samples a second;
    no samples when there is no sound.

    A damaged stream gives the sound before the damage. A file that cannot be read, one that is cut,
    and one without sound or with silence are counted in `findings`; a missing one is not. Equal
    files give equal samples on processors of one kind. Raises EnvironmentFault when PyAV is not
    installed.
    """
    if source == NO_FRAMES:
        return np.zeros(0, np.int16)
    av = import_av()
    location = f"{source.path.parent.name}/{source.path.name}"
    parts: list[np.ndarray] = []
    try:
        if source.path.stat().st_size > MAX_FILE_BYTES:
            findings.add("sound.huge", location)
            return np.zeros(0, np.int16)
        with open_container(av, source.path, SOUND_FORMATS) as container:
            parts.extend(_decode_samples(container, av))  # `extend` keeps those before an error
    except FileNotFoundError:
        return np.zeros(0, np.int16)
    except (*DAMAGED_FILE_ERRORS, av.FFmpegError) as error:
        raise_if_memory_ran_out(av, error)
        findings.add("sound.cut" if parts else "sound.broken", f"{location}: {error}")
        if not parts:
            return np.zeros(0, np.int16)

    samples = np.concatenate(parts or [np.zeros(0, np.int16)])[:MAX_SOUND_SAMPLES]
    if np.abs(samples.astype(np.int32)).max(initial=0) <= MAX_SILENT_PEAK:
        findings.add("sound.silent", location)
        return samples[:0]
    return samples


def _decode_samples(container: "InputContainer", av: ModuleType) -> Iterator[np.ndarray]:
    """Yield parts of at least 32 seconds, or of the whole sound: (n,) int16 each. A container
    without a sound stream gives none.

    Raises ValueError for a rate that no sound has, and where the rate or the channels change.
    """
    stream = container.streams.best("audio")
    if stream is None:
        return
    if stream.codec_context is None:
        raise ValueError("no decoder for this kind of sound")
    stream.codec_context.thread_count = 1  # several videos are read at the same time

    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    has_frames = False
    count = 0
    for frame in islice(container.decode(stream), MAX_DECODED_PACKETS):
        if not MIN_DECLARED_RATE <= frame.sample_rate <= MAX_DECLARED_RATE:
            raise ValueError(f"declares {frame.sample_rate:,} samples a second")
        has_frames = True
        for resampled in resampler.resample(frame):
            yield resampled.to_ndarray()[0]
            count += resampled.samples
        if count >= MAX_SOUND_SAMPLES:
            return
    if has_frames:
        yield from (resampled.to_ndarray()[0] for resampled in resampler.resample(None))
