"""One shard of frames: the content of the archives of a few hundred videos, read once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from wbdc.competitions import Competition, Source, modality_content, open_competition
from wbdc.core.errors import DataFault
from wbdc.core.findings import Findings
from wbdc.core.frame_limit import MAX_FRAMES
from wbdc.data.archive import read_features, read_images
from wbdc.data.frames import THUMBNAIL_PIXELS, probe_image
from wbdc.data.modality_rows import read_modality_rows
from wbdc.data.store import join_images, modality_column, write_shard
from wbdc.prepare.describe.duplicates import frame_hashes

# columns of the measures of a frame; all are 0 for a damaged frame
MEASURES = ("width", "height", "bytes", "brightness", "contrast")
MAX_SHARD_PLACES = 1_000_000  # places of a finding that a shard lists: all of them

Values = TypeVar("Values")


class ShardJob(NamedTuple):
    """All that a worker needs to write one shard; small enough to be sent to another machine.

    path: of the shard; root: folder of the raw data; competition: its name, or the path of its
    file; start: row of the first video; frame_format: "jpeg" or "features"; threads: readers.
    """

    path: Path
    root: Path
    competition: str
    split: str
    start: int
    ids: tuple[str, ...]
    frame_format: str
    threads: int


def make_shard(job: ShardJob) -> None:
    """Read the videos of a shard and publish it. The bytes do not depend on time or machine."""
    write_shard(job.path, *read_shard_videos(job))


def read_shard_videos(job: ShardJob) -> tuple[dict[str, list[np.ndarray]], dict]:
    """Read the videos of a shard: its columns, one array per video, and its facts.

    Facts: {"counts": usable frames of each video, "findings", "widths": {width of the features: id
    of a video}}, and of a contest with further modalities "modalities": {name: {"counts": rows or
    samples of each video, "widths"}}. Raises DataFault for features of different widths.
    """
    contest = open_competition(job.competition)
    sources = [contest.source(job.root, job.split, video_id) for video_id in job.ids]
    read_video = _read_features if job.frame_format == "features" else _read_frames
    findings = Findings(MAX_SHARD_PLACES)
    videos = _read_in_threads(job, read_video, sources, findings)

    columns = {name: [video[name] for video in videos] for name in videos[0]}
    widths: dict[str, str] = {}
    if job.frame_format == "features":
        counts = [len(rows) for rows in columns["features"]]
        widths = _feature_widths(columns["features"], job.ids)
    else:
        counts = [int((measures[:, 0] > 0).sum()) for measures in columns["measures"]]
        thumbnails = np.concatenate(columns.pop("thumbnails"))
        ends = np.cumsum([len(measures) for measures in columns["measures"]])
        columns["hashes"] = np.split(frame_hashes(thumbnails), ends[:-1])

    modalities = {}
    for modality in contest.modalities:
        is_sound = modality_content(contest.modalities[modality]) == "sound"
        rows = _read_rows(contest, job, modality, findings)
        columns[modality_column(modality)] = rows
        widths_of_rows = {} if is_sound else _feature_widths(rows, job.ids, f"{modality} features")
        modalities[modality] = {"counts": list(map(len, rows)), "widths": widths_of_rows}
    facts = {"counts": counts, "findings": findings.report(), "widths": widths}
    return columns, facts | ({"modalities": modalities} if modalities else {})


def check_feature_width(widths: dict[str, str], what: str = "features") -> None:
    """Raise DataFault if features have several widths.

    widths: {width of the features: id of a video with this width}. what: to name in the error.
    """
    if len(widths) > 1:
        examples = ", ".join(f"{video_id} has {width}" for width, video_id in widths.items())
        raise DataFault(
            f"all {what} must have the same width, but they differ: {examples}; "
            "extract them again with one model"
        )


def _read_rows(
    contest: Competition, job: ShardJob, modality: str, findings: Findings
) -> list[np.ndarray]:
    """Read what is stored of a further modality of each video of a shard, as `read_modality_rows`
    does.
    """
    content = modality_content(contest.modalities[modality])

    def read(source: Source, video_id: str) -> tuple[np.ndarray, dict]:
        findings_of_video = Findings(MAX_SHARD_PLACES)
        rows = read_modality_rows(content, source, findings_of_video)
        return rows, findings_of_video.report()

    sources = [contest.modality_sources(job.root, job.split, i)[modality] for i in job.ids]
    return _read_in_threads(job, read, sources, findings)


def _read_in_threads(
    job: ShardJob,
    read: Callable[[Source, str], tuple[Values, dict]],
    sources: list[Source],
    findings: Findings,
) -> list[Values]:
    """Read the videos of a shard side by side. read: takes a source and the id of its video, and
    returns what it read and the report of its findings.
    """
    with ThreadPoolExecutor(job.threads) as pool:
        results = list(pool.map(read, sources, job.ids))
    for _, report in results:  # in the order of the videos, whichever thread was first
        findings.merge(report)
    return [values for values, _ in results]


def _feature_widths(
    rows: list[np.ndarray], ids: tuple[str, ...], what: str = "features"
) -> dict[str, str]:
    widths = {
        str(features.shape[1]): video_id
        for features, video_id in zip(rows, ids, strict=True)
        if len(features)
    }
    check_feature_width(widths, what)
    return widths


def _read_features(source: Source, video_id: str) -> tuple[dict[str, np.ndarray], dict]:
    findings = Findings(MAX_SHARD_PLACES)
    return {"features": read_features(source, MAX_FRAMES, findings)}, findings.report()


def _read_frames(source: Source, video_id: str) -> tuple[dict[str, np.ndarray], dict]:
    """Read the frames of a video and probe each; a damaged frame becomes b"" and keeps its
    position.
    """
    findings = Findings(MAX_SHARD_PLACES)
    measures = []
    thumbnails = []
    # `check_data` has already counted missing archives
    encoded = read_images(source, MAX_FRAMES, findings) if source.path.is_file() else []
    for position, data in enumerate(encoded):
        probe = probe_image(data, findings, f"{video_id}#{position}") if data else None
        if probe is None:
            encoded[position] = b""
            measures.append((0,) * len(MEASURES))
            thumbnails.append(np.zeros((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), np.uint8))
            continue
        width, height, thumbnail = probe
        brightness = round(float(thumbnail.mean()))
        contrast = round(float(thumbnail.std()))
        measures.append((width, height, len(data), brightness, contrast))
        thumbnails.append(thumbnail)

    columns = {
        "measures": np.array(measures, np.int32).reshape(-1, len(MEASURES)),
        "thumbnails": np.array(thumbnails, np.uint8).reshape(
            -1, THUMBNAIL_PIXELS, THUMBNAIL_PIXELS
        ),
    }
    return join_images(encoded) | columns, findings.report()
