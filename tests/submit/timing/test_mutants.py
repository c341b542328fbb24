"""The time check on simulated packages that cheat or fail, each by name, on a virtual clock."""

import json
import re
import shutil
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import small
from fake_package import GB, FakePackage

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import (
    EnvironmentFault,
    Inconclusive,
    IntegrityFault,
    ResultFault,
    UsageFault,
    WbdcError,
)
from wbdc.submit.check.verify import check_files
from wbdc.submit.timing import machine_load, measure
from wbdc.submit.timing import rehearse as rehearse_module
from wbdc.submit.timing.machine_load import CpuUse
from wbdc.submit.timing.options import RehearsalOptions
from wbdc.submit.timing.rehearse import rehearse

# together a minute of simulated runs
pytestmark = pytest.mark.slow
VIDEOS = 4000  # of the test split


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Annotations of 4,000 videos; the sizes of their archives follow from their ids."""
    root = tmp_path_factory.mktemp("data")
    (root / "annotations").mkdir()
    (root / "zip_frames").mkdir()
    small.annotate(
        root, "test", [{"id": f"{i:020}", "title": "", "asr": "", "ocr": []} for i in range(VIDEOS)]
    )
    return root


@pytest.fixture(scope="module")
def copy(package, tmp_path_factory) -> Path:
    """A packed folder, into which receipts are written."""
    return shutil.copytree(package, tmp_path_factory.mktemp("judged") / "copy")


@pytest.fixture(scope="module")
def manifest(copy) -> dict:
    """The manifest of that folder, whose files are checked once."""
    return check_files(copy)


@cache
def list_split(data: Path) -> measure.JudgedSplit:
    """List the videos of the test split once."""
    return measure.open_judged_split(WeChat2022(), data)


@pytest.fixture
def judge(copy, manifest, data, monkeypatch):
    """Rehearse a simulated package."""
    (copy / "latency.json").unlink(missing_ok=True)
    monkeypatch.setattr(rehearse_module, "check_files", lambda folder: manifest)
    monkeypatch.setattr(rehearse_module, "open_judged_split", lambda _, data: list_split(data))
    monkeypatch.setattr(measure, "archive_sizes", archive_sizes)
    monkeypatch.setattr(measure, "drop_page_cache", lambda paths: None)  # there are no archives

    def run(fake: FakePackage, data: Path = data, **options):
        monkeypatch.setattr(measure, "run_packed", fake)
        return rehearse(copy, data, RehearsalOptions(**options))

    return run


def archive_sizes(paths: list[Path]) -> list[int]:
    return [1000 + size_of(str(path)[-24:-4]) for path in paths]  # Path.stem takes longer


def size_of(video_id: str) -> int:
    """Spread sizes over ids: the largest 1 % are neither first nor last."""
    return int(video_id) * 7919 % VIDEOS


def test_correct_package_passes(judge):
    verdict = judge(FakePackage())
    assert verdict.status == "PASS"
    assert verdict.facts["projection"]["expected"] == pytest.approx(10.3 + 250 + 5.25)
    assert verdict.facts["sample_videos"] == 2048
    assert verdict.facts["memory_peaks"]["memory"] == 2 * GB
    assert verdict.facts["warnings"] == []


def test_mutant_cold_start_dropped(judge):
    """A process that starts slowly once in three times is judged by the slow start."""
    verdict = judge(FakePackage(start=lambda run: 130.0 if run == 1 else 10.0))
    assert verdict.status != "PASS"
    assert verdict.facts["projection"]["expected"] > 370


def test_mutant_first_k_sampling(judge):
    """Fast for the first 2,048 ids of the split, slow for the rest."""
    verdict = judge(
        FakePackage(
            video_cost=lambda position, video_id, predicted: 0.005 if int(video_id) < 2048 else 0.03
        )
    )
    assert verdict.facts["projection"]["expected"] > 10 + 25_000 * 0.014
    assert verdict.status == "FAIL"


def test_mutant_caching_by_id(judge):
    verdict = judge(
        FakePackage(
            video_cost=lambda position, video_id, predicted: (
                0.001 if video_id in predicted else 0.01
            )
        )
    )
    assert verdict.status == "INCONCLUSIVE"
    assert "which suggests caching. The judge shows each video once" in verdict.sentence


def test_mutant_gpu_fallback(judge, monkeypatch):
    monkeypatch.setattr(measure, "find_device", lambda name: measure.torch.device("cuda"))
    with pytest.raises(EnvironmentFault, match="ran on cpu, not on cuda"):
        judge(FakePackage(), device="cuda")


def test_mutant_slow_after_item_600(judge):
    verdict = judge(
        FakePackage(
            video_cost=lambda position, video_id, predicted: 0.01 if position < 600 else 0.02
        )
    )
    assert verdict.status == "FAIL"


def test_mutant_slow_only_among_the_largest(judge):
    """1 % of the videos take a second each: 250 s more for 25,000."""
    verdict = judge(
        FakePackage(
            video_cost=lambda position, video_id, predicted: (
                1.0 if size_of(video_id) >= VIDEOS * 0.99 else 0.01
            )
        )
    )
    assert verdict.status == "FAIL"
    assert verdict.facts["projection"]["expected"] > 480


def test_defect_each_video_slower_than_the_last(judge):
    """1.87 times as slow after 2,048 videos: 250 s at the initial rate, but 1,360 s in total."""
    fake = FakePackage(
        video_cost=lambda position, video_id, predicted: 0.0075 * (1 + position / 2048 * 0.87)
    )
    verdict = judge(fake)
    truth = 10.3 + sum(0.0075 * (1 + position / 2048 * 0.87) for position in range(25_000))
    assert verdict.status == "FAIL"
    assert "Each video takes longer than the one before" in verdict.sentence
    assert verdict.facts["projection"]["expected"] == pytest.approx(truth, rel=0.05)


def test_defect_each_video_slower_than_the_last_in_noise(judge):
    """The same growth with 20 % of noise per batch never passes, and noise alone does not fail a
    correct package.
    """
    noise = [float(n) for n in np.exp(np.random.default_rng(1).normal(0, 0.2, 1000))]
    growing = FakePackage(
        video_cost=lambda position, video_id, predicted: (
            0.0075 * (1 + position / 2048 * 0.87) * noise[position // 32]
        )
    )
    assert judge(growing).status != "PASS"
    assert (
        judge(
            FakePackage(
                video_cost=lambda position, video_id, predicted: 0.01 * noise[position // 32]
            )
        ).status
        == "PASS"
    )


def test_defect_slow_without_a_sample(judge):
    """Three times as slow without --sample, as the judge runs it: the check runs all test videos
    that way.
    """
    verdict = judge(FakePackage(whole_split_extra=0.02))
    assert verdict.status == "FAIL"
    assert verdict.facts["projection"]["expected"] > 25_000 * 0.028


def test_verdict_names_the_largest_run(judge):
    verdict = judge(FakePackage())
    assert verdict.facts["largest_run"] == VIDEOS
    assert verdict.status == "PASS"
    assert verdict.sentence.endswith(
        "Largest run in one process: 4,000 of 25,000 videos "
        "(`wbdc submit --full` runs all of them)."
    )
    assert "one process" not in judge(FakePackage(), items=4000, seconds=357.0).sentence


@pytest.mark.parametrize(
    ("start", "seconds_per_video", "precision"),
    [(2.0, 0.01, "fp16"), (12.0, 0.01, "fp32"), (2.0, 1.0, "fp16"), (25.0, 0.01, "fp32")],
)
def test_all_runs_end_within_the_cap(judge, start, seconds_per_video, precision):
    """All runs together end within --cap 60 for slow packages too; with too few cold starts the
    package does not pass.
    """
    fake = FakePackage(start=start, seconds_per_video=seconds_per_video, precision=precision)
    if start == 25.0:
        with pytest.raises(Inconclusive):
            judge(fake, cap_seconds=60.0)
    else:
        verdict = judge(fake, cap_seconds=60.0)
        assert verdict.status != "PASS" or len(verdict.facts["cold_starts"]) == 3
    assert fake.seconds <= 61


def test_too_few_cold_starts_do_not_pass(judge):
    verdict = judge(FakePackage(start=22.0, seconds_per_video=0.0001), cap_seconds=90.0)
    assert verdict.status == "INCONCLUSIVE"
    assert "Only 1 of 3 cold starts fit into the cap of 90 s" in verdict.sentence


BUSY = CpuUse(seconds=50.0, cpus=2, run_seconds=12.0, other_seconds=85.0)


@pytest.mark.parametrize("seconds_per_video", [0.002, 0.05])
def test_defect_busy_machine(judge, seconds_per_video):
    """Neither PASS nor FAIL while other processes use the CPUs."""
    verdict = judge(FakePackage(seconds_per_video=seconds_per_video, cpu_use=BUSY))
    assert verdict.status == "INCONCLUSIVE"
    assert verdict.code == 6
    assert "The machine was busy: other processes used 85% of its CPUs" in verdict.sentence
    assert verdict.facts["cpu_use"]["other_seconds"] == 85.0


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (
            lambda data: (data / "zip_frames/cache").write_text("x"),
            "zip_frames (changed), zip_frames/cache (new)",
        ),
        (lambda data: (data / "annotations/test.json").touch(), "annotations/test.json (changed)"),
        (
            lambda data: ((data / "annotations/x").touch(), (data / "annotations/x").unlink()),
            "annotations (changed)",
        ),
    ],
    ids=["a new file", "a changed file", "a file removed again"],
)
def test_defect_writing_into_the_data(judge, copy, data, tmp_path, write, named):
    """The judge mounts the data read-only: no receipt, and the paths are named."""
    changed = shutil.copytree(data, tmp_path / "data")
    with pytest.raises(IntegrityFault, match=re.escape(named)):
        judge(
            FakePackage(start=lambda run: (write(changed), 10.0)[1] if run == 2 else 10.0),
            data=changed,
            sample=64,
            cap_seconds=60.0,
        )
    assert not (copy / "latency.json").exists()


# seconds, so that all three cold starts fit; 100 for the others
CAPS = {"one cold start of three takes 60 s": 200.0}
DEFECTS = {
    "none": (FakePackage(start=2.0), "PASS", "PASS"),
    "each video slower than the last": (
        FakePackage(
            start=2.0,
            video_cost=lambda position, video_id, predicted: 0.0075 * (1 + position / 2048),
        ),
        "FAIL",
        "FAIL",
    ),
    "memory that grows with the videos": (
        FakePackage(start=2.0, memory_growth=lambda videos: videos * 16 * 2**20),
        "FAIL",
        "FAIL",
    ),
    "GPU memory that grows with the videos": (
        FakePackage(start=2.0, gpu_memory=lambda videos: videos * 7 * 2**20),
        "FAIL",
        "FAIL",
    ),
    "a pause of 20 s every 2,500 videos": (
        FakePackage(
            start=2.0,
            video_cost=lambda position, video_id, predicted: (
                20.0 if position % 2500 == 2499 else 0.01
            ),
        ),
        "PASS",
        "FAIL",
    ),
    "a jump after video 2,100": (
        FakePackage(
            start=2.0,
            video_cost=lambda position, video_id, predicted: 0.05 if position > 2100 else 0.01,
        ),
        "PASS",
        "FAIL",
    ),
    "slower after video 2,100, close to the limit": (
        FakePackage(
            start=2.0,
            video_cost=lambda position, video_id, predicted: 0.01 if position < 2100 else 0.0154,
        ),
        "PASS",
        "INCONCLUSIVE",
    ),
    "slow only without `--sample`": (
        FakePackage(start=2.0, whole_split_extra=0.02),
        "PASS",
        "FAIL",
    ),
    "slow after 30 s of life": (FakePackage(start=2.0, slow_after=(30.0, 0.03)), "PASS", "FAIL"),
    "models left out by the deadline": (
        FakePackage(start=2.0, stderr="out of time: 1 of 2 models are not used: b\n"),
        "PASS",
        "INCONCLUSIVE",
    ),
    "no file handle left after 3,000 videos": (
        FakePackage(start=2.0, max_videos=3000),
        "PASS",
        "refused, exit 4",
    ),
    "one cold start of three takes 60 s": (
        FakePackage(start=lambda run: 60.0 if run == 1 else 2.0),
        "FAIL",
        "INCONCLUSIVE",
    ),
    "slow after video 600": (
        FakePackage(
            start=2.0,
            video_cost=lambda position, video_id, predicted: 0.01 if position < 600 else 0.02,
        ),
        "FAIL",
        "FAIL",
    ),
    "1 s for each of the largest 1 %": (
        FakePackage(
            start=2.0,
            video_cost=lambda position, video_id, predicted: (
                1.0 if size_of(video_id) >= VIDEOS * 0.99 else 0.01
            ),
        ),
        "INCONCLUSIVE",
        "FAIL",
    ),
    "a spike of memory above the limit": (FakePackage(start=2.0, peak=81 * GB), "FAIL", "FAIL"),
    "time spent after the last row": (FakePackage(start=2.0, after_last_row=0.01), "FAIL", "FAIL"),
    "rows that are never flushed": (
        FakePackage(start=2.0, change_rows=lambda rows, precision, with_timings: rows[:-1]),
        "refused, exit 12",
        "refused, exit 12",
    ),
    "writing into the data folder": (
        FakePackage(start=2.0, writes_into_data=True),
        "refused, exit 4",
        "refused, exit 4",
    ),
    "a machine busy with other processes": (
        FakePackage(start=2.0, cpu_use=BUSY),
        "INCONCLUSIVE",
        "INCONCLUSIVE",
    ),
}
HEADER = "| fault | sampled check | `--full` |\n|---|---|---|"


@pytest.fixture(scope="module")
def table():
    """Collect rows, and print them as one table: `pytest -n 0 -s -k by_sample_and_in_full
    tests/submit/timing/test_mutants.py`.
    """
    rows: list[str] = []
    yield rows
    print("", HEADER, *rows, sep="\n")


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_by_sample_and_in_full(judge, data, tmp_path, monkeypatch, table, name):
    """Faults beyond the sample: the sampled check names its largest run, the full run finds them.

    6,000 items in 85.7 s, 4,000 test videos; the cap leaves no time to run all of them without
    --sample.
    """
    monkeypatch.setattr(machine_load, "busy_seconds", lambda cpus: 0.0)
    fake, *expected = DEFECTS[name]
    if fake.writes_into_data:
        data = shutil.copytree(data, tmp_path / "data")
    statuses = []
    for full in (False, True):
        try:
            verdict = judge(
                replace(fake, runs=[]),
                data=data,
                full=full,
                items=6000,
                seconds=6000 / 70,
                cap_seconds=CAPS.get(name, 100.0),
            )
        except WbdcError as error:
            statuses.append(f"refused, exit {error.code}")
            continue

        statuses.append(verdict.status)
        facts = verdict.facts
        assert facts["full"] is full
        if full:
            assert facts["largest_run"] == 6000
            assert facts["full_run"]["distinct_videos"] == VIDEOS
            assert "6,000 videos in one process" in verdict.sentence
        else:
            assert (
                f"Largest run in one process: {facts['largest_run']:,} of 6,000 videos"
                in verdict.sentence
            )

    table.append(f"| {name} | {statuses[0]} | {statuses[1]} |")
    assert statuses == expected


def test_no_defect_passes_the_full_run():
    """18 faulty packages and a correct one; docs/time-check.md shows the same table."""
    assert len(DEFECTS) == 19
    assert [name for name, (*_, whole) in DEFECTS.items() if whole == "PASS"] == ["none"]
    documented = (Path(__file__).parents[3] / "docs" / "time-check.md").read_text()
    rows = [f"| {name} | {sampled} | {full} |" for name, (_, sampled, full) in DEFECTS.items()]
    assert "\n".join([HEADER, *rows]) in documented


def test_full_run_uses_inference_sh_and_the_deadline(judge, data):
    """The limit is the deadline; neither --sample nor --timings is given."""
    runs = []

    def spy(folder, data, out, **options):
        runs.append(options)
        return FakePackage(start=2.0)(folder, data, out, **options)

    judge(spy, full=True, items=4100, seconds=4100 / 70, cap_seconds=100.0)
    last = runs[-1]
    assert last["deadline"] == pytest.approx(4100 / 70)
    assert last["timeout"] == pytest.approx(1.5 * 4100 / 70)
    assert not {"sample", "timings", "precision"} & set(last)
    assert last["split"] is None
    with pytest.raises(UsageFault, match="leave --quick out"):
        judge(spy, full=True, quick=True)


def test_mutant_memory_spike(judge):
    verdict = judge(FakePackage(peak=81 * GB))
    assert verdict.status == "FAIL"
    assert verdict.code == 5
    assert "The package uses 81.0 GB of memory; the judge has 80.0 GB." in verdict.sentence


def test_defect_memory_that_grows_with_the_videos(judge):
    """2 GB and 4 MB per video: 18 GB in the largest run, 100 GB at the last item; the judge has
    80 GB.
    """
    verdict = judge(FakePackage(memory_growth=lambda videos: videos * 4 * 2**20))
    assert verdict.status == "FAIL"
    assert verdict.facts["memory_peaks"]["memory"] < 20 * GB
    assert (
        "Memory grows by 4.0 MB per video, to 99.7 GB at 25,000 videos; the judge has 80.0 GB."
        in verdict.sentence
    )
    assert verdict.facts["memory_growth"]["memory"]["expected"] == pytest.approx(
        99.66 * GB, rel=0.01
    )


def test_defect_memory_that_grows_in_noise(judge):
    """With 10 % of noise it never passes. 2 MB per video fit, and a cache that fills up and stays
    constant is not growth.
    """
    noise = np.random.default_rng(2).normal(1, 0.1, 30_000)
    assert (
        judge(
            FakePackage(memory_growth=lambda videos: int(videos * 4 * 2**20 * noise[videos]))
        ).status
        != "PASS"
    )
    assert judge(FakePackage(memory_growth=lambda videos: videos * 2 * 2**20)).status == "PASS"
    assert (
        judge(FakePackage(memory_growth=lambda videos: min(videos, 400) * 10 * 2**20)).status
        == "PASS"
    )
    assert judge(FakePackage(memory_growth=lambda videos: int(GB * noise[videos]))).status == "PASS"


def test_mutant_gpu_memory(judge):
    verdict = judge(FakePackage(change_timings=lambda report: report | {"gpu_peak": 33 * GB}))
    assert verdict.status == "FAIL"
    assert "33.0 GB of GPU memory" in verdict.sentence


def test_defect_gpu_memory_that_grows_with_the_videos(judge):
    """1 GB and 2 MB per video: 5 GB in the largest timed run, 50 GB at the last item; the judge has
    32 GB.
    """
    verdict = judge(FakePackage(gpu_memory=lambda videos: GB + videos * 2 * 2**20))
    assert verdict.status == "FAIL"
    assert verdict.facts["memory_peaks"]["gpu_memory"] < 6 * GB
    assert (
        "GPU memory grows by 2.0 MB per video, to 49.8 GB at 25,000 videos; the judge has 32.0 GB."
        in verdict.sentence
    )
    assert verdict.facts["memory_growth"]["gpu_memory"]["expected"] == pytest.approx(
        49.8 * GB, rel=0.01
    )


def test_defect_gpu_memory_that_grows_in_noise(judge):
    """It never passes. 1 MB per video fits, and blocks that are cached once are not growth."""
    noise = np.random.default_rng(5).normal(1, 0.1, 30_000)
    assert (
        judge(FakePackage(gpu_memory=lambda videos: int(videos * 2 * 2**20 * noise[videos]))).status
        != "PASS"
    )
    for steady in (
        lambda videos: videos * 2**20,
        lambda videos: min(videos, 400) * 10 * 2**20,
        lambda videos: int(4 * GB * noise[videos]),
    ):
        assert judge(FakePackage(gpu_memory=steady)).status == "PASS"


def test_full_run_measures_gpu_memory(judge):
    """The GPU memory that the full run reports replaces the extrapolation."""
    limit = {"items": 6000, "seconds": 6000 / 70, "cap_seconds": 100.0, "full": True}
    late = judge(
        FakePackage(start=2.0, gpu_memory=lambda videos: (33 if videos > 5000 else 3) * GB), **limit
    )
    assert late.status == "FAIL"
    assert "The package uses 33.0 GB of GPU memory; the judge has 32.0 GB." in late.sentence
    fills = judge(
        FakePackage(start=2.0, gpu_memory=lambda videos: min(videos, 4000) * 6 * 2**20), **limit
    )
    assert fills.status == "PASS"
    assert "gpu_memory" not in fills.facts["memory_growth"]


def test_mutant_output_not_flushed(judge):
    with pytest.raises(ResultFault, match="misses ids"):
        judge(
            FakePackage(
                change_rows=lambda rows, precision, with_timings: rows[: len(rows) // 32 * 32 - 32]
            )
        )
    with pytest.raises(ResultFault, match="ends inside a line"):
        judge(
            FakePackage(
                change_rows=lambda rows, precision, with_timings: [*rows[:-1], rows[-1][:-3]]
            )
        )


def test_mutant_time_spent_after_the_last_row(judge):
    """The marks report .01 s per video; the process takes .02 s until it ends."""
    verdict = judge(FakePackage(after_last_row=0.01))
    assert verdict.status == "FAIL"
    assert verdict.facts["projection"]["expected"] > 500


def test_mutant_clock_that_runs_slow(judge):
    """A process that reports half of its time."""

    def halve(report):
        begin = report["marks"]["listed"]
        marks = {
            name: begin + (at - begin) / 2 if at > begin else at
            for name, at in report["marks"].items()
        }
        return report | {
            "marks": marks,
            "batches": [[n, begin + (at - begin) / 2] for n, at in report["batches"]],
        }

    verdict = judge(FakePackage(seconds_per_video=0.02, change_timings=halve))
    assert verdict.status == "FAIL"
    assert verdict.facts["projection"]["expected"] > 450


def test_mutant_wall_clock_jump(judge, monkeypatch):
    """The wall clock is not used, so it may jump."""
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert judge(FakePackage()).status == "PASS"
    assert not [
        p
        for p in Path(measure.__file__).parents[1].rglob("*.py")
        if p.parts[-2] in ("serve", "submit") and "time.time()" in p.read_text()
    ]


def test_mutant_less_work_when_timed(judge):
    """Other predictions with --timings, or slower without."""
    with pytest.raises(IntegrityFault, match="differently"):
        judge(
            FakePackage(
                change_rows=lambda rows, precision, with_timings: (
                    rows if with_timings else [row.replace("0100", "0101") for row in rows]
                )
            )
        )
    # runs 3 and 4 are without --timings
    verdict = judge(FakePackage(start=lambda run: 30.0 if run in (3, 4) else 10.0))
    assert verdict.status == "INCONCLUSIVE"
    assert "Without --timings, the package took 30.4 s" in verdict.sentence
    slow_once = FakePackage(start=lambda run: 30.0 if run == 3 else 10.0)
    assert judge(slow_once).status == "PASS"


def test_mutant_slow_without_timings(judge):
    """Ten times as slow without --timings: too little of it shows in a cold start."""
    verdict = judge(
        FakePackage(video_cost=lambda position, video_id, predicted: 0.01, untimed_extra=0.09)
    )
    assert verdict.status != "PASS"
    assert verdict.facts["projection"]["upper"] > 2000


def test_mutant_more_videos_reported_than_requested(judge):
    with pytest.raises(IntegrityFault, match="reports 20480 predictions for 2048 videos"):
        judge(
            FakePackage(
                seconds_per_video=0.05,
                change_timings=lambda report: (
                    report | {"batches": [[n * 10, at] for n, at in report["batches"]]}
                    if len(report["batches"]) > 1
                    else report
                ),
            )
        )
    with pytest.raises(IntegrityFault, match="cannot be timed"):
        judge(
            FakePackage(
                change_timings=lambda report: (
                    report | {"batches": report["batches"][:-1] + [[report["batches"][-1][0], 1e6]]}
                )
            )
        )


def test_mutant_all_time_reported_as_warm_up(judge):
    def all_in_first_batches(report):
        """Report that the first five batches took all the time."""
        batches = report["batches"]
        begin = report["marks"]["listed"]
        end = batches[-1][1]
        return report | {
            "batches": [
                [n, begin + (end - begin) * min(1, (i + 1) / 5)] for i, (n, _) in enumerate(batches)
            ]
        }

    verdict = judge(FakePackage(seconds_per_video=0.02, change_timings=all_in_first_batches))
    assert verdict.status != "PASS"
    assert verdict.facts["projection"]["upper"] > 500


def test_mutant_unmarked_time_and_one_slow_cold_start(judge):
    verdict = judge(FakePackage(start=lambda run: 40.0 if run == 1 else 10.0, after_last_row=0.012))
    assert verdict.status != "PASS"
    assert verdict.facts["projection"]["upper"] > 560


def test_mutant_small_unmarked_time(judge):
    verdict = judge(FakePackage(seconds_per_video=0.0122, after_last_row=0.0019), sample=1024)
    assert verdict.status != "PASS"
    assert verdict.facts["projection"]["upper"] > 368


@pytest.mark.parametrize(("changed", "status"), [(0, "PASS"), (3, "INCONCLUSIVE"), (8, None)])
def test_mutant_half_precision_changes_predictions(judge, changed, status):
    fake = FakePackage(
        precision="fp16",
        change_rows=lambda rows, precision, with_timings: [
            r.replace("0100", "0101") if precision and i < changed else r
            for i, r in enumerate(rows)
        ],
    )
    if status is None:
        with pytest.raises(
            ResultFault,
            match="half precision changes 1.6% of the predictions compared with FP32, more than 1%",
        ):
            judge(fake)
    else:
        verdict = judge(fake)
        assert verdict.status == status
        assert verdict.facts["changed_by_half_precision"] == pytest.approx(changed / 512)


def test_quick_check_never_passes(judge):
    fake = FakePackage()
    verdict = judge(fake, quick=True)
    assert verdict.status == "INCONCLUSIVE"
    assert "A quick check never passes" in verdict.sentence
    assert fake.runs == [8, 8, 64]
    assert judge(FakePackage(seconds_per_video=0.1), quick=True).status == "FAIL"


def test_receipt_holds_all_measurements(judge):
    facts = judge(FakePackage()).facts
    assert json.loads(json.dumps(facts))
    assert {"memory_peaks", "warnings", "exceeded_limits", "cold_starts", "machine"} <= set(facts)


def test_judge_profile_scales_the_verdict(judge, monkeypatch):
    """A machine twice as fast halves the seconds. For one between as fast and twice as fast, the
    slow end decides.
    """
    here = {
        "rates": {
            "matrix": [100.0, 100.0],
            "memory": [10.0],
            "copy_to_device": [10.0],
            "decode": [1000.0],
        }
    }
    monkeypatch.setattr(rehearse_module, "profile_machine", lambda device, threads: here)
    twice = {
        "rates": {kernel: [2 * rate for rate in rates] for kernel, rates in here["rates"].items()}
    }
    slow = FakePackage(seconds_per_video=0.02)
    assert judge(slow).status == "FAIL"
    assert judge(FakePackage(seconds_per_video=0.02), judge=twice).status == "PASS"
    verdict = judge(
        FakePackage(
            seconds_per_video=0.02,
            change_timings=lambda report: report | {"stages": {"vision": 1e9}},
        ),
        judge={"rates": twice["rates"] | {"matrix": [100.0, 200.0]}},
    )
    assert verdict.status == "INCONCLUSIVE"
    assert verdict.facts["speed_ratios"]["vision"] == [0.5, 1.0]
