"""Cost: what serving takes, measured part by part on this machine."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from wbdc.competitions import Video
from wbdc.core.errors import UsageFault, suggest_name
from wbdc.ensemble.variants import ServingHardware, Variant
from wbdc.serve.engine import Engine
from wbdc.serve.reader import cache_key
from wbdc.serve.stage_timer import StageTimer

COST_SAMPLE_VIDEOS = 32  # videos that each form is timed with

Value = TypeVar("Value")


class Cost(NamedTuple):
    """What serving costs, in seconds as measured on one machine.

    fixed: once per process, for an ensemble of nothing (imports, listing); decode: {look: per item,
    reading and decoding};
    tower: {tower: (look, per item)}; member: {model: (tower, to load it, per item to fuse)};
    shared_cores: decoding and networks use the same processor, so their times add up; else the
    slower one counts.
    """

    fixed: float
    decode: dict[str, float]
    tower: dict[str, tuple[str, float]]
    member: dict[str, tuple[str, float, float]]
    shared_cores: bool

    def seconds(self, models: Iterable[str], items: int) -> float:
        """Add up one run over `items`: a model, a tower and a look are each paid once, however many
        share them. Raises UsageFault for unknown names.
        """
        fused = [named(self.member, "model", name) for name in dict.fromkeys(models)]
        seen = [
            named(self.tower, "tower", name)
            for name in dict.fromkeys(tower for tower, _, _ in fused)
        ]
        decode = sum(
            named(self.decode, "look", name) for name in dict.fromkeys(look for look, _ in seen)
        )
        compute = sum(each for _, each in seen) + sum(each for _, _, each in fused)
        each = decode + compute if self.shared_cores else max(decode, compute)
        return self.fixed + sum(load for _, load, _ in fused) + items * each


def measure_costs(
    forms: Sequence[Variant],
    videos: Sequence[Video],
    machine: ServingHardware,
    *,
    fixed: float,
    progress: Callable[[str, int, int], None],
) -> Cost:
    """Time the parts of every form on some videos: reading once per look, looking and fusing once
    per form, loading once per model.

    The folds of a form are alike, so its first one stands for all of them.
    """
    decode, tower, member = {}, {}, {}
    for number, form in enumerate(forms):
        progress("measuring", number, len(forms))
        each = None
        for name, folder in form.models().items():
            start = time.perf_counter()
            engine = Engine([folder], [1.0], *machine, served=[form.serve])
            loading, look, key = (
                time.perf_counter() - start,
                cache_key(engine.reader.looks[0]),
                cache_key(engine.towers[0]),
            )
            each = each or _timed(engine, videos)
            decode.setdefault(look, each["read"])
            tower.setdefault(key, (look, each["vision"]))
            member[name] = key, loading, each["fuse"]
    progress("measuring", len(forms), len(forms))
    return Cost(fixed, decode, tower, member, machine.device.type == "cpu")


def measure_start() -> float:
    """Time what a submission does before it loads its first model: start Python, import what
    serves.
    """
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "import wbdc.serve.entry"], check=True, capture_output=True
    )
    return time.perf_counter() - start


def _timed(engine: Engine, videos: Sequence[Video]) -> dict[str, float]:
    """Seconds per video to read in all threads, to look and to fuse, once everything is warm."""
    parts = [videos[i : i + engine.batch] for i in range(0, len(videos), engine.batch)]
    engine.compute(
        engine.move(engine.reader.read(parts[0][:4], [0], StageTimer())[0]), StageTimer(), {}
    )
    stages = StageTimer()
    start = time.perf_counter()
    with ThreadPoolExecutor(engine.threads) as pool:
        for part in parts:  # each video a job of its own: a few batches would leave threads idle
            list(pool.map(lambda video: engine.reader.read([video], [0], stages), part))
    reading = time.perf_counter() - start
    for part in parts:
        engine.compute(engine.move(engine.reader.read(part, [0], StageTimer())[0]), stages, {})
    count = len(videos)
    return {
        "read": reading / count,
        "vision": stages.seconds["vision"] / count,
        "fuse": stages.seconds["fuse"] / count,
    }


def named(table: dict[str, Value], kind: str, name: str) -> Value:
    """Look up what was measured. Raises UsageFault."""
    if name not in table:
        raise UsageFault(f"no {kind} called {name!r} was measured{suggest_name(name, list(table))}")
    return table[name]
