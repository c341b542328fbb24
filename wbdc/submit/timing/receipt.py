"""The receipt of a time check (latency.json): what was run, on which machine, with which result."""

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from wbdc.core.cpu_quota import available_cpus
from wbdc.core.files import read_text
from wbdc.submit.timing.full_run import FullRun
from wbdc.submit.timing.measure import MeasuredRuns, TimedRun
from wbdc.submit.timing.sandbox import network_is_cut

PACKAGES = ("torch", "transformers", "numpy", "simplejpeg", "pillow")  # whose versions are recorded


def describe_runs(runs: MeasuredRuns, full: FullRun | None) -> dict:
    """Describe the runs of a time check, as JSON."""
    decisive_run = full or runs.steady
    full_facts = full and {
        "seconds": full.seconds,
        "completed": full.completed,
        "videos": full.videos,
        "distinct_videos": full.distinct_videos,
    }
    return {
        "sample_videos": len(runs.sample),
        "cold_starts": [start._asdict() for start in runs.cold_start_times()],
        "untimed_seconds": runs.cold_untimed.seconds,
        "long_runs": [_describe_long_run(run) for run in runs.long_runs],
        "slower_attempts": [_describe_long_run(run) for run in runs.slower_attempts.values()],
        "cpu_use": decisive_run.cpu_use and decisive_run.cpu_use._asdict(),
        "full": full is not None,
        "full_run": full_facts,
        "stage_seconds": runs.steady.timings["stages"],
        "machine": describe_machine(runs.steady.timings),
    }


def _describe_long_run(run: TimedRun) -> dict:
    return {
        "videos": len(run.labels),
        "seconds": run.seconds,
        "with_timings": bool(run.timings),
    }


def describe_machine(timings: dict) -> dict:
    """Describe this machine, as JSON: a receipt is valid for such a machine only.

    timings: as a packed folder reports them, for the device, threads and precision used.
    """
    gpu_files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return {
        "processor": processor_name(),
        "cores": available_cpus(),
        "gpus": _values(gpu_files, "Model"),
        **{name: timings[name] for name in ("device", "threads", "precision")},
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "network": network_is_cut()[1],
    }


def processor_name() -> str:
    """Return the model of the CPU as the kernel names it, "unknown" where it does not."""
    return next(iter(_values([Path("/proc/cpuinfo")], "model name")), "unknown")


def _values(files: Sequence[Path], key: str) -> list[str]:
    """Read the values of "key: value" lines; a missing file has none."""
    texts = [read_text(file, errors="replace") for file in files if file.is_file()]
    lines = [line for text in texts for line in text.splitlines() if line.startswith(key)]
    return [line.split(":", 1)[1].strip() for line in lines]
