"""One shard of frames: what the archives of a few hundred videos hold, read once, by this process
or by any other.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wbdc.competitions import Source, open_competition
from wbdc.core.errors import DataInvalid
from wbdc.core.findings import Findings
from wbdc.core.limits import MAX_FRAMES
from wbdc.data.archive import read_features, read_images
from wbdc.data.frames import THUMBNAIL_PIXELS, probe_image
from wbdc.data.store import join_images, write_shard
from wbdc.prepare.describe.duplicates import frame_hashes

MEASURES = (
    "width",
    "height",
    "bytes",
    "brightness",
    "contrast",
)  # of a frame; all 0 for a damaged one
EVERYTHING = 1_000_000  # places a shard may name: all of them


class ShardJob(NamedTuple):
    """What makes one shard, small enough to be sent to another machine.

    path: of the shard; competition: its name, or the path of its file; start: row of its first
    video; threads: that read.
    """

    path: Path
    root: Path
    competition: str
    split: str
    start: int
    ids: tuple[str, ...]
    holds: str
    threads: int


def make_shard(job: ShardJob) -> None:
    """Read a shard's videos and publish it. Doing so twice, or elsewhere, gives the same bytes."""
    write_shard(job.path, *read_measures(job))


def read_measures(job: ShardJob) -> tuple[dict[str, list[np.ndarray]], dict]:
    """Read a shard's videos: its columns, and facts {"counts": usable frames per video, "findings",
    "widths": of features, each with a video}.

    Raises DataInvalid for features of different widths.
    """
    contest = open_competition(job.competition)
    sources = [contest.source(job.root, job.split, name) for name in job.ids]
    with ThreadPoolExecutor(job.threads) as pool:
        seen = list(pool.map(_features if job.holds == "features" else _pictures, sources, job.ids))
    found = Findings(EVERYTHING)
    for _, report in seen:  # in the order of videos, whatever the threads did
        found.merge(report)
    columns = {name: [columns[name] for columns, _ in seen] for name in seen[0][0]}
    if job.holds == "features":
        counts, widths = (
            [len(rows) for rows in columns["features"]],
            _widths(columns["features"], job.ids),
        )
    else:
        counts, widths = [int((m[:, 0] > 0).sum()) for m in columns["measures"]], {}
        columns["hashes"] = np.split(
            frame_hashes(np.concatenate(columns.pop("thumbs"))),
            np.cumsum([len(m) for m in columns["measures"]])[:-1],
        )
    return columns, {"counts": counts, "findings": found.report(), "widths": widths}


def check_feature_width(widths: dict[str, str]) -> None:
    """Raise DataInvalid when features have several widths. widths: {numbers per frame: a video that
    has so many}.
    """
    if len(widths) > 1:
        raise DataInvalid(
            f"features must be equally wide: {', '.join(f'those of {name} have {width} numbers' for width, name in widths.items())}"
        )


def _widths(rows: list[np.ndarray], ids: tuple[str, ...]) -> dict[str, str]:
    widths = {str(r.shape[1]): name for r, name in zip(rows, ids) if len(r)}
    check_feature_width(widths)
    return widths


def _features(source: Source, name: str) -> tuple[dict[str, np.ndarray], dict]:
    found = Findings(EVERYTHING)
    return {"features": read_features(source, MAX_FRAMES, found)}, found.report()


def _pictures(source: Source, name: str) -> tuple[dict[str, np.ndarray], dict]:
    """Read the frames of a video and prove each once: damaged ones become b"", so that positions
    stay.
    """
    found, measures, thumbs = Findings(EVERYTHING), [], []
    encoded = (
        read_images(source, MAX_FRAMES, found) if source.path.is_file() else []
    )  # what is missing was counted by the check
    for number, data in enumerate(encoded):
        proof = probe_image(data, found, f"{name}#{number}") if data else None
        if proof is None:
            encoded[number], measure, thumb = (
                b"",
                (0,) * len(MEASURES),
                np.zeros((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), np.uint8),
            )
        else:
            width, height, thumb = proof
            measure = (
                width,
                height,
                len(data),
                round(float(thumb.mean())),
                round(float(thumb.std())),
            )
        measures.append(measure)
        thumbs.append(thumb)
    measured = {
        "measures": np.array(measures, np.int32).reshape(-1, len(MEASURES)),
        "thumbs": np.array(thumbs, np.uint8).reshape(-1, THUMBNAIL_PIXELS, THUMBNAIL_PIXELS),
    }
    return join_images(encoded) | measured, found.report()
