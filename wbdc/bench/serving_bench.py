"""Measure every stage of serving on this machine, and what bounds the whole path."""

import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch

from wbdc.bench.openvino_rates import OpenVinoRates, measure_openvino
from wbdc.bench.peaks import Peaks, measure_peaks
from wbdc.bench.random_member import write_random_member
from wbdc.bench.stage_rate import COPY_STAGE, SERVING_STAGES, StageRate, find_bound, rate_stage
from wbdc.bench.stage_seconds import (
    count_flops,
    read_fitting_batch,
    repeat_videos,
    time_copying,
    time_networks,
    time_reading,
)
from wbdc.bench.videos import write_videos
from wbdc.competitions import Video
from wbdc.core.batch import Batch
from wbdc.core.device import find_precision, precision_name, use_threads
from wbdc.core.errors import DataFault, UsageFault
from wbdc.core.findings import Findings
from wbdc.core.progress import ProgressCallback, no_progress
from wbdc.data.archive import read_images
from wbdc.serve.engine import InferenceEngine
from wbdc.submit.timing.machine_load import CpuMeter
from wbdc.submit.timing.receipt import processor_name
from wbdc.train.kit import Kit

VIDEOS = 16  # generated, or read from the data
STAGE_SECONDS = 2.0  # of each group of measurements
PATH_SECONDS = 6.0  # of the whole path
MIN_PATH_BATCHES = 2
STEPS = 6  # that are reported as progress
MAX_PATH_VIDEOS = 50_000


class BenchReport(NamedTuple):
    """What `wbdc bench` measured.

    machine: processor, device, threads, and version of torch. batch: videos computed together.
    bound: videos per second that the busiest resource allows. bound_by: that resource. path: videos
    per second from archives to probabilities, measured. openvino: the networks by OpenVINO, on a
    CPU, while all else is by torch. other_load: share of the CPUs that other
    processes used meanwhile, which make every rate too low.
    """

    kit: str
    machine: dict[str, str | int]
    precision: str
    frames: int
    batch: int
    peaks: Peaks
    stages: list[StageRate]
    bound: float
    bound_by: str
    path: float
    openvino: OpenVinoRates | None
    other_load: float


def bench_serving(
    kit: Kit,
    device: torch.device,
    precision: str,
    threads: int | None,
    *,
    frames: int | None = None,
    data: Path | None = None,
    progress: ProgressCallback = no_progress,
) -> BenchReport:
    """Measure the stages of serving a kit with random weights.

    precision: of `find_precision`. frames: of each video, instead of the kit's. data: a data folder
    of the kit's contest, whose first labeled videos are read instead of generated ones.
    Raises UsageFault, EnvironmentFault or DataFault for a kit or data that cannot be measured.
    """
    threads = use_threads(threads)
    dtype = find_precision(precision, device)
    meter = CpuMeter()
    with tempfile.TemporaryDirectory(prefix="wbdc-bench-") as folder:
        member = Path(folder, "member")
        progress("measurements", 0, STEPS)
        write_random_member(member, kit, frames)
        engine = InferenceEngine([member], [1.0], device, dtype, threads)
        count = engine.members[0].frame_key[1]
        videos = _read_videos(kit, data) if data else _write_videos(Path(folder), kit, count)
        measured = _measure(member, engine, videos, progress)
    use = meter.read()
    return BenchReport(
        kit=kit.name,
        machine=_describe_machine(device, threads),
        precision=precision_name(dtype),
        frames=count,
        other_load=use.other_seconds / (use.seconds * use.cpus),
        **measured,
    )


