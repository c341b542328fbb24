"""The networks computed by OpenVINO in place of torch, on a CPU where it is installed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from wbdc.bench.peaks import Peaks
from wbdc.bench.stage_rate import NETWORK_STAGES, StageRate, find_bound, rate_stage
from wbdc.bench.stage_seconds import (
    FUSE_STAGE,
    SCORE_STAGE,
    TEXT_STAGE,
    VISION_STAGE,
    Batches,
    time_converted,
)
from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.serve.engine import InferenceEngine
from wbdc.serve.openvino_function import OPENVINO_COMMAND, is_openvino_installed


class OpenVinoRates(NamedTuple):
    """The rates of the networks of a report, computed by OpenVINO.

    stages: of the image tower, and of all that follows it, as one. speedup: seconds of the networks
    by torch, divided by those by OpenVINO. bound, bound_by: as in the report, with these stages.
    reason: why nothing was measured; the other fields are then empty.
    """

    stages: list[StageRate]
    speedup: float | None = None
    bound: float | None = None
    bound_by: str | None = None
    reason: str = ""


def measure_openvino(
    member: Path,
    engine: InferenceEngine,
    batches: Batches,
    seconds: float,
    work: Mapping[str, float],
    peaks: Peaks,
    torch_stages: Sequence[StageRate],
) -> OpenVinoRates | None:
    """Measure the networks of a member by OpenVINO; None for a GPU, where it does not compute.

    engine: that serves the member by torch. batches: to compute, for so many seconds. work: of a
    video by stage. torch_stages: the rates of all stages by torch.
    """
    if engine.device.type != "cpu":
        return None
    if not is_openvino_installed():
        return OpenVinoRates([], reason=f"OpenVINO is not installed; run: {OPENVINO_COMMAND}")
    hardware = (engine.device, engine.precision, engine.threads)
    try:
        converted = InferenceEngine([member], [1.0], *hardware, uses_openvino=True)
    except (UsageFault, EnvironmentFault) as error:
        return OpenVinoRates([], reason=str(error))

    times = time_converted(converted, batches, seconds)
    operations = {
        VISION_STAGE: work[VISION_STAGE],
        SCORE_STAGE: work[TEXT_STAGE] + work[FUSE_STAGE],
    }
    stages = [
        rate_stage(stage, times[stage], operations[stage], converted, peaks) for stage in times
    ]
    other_stages = [stage for stage in torch_stages if stage.stage not in NETWORK_STAGES]
    by_torch = sum(1 / stage.videos for stage in torch_stages if stage.stage in NETWORK_STAGES)
    bound, bound_by = find_bound([*other_stages, *stages])
    return OpenVinoRates(stages, by_torch / sum(times.values()), bound, bound_by)
