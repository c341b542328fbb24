"""The rehearsal of the judge's run: exit code, receipt, errors, and two real runs."""

import shutil
import time

import pytest
from fake_package import fake_run, run_here

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import Inconclusive, IntegrityFault, ResultFault, UsageFault
from wbdc.core.files import read_json
from wbdc.serve import entry
from wbdc.serve.blend_file import read_blend
from wbdc.submit.check.verify import verify_package
from wbdc.submit.timing import machine_load, measure
from wbdc.submit.timing.options import RehearsalOptions
from wbdc.submit.timing.rehearse import rehearse
from wbdc.submit.timing.sandbox import run_packed


def test_unknown_limit_is_a_usage_fault(package, data, monkeypatch):
    monkeypatch.setattr(WeChat2022, "limits", None)
    with pytest.raises(UsageFault, match="--limit"):
        rehearse(package, data, RehearsalOptions())
    with pytest.raises(UsageFault):
        rehearse(package, data, RehearsalOptions(items=100))


def ignore(*values) -> None:
    """Discard progress and log lines."""


def test_gpu_memory_is_sampled_after_each_batch(package, data, tmp_path, monkeypatch):
    """One reading per batch, at its time; a run on the CPU has none."""
    readings = iter(range(1000, 2000))
    home = package
    blend = read_blend(package)
    options = entry.ServeOptions(device="cpu", threads=1)

    def serve(name: str) -> dict:
        start, out = time.perf_counter(), tmp_path / name
        reports = {"log": ignore, "progress": ignore, "start": start}
        return entry.serve(home, blend, WeChat2022(), data, out, options, **reports)[1]

    timings = serve("a.csv")
    assert timings["gpu_memory"] == []
    assert len(timings["batches"]) > 1
    monkeypatch.setattr(entry, "reserved_memory", lambda device: next(readings))
    timings = serve("b.csv")
    assert timings["gpu_memory"] == [
        (when, 1000 + i) for i, (_, when) in enumerate(timings["batches"])
    ]


@pytest.mark.parametrize(
    ("seconds_per_video", "status", "code"),
    [(0.0001, "PASS", 0), (0.0143, "INCONCLUSIVE", 6), (1.0, "FAIL", 5)],
)
def test_exit_code_and_receipt_follow_the_verdict(
    seconds_per_video, status, code, package, data, tmp_path, monkeypatch
):
    copy = shutil.copytree(package, tmp_path / "copy")
    monkeypatch.setattr(measure, "run_packed", fake_run(seconds_per_video, "0100"))
    verdict = rehearse(copy, data, RehearsalOptions())
    assert (verdict.status, verdict.code) == (status, code)
    assert verify_package(copy)["latency"]["verdict"] == status
    assert read_json(copy / "latency.json")["limit"] == pytest.approx(25_000 / 70)


def test_wrong_result_file_leaves_no_receipt(package, data, tmp_path, monkeypatch):
    copy = shutil.copytree(package, tmp_path / "copy")
    monkeypatch.setattr(measure, "run_packed", fake_run(0.0001, "9999"))
    with pytest.raises(ResultFault, match="9999"):
        rehearse(copy, data, RehearsalOptions())
    assert not (copy / "latency.json").exists()


def test_damaged_folder_is_not_timed(package, data, tmp_path):
    copy = shutil.copytree(package, tmp_path / "copy")
    (copy / "wbdc/serve/predict.py").unlink()
    with pytest.raises(IntegrityFault, match="predict.py"):
        rehearse(copy, data, RehearsalOptions())


@pytest.mark.slow
def test_full_run_of_a_real_package(package, data, tmp_path, monkeypatch):
    """Fresh processes of a tiny package: a verdict, a receipt with its hash, and nothing else left
    in the folder. 8 test videos stand for 12 items; only the seconds of the full run decide.

    Runs whose seconds do not decide (neither with --timings nor the full run) are in this process.
    """
    processes = []

    def run(folder, data, out, **options):
        if not options.get("timings") and not options.get("deadline"):
            return run_here(folder, data, out, **options)
        processes.append(run_packed(folder, data, out, **options))
        return processes[-1]

    monkeypatch.setattr(measure, "run_packed", run)
    # other tests may run at the same time
    monkeypatch.setattr(machine_load, "busy_seconds", lambda cpus: 0.0)
    copy = shutil.copytree(package, tmp_path / "copy")
    progress = []
    verdict = rehearse(
        copy,
        data,
        RehearsalOptions(
            items=12, seconds=3600.0, device="cpu", threads=1, cold_starts=1, full=True
        ),
        progress=lambda *step: progress.append(step),
    )
    assert verdict.status == "PASS"
    assert verdict.code == 0
    assert verdict.sentence.startswith("The packed folder ")
    assert "for 12 videos in one process" in verdict.sentence
    receipt = verify_package(copy)["latency"]
    assert receipt == verdict.facts
    assert receipt["sample_videos"] == 8
    assert receipt["machine"]["device"] == "cpu"
    assert receipt["machine"]["threads"] == 1
    cold_start = receipt["cold_starts"][0]
    assert cold_start["seconds"] > cold_start["prediction_seconds"] > 0
    assert receipt["stage_seconds"]["decode"] > 0
    assert receipt["cpu_use"]["run_seconds"] > 0
    assert receipt["full"]
    assert receipt["largest_run"] == receipt["full_run"]["videos"] == 12
    assert receipt["full_run"]["distinct_videos"] == 8
    assert receipt["full_run"]["completed"]
    assert receipt["projection"]["expected"] == receipt["full_run"]["seconds"] > 0
    assert len(processes) == 3, "a cold start, a sample and the full run"
    assert progress == [("cold start", 0, 2), ("steady sample", 1, 2), ("steady sample", 2, 2)]
    with pytest.raises(Inconclusive):
        run_packed(copy, data, tmp_path / "r.csv", timeout=0.01)
