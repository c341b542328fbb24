"""The rate of a stage of serving, and what the rates of all stages allow."""

from collections.abc import Sequence
from typing import NamedTuple

from wbdc.bench.peaks import Peaks
from wbdc.bench.stage_seconds import FUSE_STAGE, SCORE_STAGE, TEXT_STAGE, VISION_STAGE
from wbdc.serve.engine import InferenceEngine

CPU_RESOURCE = "CPU"
COPY_ENGINE = "copy engine"
GPU_RESOURCE = "GPU"
COPY_STAGE = "copy"


class StageKind(NamedTuple):
    """resource: what the stage occupies; None: the device of the networks. unit: of its work. peak:
    the field of `Peaks` to compare with, None without one.
    """

    resource: str | None
    unit: str
    peak: str | None


SERVING_STAGES = {  # in the order of serving
    "read": StageKind(CPU_RESOURCE, "B/s", "memory"),
    "decode": StageKind(CPU_RESOURCE, "frames/s", "entropy"),
    "tokenize": StageKind(CPU_RESOURCE, "tokens/s", None),
    "collate": StageKind(CPU_RESOURCE, "tokens/s", None),  # frames are decoded into their batch
    COPY_STAGE: StageKind(COPY_ENGINE, "B/s", "device_copy"),
    VISION_STAGE: StageKind(None, "FLOP/s", "flops"),
    TEXT_STAGE: StageKind(None, "FLOP/s", "flops"),
    FUSE_STAGE: StageKind(None, "FLOP/s", "flops"),
}
STAGE_KINDS = {**SERVING_STAGES, SCORE_STAGE: SERVING_STAGES[FUSE_STAGE]}
NETWORK_STAGES = (VISION_STAGE, TEXT_STAGE, FUSE_STAGE)


class StageRate(NamedTuple):
    """The rate of one stage.

    resource: what it occupies; stages of one resource take turns, different resources work at the
    same time. videos: per second. amount, unit: the same rate in a unit of the stage. share: of the
    peak of this machine, None where there is none to compare with.
    """

    stage: str
    resource: str
    videos: float
    rate: float
    unit: str
    share: float | None


def rate_stage(
    stage: str, seconds: float, work: float, engine: InferenceEngine, peaks: Peaks
) -> StageRate:
    """Return the rate of a stage. seconds, work: of a video; work in the unit of the stage."""
    facts = STAGE_KINDS[stage]
    resource = facts.resource or (CPU_RESOURCE if engine.device.type == "cpu" else GPU_RESOURCE)
    peak = getattr(peaks, facts.peak) if facts.peak else None
    share = work / seconds / peak if peak else None
    return StageRate(stage, resource, 1 / seconds, work / seconds, facts.unit, share)


def find_bound(stages: Sequence[StageRate]) -> tuple[float, str]:
    """Return the videos per second that the busiest resource allows, and the resource.

    The stages of a resource take turns, so their seconds add up; resources work at the same time.
    """
    seconds: dict[str, float] = {}
    for stage in stages:
        seconds[stage.resource] = seconds.get(stage.resource, 0.0) + 1 / stage.videos
    busiest = max(seconds, key=seconds.__getitem__)
    return 1 / seconds[busiest], busiest
