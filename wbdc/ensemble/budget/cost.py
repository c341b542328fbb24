"""Serving costs of members, measured part by part on this machine."""

import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from wbdc.competitions import Video
from wbdc.core.errors import UsageFault, suggest_name
from wbdc.core.progress import ProgressCallback
from wbdc.ensemble.out_of_fold import ServingHardware
from wbdc.ensemble.variants import Variant
from wbdc.serve.cache_key import cache_key
from wbdc.serve.engine import InferenceEngine
from wbdc.serve.openvino_function import import_openvino
from wbdc.serve.stage_timer import StageTimer

COST_SAMPLE_VIDEOS = 32  # videos that each variant is timed with
WARM_UP_VIDEOS = 4

Value = TypeVar("Value")


class Cost(NamedTuple):
    """Serving costs in seconds, measured on one machine.

    fixed: once per process, without any member (imports, listing); decode: {image settings:
    reading and decoding one video}; tower: {tower: (image settings, encoding one video)}; member:
    {model: (tower, loading the model, fusing one video)}; conversion: {tower: converting it for
    OpenVINO}, 0 without; shared_cores: decoding and networks use the same processor, so their times
    add up; otherwise the slower one counts.
    """

    fixed: float
    decode: dict[str, float]
    tower: dict[str, tuple[str, float]]
    member: dict[str, tuple[str, float, float]]
    conversion: dict[str, float]
    shared_cores: bool

    def seconds(self, models: Iterable[str], items: int) -> float:
        """Add up one run over `items` videos.

        A model, a tower and a decoded frame are each paid once, however many members share
        them. Raises UsageFault for unknown names.
        """
        members = [find_measured(self.member, "model", name) for name in dict.fromkeys(models)]
        tower_names = dict.fromkeys(tower for tower, _, _ in members)
        towers = [find_measured(self.tower, "tower", name) for name in tower_names]
        decode = sum(
            find_measured(self.decode, "set of image settings", name)
            for name in dict.fromkeys(settings for settings, _ in towers)
        )
        compute = sum(encode for _, encode in towers) + sum(fuse for _, _, fuse in members)
        per_video = decode + compute if self.shared_cores else max(decode, compute)
        loading = sum(load for _, load, _ in members)
        loading += sum(self.conversion[name] for name in tower_names)
        return self.fixed + loading + items * per_video


def measure_costs(
    variants: Sequence[Variant],
    videos: Sequence[Video],
    hardware: ServingHardware,
    *,
    fixed: float,
    progress: ProgressCallback,
) -> Cost:
    """Time the parts of every variant on some videos.

    Reading is timed once per set of image settings, encoding and fusing once per variant, loading
    once per model, converting once per tower. The folds of a variant have equal sizes, so only its
    first one is timed.
    """
    decode = {}
    tower = {}
    member = {}
    conversion = {}
    if hardware.openvino:
        import_openvino()  # which `measure_start` counts, and not the first model
    for number, variant in enumerate(variants):
        progress("measuring", number, len(variants))
        stage_seconds = None
        for name, folder in variant.models().items():
            start = time.perf_counter()
            engine = InferenceEngine([folder], [1.0], *hardware, served=[variant.serve])
            loading = time.perf_counter() - start
            converting = sum(function.seconds for function in engine.openvino_towers.values())
            settings_key = cache_key(engine.members[0].frame_key or engine.reader.keys[0])
            tower_key = cache_key(engine.towers[0])
            stage_seconds = stage_seconds or _stage_seconds(engine, videos)

            decode.setdefault(settings_key, stage_seconds["read"])
            tower.setdefault(tower_key, (settings_key, stage_seconds["vision"]))
            conversion.setdefault(tower_key, converting)
            member[name] = tower_key, loading - converting, stage_seconds["member"]
    progress("measuring", len(variants), len(variants))
    return Cost(fixed, decode, tower, member, conversion, hardware.device.type == "cpu")


def measure_start(openvino: bool = False) -> float:
    """Time what a submission does before it loads its first model: start Python and import, with
    OpenVINO if requested. Raises EnvironmentFault where OpenVINO cannot be imported.
    """
    program = "import wbdc.serve.entry"
    if openvino:
        import_openvino()
        program += "; wbdc.serve.openvino_function.import_openvino()"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return time.perf_counter() - start


def find_measured(table: dict[str, Value], kind: str, name: str) -> Value:
    """Return the entry of a table of measurements. Raises UsageFault when there is none."""
    if name not in table:
        raise UsageFault(f"no {kind} called {name!r} was measured{suggest_name(name, list(table))}")
    return table[name]


def _stage_seconds(engine: InferenceEngine, videos: Sequence[Video]) -> dict[str, float]:
    """Return the seconds per video to read in all threads, encode, and score, after a warm-up."""
    batches = [videos[i : i + engine.batch] for i in range(0, len(videos), engine.batch)]
    _compute(engine, batches[0][:WARM_UP_VIDEOS], StageTimer())

    stages = StageTimer()
    start = time.perf_counter()
    with ThreadPoolExecutor(engine.threads) as pool:
        for batch in batches:  # one job for each video: few batches would leave threads idle
            list(pool.map(lambda video: engine.reader.read([video], [0], stages), batch))
    reading = time.perf_counter() - start

    for batch in batches:
        _compute(engine, batch, stages)

    count = len(videos)
    return {
        "read": reading / count,
        "vision": stages.seconds["vision"] / count,
        "member": stages.seconds[engine.members[0].stage] / count,
    }


def _compute(engine: InferenceEngine, videos: Sequence[Video], stages: StageTimer) -> None:
    """Read and predict some videos with the engine's first member; time the networks."""
    batches, _ = engine.reader.read(videos, [0], StageTimer())
    engine.compute(engine.move(batches), stages, {})
