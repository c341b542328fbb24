"""Packed folders without processes: runs on a virtual clock, and in this process."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors.numpy import save_file

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.files import publish_json
from wbdc.core.findings import Findings
from wbdc.serve.blend_file import read_blend
from wbdc.serve.entry import ServeOptions, serve
from wbdc.submit.timing.sandbox import SandboxRun


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
    sample: Sequence[str],
    probabilities: Path,
) -> None:
    """Replace `run_packed`: predict with the models of a packed folder in this process."""
    predictions, _ = serve(
        folder,
        read_blend(folder),
        WeChat2022(),
        data,
        out,
        ServeOptions(device=device, threads=threads, sample=list(sample)),
        log=lambda line: None,
        progress=lambda done, total: None,
        start=time.perf_counter(),
    )
    save_file({"p": predictions.probabilities}, probabilities)
