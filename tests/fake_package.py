"""Packed folders without processes: runs on a virtual clock, and in this process."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.numpy import save_file

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import Inconclusive
from wbdc.core.files import publish_json
from wbdc.core.findings import Findings
from wbdc.serve.blend_file import read_blend
from wbdc.serve.entry import GPU_PEAK, ServeOptions, serve
from wbdc.submit.timing.machine_load import CpuUse
from wbdc.submit.timing.sandbox import SandboxRun, failure_message

GB = 2**30


@dataclass
class FakePackage:
    """A simulated package. By default a correct one: 10 s to start, 1 s of it to list the videos,
    .01 s per video, 266 s for the contest's 25,000, 2 GB. Each mutant changes some fields.
    """

    start: float = 10.0  # seconds, or f(number of the run) -> seconds
    seconds_per_video: float = 0.01
    video_cost: object = None  # f(position in the run, id, ids predicted before) -> seconds
    after_last_row: float = 0.0  # seconds per video, after the last row is written
    untimed_extra: float = 0.0  # more seconds per video without --timings
    whole_split_extra: float = 0.0  # more seconds per video without --sample
    slow_after: tuple = (float("inf"), 0.0)  # (seconds of a run, more seconds per video from then)
    peak: int = 2 * GB
    memory_growth: object = None  # bytes beyond the peak: f(videos predicted) -> bytes
    gpu_memory: object = None  # f(videos predicted) -> bytes
    device: str = "cpu"
    precision: str = "fp32"
    stderr: str = ""
    cpu_use: CpuUse | None = None
    max_videos: float = float("inf")  # that one process can open
    writes_into_data: bool = False
    change_rows: object = None  # of the result file: f(rows, precision, with timings) -> rows
    change_timings: object = None  # f(timings) -> timings, as the package reports them
    seconds: float = 0.0  # of all runs so far
    runs: list = field(default_factory=list)  # number of videos of each run

    def __call__(
        self,
        folder: Path,
        data: Path,
        out: Path,
        *,
        sample=None,
        timings=None,
        precision=None,
        timeout=None,
        **options,
    ) -> SandboxRun:
        if self.writes_into_data:
            (data / "cache").write_text("x" * (1 + len(self.runs)))
        extra = (self.untimed_extra if timings is None else 0) + (
            self.whole_split_extra if sample is None else 0
        )
        ids = list_ids(data) if sample is None else sample
        start = self.start(len(self.runs)) if callable(self.start) else self.start
        self.runs.append(len(ids))
        if len(ids) > self.max_videos:
            raise failure_message(SandboxRun(1, start, "OSError: [Errno 24] Too many open files"))

        batches = self._predict(ids, start, extra)
        end = batches[-1][1]
        self.seconds += min(end, timeout)
        if end > timeout:
            raise Inconclusive(f"the packed folder did not end within {timeout:.0f} s")

        rows = [f"{video_id},0100\n" for video_id in ids]
        if self.change_rows:
            rows = self.change_rows(rows, precision, timings is not None)
        out.write_text("".join(rows))

        report = self._report(batches, start, precision)
        if timings:
            publish_json(timings, self.change_timings(report) if self.change_timings else report)
        stderr = self.stderr
        if self.gpu_memory:
            stderr += f"{GPU_PEAK} {report['gpu_peak']}\n"
        growth = self.memory_growth or (lambda videos: 0)
        memory = [(at, self.peak + growth(videos)) for videos, at in batches]
        peak = max(size for _, size in memory)
        seconds = end + 0.3 + self.after_last_row * len(ids)
        return SandboxRun(0, seconds, stderr, peak, memory, self.cpu_use)

    def _predict(self, ids: list[str], start: float, extra: float) -> list[list[float]]:
        """Simulate batches of 32 videos: [videos predicted so far, when]."""
        now = start
        predicted, batches = set(), []
        for position, video_id in enumerate(ids):
            cost = self.seconds_per_video
            if self.video_cost:
                cost = self.video_cost(position, video_id, predicted)
            now += cost + extra
            now += self.slow_after[1] if now > self.slow_after[0] else 0
            predicted.add(video_id)
            if position % 32 == 31 or position == len(ids) - 1:
                batches.append([position + 1, now])
        return batches

    def _report(self, batches: list[list[float]], start: float, precision: str | None) -> dict:
        """Return the timings that the package reports."""
        end = batches[-1][1]
        gpu_memory = []
        if self.gpu_memory:
            gpu_memory = [[at, self.gpu_memory(videos)] for videos, at in batches]
        return {
            "marks": {
                "imported": start / 2,
                "loaded": start - 1,
                "listed": start,
                "predicted": end,
                "written": end,
            },
            "batches": batches,
            "stages": {"decode": 1.0},
            "read_ahead": 4,
            "device": self.device,
            "threads": 1,
            "precision": precision or self.precision,
            "gpu_memory": gpu_memory,
            "gpu_peak": max((size for _, size in gpu_memory), default=0),
        }


def list_ids(data: Path) -> list[str]:
    """List the ids of the test split."""
    return [item["id"] for item in json.loads((data / "annotations/test.json").read_text())]


def fake_run(seconds_per_video: float, label: str) -> Callable[..., SandboxRun]:
    """Return a replacement of `run_packed`, which writes what a packed folder writes: the same
    label for every video.
    """

    def run(folder, data, out, *, sample, timings, **rest):
        sample = sample or [v.id for v in WeChat2022().videos(data, "test", Findings())]
        end = 10 + seconds_per_video * len(sample)
        out.write_text("".join(f"{i},{label}\n" for i in sample))
        batches = [[n, 10 + seconds_per_video * n] for n in range(1, len(sample) + 1)]
        marks = {"imported": 5.0, "loaded": 9.0, "listed": 10.0, "predicted": end, "written": end}
        content = {
            "marks": marks,
            "batches": batches,
            "stages": {"decode": 1.0},
            "read_ahead": 4,
            "device": "cpu",
            "threads": 1,
            "precision": "fp32",
        }
        if timings:
            publish_json(timings, content)
        return SandboxRun(0, end + 1, "")

    return run


def run_here(
    folder: Path,
    data: Path,
    out: Path,
    *,
    device: str,
    threads: int,
    sample: Sequence[str] | None = None,
    probabilities: Path | None = None,
    **options: object,
) -> SandboxRun:
    """Replace `run_packed`: predict with the models of a packed folder in this process."""
    start = time.perf_counter()
    predictions, _ = serve(
        folder,
        read_blend(folder),
        WeChat2022(),
        data,
        out,
        ServeOptions(device=device, threads=threads, sample=sample and list(sample)),
        log=lambda line: None,
        progress=lambda done, total: None,
        start=start,
    )
    if probabilities:
        save_file({"p": predictions.probabilities}, probabilities)
    return SandboxRun(0, time.perf_counter() - start, "")
