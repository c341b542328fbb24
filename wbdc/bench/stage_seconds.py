"""Seconds and operations of each stage of serving, measured through the engine that serves."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from torch.utils.flop_counter import FlopCounterMode

from wbdc.bench.rates import calls_per_second, thread_calls_per_second
from wbdc.competitions import Video
from wbdc.core.device import autocast
from wbdc.nets.model import VideoClassifier
from wbdc.serve.engine import InferenceEngine
from wbdc.serve.members import MemberBatch
from wbdc.serve.stage_timer import NetworkTimer, StageTimer

VIDEOS_PER_READ = 4  # of one thread
VISION_STAGE = "vision"
TEXT_STAGE = "text"  # the trunk, which the engine counts as a part of "fuse"
FUSE_STAGE = "fuse"
SCORE_STAGE = "score"  # all that follows the vision tower, which OpenVINO computes as one
Batches = dict[int, MemberBatch]  # of the only member, 0


def repeat_videos(videos: Sequence[Video], start: int, size: int) -> list[Video]:
    """Return `size` videos from position `start` on; the first one follows the last."""
    return [videos[position % len(videos)] for position in range(start, start + size)]


def time_reading(
    engine: InferenceEngine, videos: Sequence[Video], seconds: float
) -> dict[str, float]:
    """Return the seconds of one thread for each video, by stage, while all threads read."""
    stages = StageTimer()
    numbers: list[int] = []  # of the calls; appending is atomic

    def read(number: int) -> None:
        part = repeat_videos(videos, number * VIDEOS_PER_READ, VIDEOS_PER_READ)
        engine.reader.read(part, [0], stages)
        numbers.append(number)

    thread_calls_per_second(read, engine.threads, seconds)
    read_videos = VIDEOS_PER_READ * len(numbers)
    return {stage: total / read_videos for stage, total in stages.seconds.items()}


def read_fitting_batch(engine: InferenceEngine, videos: Sequence[Video], seconds: float) -> Batches:
    """Read the largest batch that is expected to be computed in `seconds`: a power of two of
    videos, at most the engine's batch.
    """
    size = 1
    while True:
        batches, _ = engine.reader.read(repeat_videos(videos, 0, size), [0], StageTimer())
        moved = engine.move(batches)
        engine.compute(moved, StageTimer(), {})
        start = time.perf_counter()
        engine.compute(moved, StageTimer(), {})
        if 2 * size > engine.batch or 2 * (time.perf_counter() - start) > seconds:
            return batches
        size *= 2


def time_copying(engine: InferenceEngine, batches: Batches, seconds: float) -> float | None:
    """Return the seconds that a video takes to the device; None on a CPU, where nothing moves."""
    if engine.device.type == "cpu":
        return None
    copies = calls_per_second(lambda: engine.move(batches), engine.device, seconds)
    return 1 / (copies * len(batches[0]))


def time_networks(engine: InferenceEngine, batches: Batches, seconds: float) -> dict[str, float]:
    """Return the seconds of a video by stage: vision tower, text trunk, and all that follows.

    batches: on the CPU.
    """
    per_video = _time_batches(engine, batches, seconds, _compute_timed)
    return per_video | {FUSE_STAGE: per_video[FUSE_STAGE] - per_video[TEXT_STAGE]}


def time_converted(engine: InferenceEngine, batches: Batches, seconds: float) -> dict[str, float]:
    """Return the seconds of a video by stage where OpenVINO computes: vision tower, and all that
    follows.
    """

    def compute(engine: InferenceEngine, moved: Batches, stages: StageTimer) -> None:
        engine.compute(moved, stages, {})

    compute(engine, batches, StageTimer())  # the first call allocates
    per_video = _time_batches(engine, batches, seconds, compute)
    return {VISION_STAGE: per_video[VISION_STAGE], SCORE_STAGE: per_video[FUSE_STAGE]}


def _time_batches(
    engine: InferenceEngine,
    batches: Batches,
    seconds: float,
    compute: Callable[[InferenceEngine, Batches, StageTimer], None],
) -> dict[str, float]:
    """Compute batches for some seconds; return the seconds of a video by stage."""
    moved = engine.move(batches)
    stages = StageTimer()
    calls = 0
    start = time.perf_counter()
    while calls == 0 or time.perf_counter() - start < seconds:
        compute(engine, moved, stages)
        calls += 1
    computed_videos = calls * len(batches[0])
    return {stage: total / computed_videos for stage, total in stages.seconds.items()}


def _compute_timed(engine: InferenceEngine, moved: Batches, stages: StageTimer) -> None:
    """Compute a batch and add the seconds of its stages, also those of the trunk."""
    timer = NetworkTimer(engine.device)
    with _around_trunk(engine.members[0].model, lambda: timer.time(TEXT_STAGE, 0)):
        engine.compute(moved, stages, {})  # waits for the results
    timer.add_to(stages)


def count_flops(engine: InferenceEngine, batches: Batches) -> dict[str, float]:
    """Count the operations of a video by stage: matrix products, convolutions and attention.

    Gradients are enabled, because torch does not count the fused layers that it uses without them.
    """
    model = engine.members[0].model
    batch = engine.move(batches)[0].select(slice(0, 1))
    flops = dict.fromkeys((VISION_STAGE, TEXT_STAGE, FUSE_STAGE), 0)
    with autocast(engine.device, engine.precision), FlopCounterMode(display=False) as counter:

        @contextmanager
        def count(stage: str) -> Iterator[None]:
            before = counter.get_total_flops()
            yield
            flops[stage] += counter.get_total_flops() - before

        with count(VISION_STAGE):
            encoded = model.encode(batch)
        with count(FUSE_STAGE), _around_trunk(model, lambda: count(TEXT_STAGE)):
            model.head(model.fuse(encoded).pooled)
    return flops | {FUSE_STAGE: flops[FUSE_STAGE] - flops[TEXT_STAGE]}


@contextmanager
def _around_trunk(
    model: VideoClassifier, context: Callable[[], AbstractContextManager]
) -> Iterator[None]:
    """Enter a context around each call of the text trunk."""
    forward = model.trunk.forward

    def forward_in_context(*tokens: object, **settings: object) -> object:
        with context():
            return forward(*tokens, **settings)

    model.trunk.forward = forward_in_context
    try:
        yield
    finally:
        del model.trunk.forward