def _measure(
    member: Path, engine: InferenceEngine, videos: Sequence[Video], progress: ProgressCallback
) -> dict[str, object]:
    """Return the fields of a report that are measured. member: the folder of the engine's model."""
    encoded = _read_all_frames(engine, videos)
    seconds, batch = _time_stages(engine, videos, progress)
    progress("measurements", 3, STEPS)
    peaks = measure_peaks(engine.device, engine.precision, engine.threads, encoded, STAGE_SECONDS)
    work = _count_work(batch, encoded, len(videos)) | count_flops(engine, {0: batch})
    stages = [
        rate_stage(stage, time, work[stage], engine, peaks) for stage, time in seconds.items()
    ]
    bound, bound_by = find_bound(stages)
    progress("measurements", 4, STEPS)
    engine.batch = len(batch)
    path = _measure_path(engine, videos, bound)
    progress("measurements", 5, STEPS)
    openvino = measure_openvino(member, engine, {0: batch}, STAGE_SECONDS, work, peaks, stages)
    progress("measurements", STEPS, STEPS)
    return {
        "batch": len(batch),
        "peaks": peaks,
        "stages": stages,
        "bound": bound,
        "bound_by": bound_by,
        "path": path,
        "openvino": openvino,
    }


def _describe_machine(device: torch.device, threads: int) -> dict[str, str | int]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {
        "processor": processor_name(),
        "device": name,
        "threads": threads,
        "torch": torch.__version__,
    }


def _write_videos(folder: Path, kit: Kit, frames: int) -> list[Video]:
    budgets = dict.fromkeys(kit.contest.fields, 0) | kit.tables["text"]["fields"]
    return write_videos(folder, VIDEOS, frames, budgets)


def _read_all_frames(engine: InferenceEngine, videos: Sequence[Video]) -> list[bytes]:
    """Return the encoded frames of some videos. Raises DataFault when there are none."""
    count = engine.members[0].frame_key[1]
    frames = [
        data for video in videos for data in read_images(video.source, count, Findings()) if data
    ]
    if not frames:
        raise DataFault(
            "the first labeled videos have no frame that can be read; `wbdc prepare --check-only` "
            "lists what is wrong with the data"
        )
    return frames


def _read_videos(kit: Kit, data: Path) -> list[Video]:
    """Return the first labeled videos of a data folder. Raises DataFault, UsageFault."""
    contest = kit.contest
    if contest.frame_format(data) != "jpeg":
        raise UsageFault(
            f"{data} holds features of frames, which are not decoded; leave out --data"
        )
    return list(islice(contest.videos(data, contest.labeled_split, Findings()), VIDEOS))


def _time_stages(
    engine: InferenceEngine, videos: Sequence[Video], progress: ProgressCallback
) -> tuple[dict[str, float], Batch]:
    """Return the seconds of a video by stage, with all threads or the whole device, in the order of
    serving, and the batch that the networks computed.
    """
    progress("measurements", 1, STEPS)
    stages = {
        stage: each / engine.threads
        for stage, each in time_reading(engine, videos, STAGE_SECONDS).items()
    }
    progress("measurements", 2, STEPS)
    batches = read_fitting_batch(engine, videos, STAGE_SECONDS)
    copying = time_copying(engine, batches, STAGE_SECONDS)
    stages |= {} if copying is None else {COPY_STAGE: copying}
    stages |= time_networks(engine, batches, STAGE_SECONDS)
    return {stage: stages[stage] for stage in SERVING_STAGES if stage in stages}, batches[0]


def _count_work(batch: Batch, encoded: Sequence[bytes], videos: int) -> dict[str, float]:
    """Return the work of a video by stage, in the unit of the stage: bytes, frames or tokens."""
    tokens = batch.text_mask.sum().item() / len(batch)
    return {
        "read": sum(map(len, encoded)) / videos,
        "decode": sum(batch.frame_counts) / len(batch),
        "tokenize": tokens,
        "collate": tokens,
        COPY_STAGE: batch.frames.nbytes / len(batch),
    }


def _measure_path(engine: InferenceEngine, videos: Sequence[Video], bound: float) -> float:
    """Return the videos per second from archives to probabilities."""
    batches = round(bound * PATH_SECONDS / engine.batch)
    size = engine.batch * min(max(MIN_PATH_BATCHES, batches), MAX_PATH_VIDEOS // engine.batch)
    repeated = repeat_videos(videos, 0, size)
    start = time.perf_counter()
    engine.predict(repeated)
    return size / (time.perf_counter() - start)
