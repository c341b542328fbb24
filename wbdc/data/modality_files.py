"""Files of a further modality, for example audio: one array of features for each video."""

from collections.abc import Callable

import numpy as np

from wbdc.competitions import NO_FRAMES, Source
from wbdc.core.files import open_regular
from wbdc.core.findings import Findings
from wbdc.core.modality_limit import MAX_STEPS
from wbdc.core.out_of_memory import raise_if_exhausted
from wbdc.data.damaged_files import DAMAGED_FILE_ERRORS
from wbdc.data.frame_sampling import sample_frames
from wbdc.data.npy import parse_npy

MAX_MODALITY_BYTES = 64 * 2**20  # of the file of one video


def read_modality(source: Source, findings: Findings, width: int | None = None) -> np.ndarray:
    """Read the features of one video: (n, D) float16, or (0, width or 0) when there are none.

    A .npy file holds a float array of the shape (n, D), in the order of time, or (D,), one vector
    of the whole video. Of more than MAX_STEPS rows, so many are sampled by position. width: D that
    is expected; None for any. A file that cannot be read, or with another D, is counted in
    `findings`; a missing one is not.
    """
    rows = read_modality_file(
        source,
        findings,
        MAX_MODALITY_BYTES,
        lambda data: _check_features(parse_npy(data), width),
    )
    return np.zeros((0, width or 0), np.float16) if rows is None else rows


def read_modality_file(
    source: Source, findings: Findings, max_bytes: int, parse: Callable[[bytes], np.ndarray]
) -> np.ndarray | None:
    """Return what `parse` makes of the content of the file of a further modality; None for a
    missing file, and for one that cannot be read, which is counted in `findings`.

    parse: raises one of DAMAGED_FILE_ERRORS for a damaged file.
    """
    if source == NO_FRAMES:
        return None

    location = f"{source.path.parent.name}/{source.path.name}"
    try:
        if source.path.stat().st_size > max_bytes:
            findings.add("modality.huge", location)
            return None
        with open_regular(source.path) as file:
            return parse(file.read(max_bytes))
    except FileNotFoundError:
        return None
    except DAMAGED_FILE_ERRORS as error:
        raise_if_exhausted(error)
        findings.add("modality.broken", f"{location}: {error}")
        return None


def sample_steps(rows: np.ndarray, steps: int) -> np.ndarray:
    """Return at most so many rows of the features of a video, sampled by position."""
    return rows[sample_frames(len(rows), steps)]


def _check_features(rows: np.ndarray, width: int | None) -> np.ndarray:
    """Return rows as (n, D) float16. Raises ValueError for another shape or type."""
    if rows.dtype.kind != "f" or rows.ndim not in (1, 2):
        raise ValueError(f"shape {rows.shape} of {rows.dtype}, not (n, D) or (D,) of floats")
    if rows.size == 0:
        raise ValueError(f"shape {rows.shape}, which holds no numbers")
    rows = np.atleast_2d(rows)
    if width is not None and rows.shape[1] != width:
        raise ValueError(f"{rows.shape[1]} numbers a row, not {width}")
    with np.errstate(over="ignore"):
        rows = sample_steps(rows, MAX_STEPS).astype(np.float16)
    if not np.isfinite(rows).all():
        raise ValueError("numbers that are not finite in float16")
    return rows
