"""The time check held against packages that cheat or misbehave, each by name: made-up ones, on a
virtual clock.
"""

import json
import re
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import small

from wbdc.core.errors import (
    EnvironmentLacks,
    Inconclusive,
    IntegrityBroken,
    ResultInvalid,
    UsageFault,
    WbdcError,
)
from wbdc.core.files import publish_json
from wbdc.serve.entry import GPU_PEAK
from wbdc.submit.timing import machine_load, measure
from wbdc.submit.timing import rehearse as rehearse_module
from wbdc.submit.timing.machine_load import CpuUse
from wbdc.submit.timing.options import RehearsalOptions
from wbdc.submit.timing.rehearse import rehearse
from wbdc.submit.timing.sandbox import SandboxRun, failure_message

VIDEOS, GB = 4000, 2**30


@dataclass
class Fake:
    """An honest package: 10 s to start, one of them to list 4,000 videos, .01 s a video, 266 s for
    the contest's 25,000, 2 GB. What a mutant does otherwise is a function of its own.
    """

    start: float = 10.0
    each: float = 0.01
    after: float = 0.0  # seconds a video, once its last row is written
    unasked: float = 0.0  # seconds a video more, when it is not asked for timings
    peak: int = 2 * GB
    gpu_grows: object = None  # bytes of GPU memory: f(videos answered) -> bytes
    grows: object = (
        None  # bytes of memory beyond the peak of the start: f(videos answered) -> bytes
    )
    device: str = "cpu"
    precision: str = "fp32"
    alone: float = 0.0  # seconds a video more, when it runs without --sample
    late: tuple = (float("inf"), 0.0)  # from these seconds of its life on, seconds a video more
    says: str = ""
    use: CpuUse | None = None
    most: float = float("inf")  # videos that one process can open
    writes: bool = False  # into the data folder
    cost: object = None  # of a video: f(place in the run, id, ids answered before) -> seconds
    rows: object = None  # of the result: f(rows, precision, asked for timings) -> rows
    claims: object = None  # what it says of itself: f(timings) -> timings
    seconds: float = 0.0  # of all runs
    runs: list = field(default_factory=list)

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
        **rest,
    ) -> SandboxRun:
        if self.writes:
            (data / "cache").write_text("x" * (1 + len(self.runs)))
        more, sample = (0, sample) if sample is not None else (self.alone, listed(data))
        start = self.start(len(self.runs)) if callable(self.start) else self.start
        self.runs.append(len(sample))
        if len(sample) > self.most:
            raise failure_message(SandboxRun(1, start, "OSError: [Errno 24] Too many open files"))
        now, seen, batches = start, set(), []
        for place, video in enumerate(sample):
            now += (
                (self.cost(place, video, seen) if self.cost else self.each)
                + (self.unasked if timings is None else 0)
                + more
            )
            now += self.late[1] if now > self.late[0] else 0
            seen.add(video)
            if place % 32 == 31 or place == len(sample) - 1:
                batches.append([place + 1, now])
        self.seconds += min(now, timeout)
        if now > timeout:
            raise Inconclusive(f"the packed folder did not end within {timeout:.0f} s")
        rows = [f"{i},0100\n" for i in sample]
        out.write_text(
            "".join(self.rows(rows, precision, timings is not None) if self.rows else rows)
        )
        marks = {
            "imported": start / 2,
            "loaded": start - 1,
            "listed": start,
            "answered": now,
            "written": now,
        }
        told = {
            "marks": marks,
            "batches": batches,
            "stages": {"decode": 1.0},
            "ahead": 4,
            "device": self.device,
            "threads": 1,
            "precision": precision or self.precision,
        }
        told["gpu_memory"] = (
            [[at, self.gpu_grows(videos)] for videos, at in batches] if self.gpu_grows else []
        )
        told["gpu_peak"] = max((held for _, held in told["gpu_memory"]), default=0)
        says = self.says + (f"{GPU_PEAK} {told['gpu_peak']}\n" if self.gpu_grows else "")
        if timings:
            publish_json(timings, self.claims(told) if self.claims else told)
        extra = self.grows or (lambda videos: 0)
        memory = [(at, self.peak + extra(videos)) for videos, at in batches]
        peak = max(held for _, held in memory)
        return SandboxRun(0, now + 0.3 + self.after * len(sample), says, peak, memory, self.use)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Annotations of 4,000 videos; their archives are weighed by their ids."""
    root = tmp_path_factory.mktemp("data")
    (root / "annotations").mkdir()
    (root / "zip_frames").mkdir()
    small.annotate(
        root, "test", [{"id": f"{i:020}", "title": "", "asr": "", "ocr": []} for i in range(VIDEOS)]
    )
    return root


@pytest.fixture
def judge(package, data, tmp_path, monkeypatch):
    """Hold a made-up package against the contest's limit."""
    copy = shutil.copytree(package, tmp_path / "copy")
    monkeypatch.setattr(
        measure, "archive_sizes", lambda paths: [1000 + weight(path.stem) for path in paths]
    )

    def run(fake: Fake, data: Path = data, **asked):
        monkeypatch.setattr(measure, "run_packed", fake)
        return rehearse(copy, data, RehearsalOptions(**asked))

    return run


def listed(data: Path) -> list[str]:
    """List the ids of the test split."""
    return [item["id"] for item in json.loads((data / "annotations/test.json").read_text())]


def weight(video: str) -> int:
    """Spread sizes over ids: the largest 1 % are not the first, nor the last."""
    return int(video) * 7919 % VIDEOS


def test_an_honest_package_passes(judge):
    verdict = judge(Fake())
    assert verdict.status == "PASS"
    assert verdict.facts["projection"]["expected"] == pytest.approx(10.3 + 250 + 5.25)
    assert verdict.facts["sample_videos"] == 2048
    assert verdict.facts["memory_peaks"]["memory"] == 2 * GB
    assert verdict.facts["warnings"] == []


def test_mutant_cold_start_dropped(judge):
    """A process that starts slowly once in three times is judged by that time."""
    verdict = judge(Fake(start=lambda run: 130.0 if run == 1 else 10.0))
    assert verdict.status != "PASS"
    assert verdict.facts["projection"]["expected"] > 370


def test_mutant_first_k_sampling(judge):
    """Fast for the first 2,048 ids of the split, slow for the rest."""
    verdict = judge(Fake(cost=lambda place, video, seen: 0.005 if int(video) < 2048 else 0.03))
    assert verdict.facts["projection"]["expected"] > 10 + 25_000 * 0.014
    assert verdict.status == "FAIL"


def test_mutant_caching_by_id(judge):
    verdict = judge(Fake(cost=lambda place, video, seen: 0.001 if video in seen else 0.01))
    assert verdict.status == "INCONCLUSIVE"
    assert "which suggests caching. The judge shows each video once" in verdict.sentence


def test_mutant_gpu_fallback(judge, monkeypatch):
    monkeypatch.setattr(measure, "find_device", lambda name: measure.torch.device("cuda"))
    with pytest.raises(EnvironmentLacks, match="ran on cpu, not on cuda"):
        judge(Fake(), device="cuda")


def test_mutant_slow_after_item_600(judge):
    verdict = judge(Fake(cost=lambda place, video, seen: 0.01 if place < 600 else 0.02))
    assert verdict.status == "FAIL"


def test_mutant_slow_only_among_the_largest(judge):
    """1 % of the videos take a second each: 250 s more of 25,000."""
    verdict = judge(
        Fake(cost=lambda place, video, seen: 1.0 if weight(video) >= VIDEOS * 0.99 else 0.01)
    )
    assert verdict.status == "FAIL"
    assert verdict.facts["projection"]["expected"] > 480


def test_mishap_each_video_slower_than_the_last(judge):
    """1.87 times as slow after 2,048 videos: 250 s at the first pace, about 1,360 s in truth."""
    fake = Fake(cost=lambda place, video, seen: 0.0075 * (1 + place / 2048 * 0.87))
    verdict = judge(fake)
    truth = 10.3 + sum(0.0075 * (1 + place / 2048 * 0.87) for place in range(25_000))
    assert verdict.status == "FAIL"
    assert "Each video takes longer than the one before" in verdict.sentence
    assert verdict.facts["projection"]["expected"] == pytest.approx(truth, rel=0.05)


def test_mishap_each_video_slower_than_the_last_in_noise(judge):
    """The same growth under noise of 20 % per batch never passes, and no false trend fails an
    honest package.
    """
    noise = [float(n) for n in np.exp(np.random.default_rng(1).normal(0, 0.2, 1000))]
    growing = Fake(
        cost=lambda place, video, seen: 0.0075 * (1 + place / 2048 * 0.87) * noise[place // 32]
    )
    assert judge(growing).status != "PASS"
    assert judge(Fake(cost=lambda place, video, seen: 0.01 * noise[place // 32])).status == "PASS"


def test_mishap_slow_without_a_sample(judge):
    """Three times the pace when it is run without --sample, as the judge does: all test videos are
    run so.
    """
    verdict = judge(Fake(alone=0.02))
    assert verdict.status == "FAIL"
    assert verdict.facts["projection"]["expected"] > 25_000 * 0.028


def test_the_largest_run_is_named(judge):
    verdict = judge(Fake())
    assert verdict.facts["largest_run"] == VIDEOS
    assert verdict.status == "PASS"
    assert verdict.sentence.endswith(
        "Largest run in one process: 4,000 of 25,000 videos (`wbdc submit --full` runs all of them)."
    )
    assert "one process" not in judge(Fake(), items=4000, seconds=357.0).sentence


@pytest.mark.parametrize(
    ("start", "each", "precision"),
    [(2.0, 0.01, "fp16"), (12.0, 0.01, "fp32"), (2.0, 1.0, "fp16"), (25.0, 0.01, "fp32")],
)
def test_the_cap_holds(judge, start, each, precision):
    """All runs together end within --cap 60, however slow the package is; what did not fit is
    named, and forbids to pass.
    """
    fake = Fake(start=start, each=each, precision=precision)
    try:
        verdict = judge(fake, cap_seconds=60.0)
        assert verdict.status != "PASS" or len(verdict.facts["cold_starts"]) == 3
    except Inconclusive as error:
        assert start == 25.0, error
    assert fake.seconds <= 61


def test_cold_starts_that_fill_the_cap_do_not_pass(judge):
    verdict = judge(Fake(start=22.0, each=0.0001), cap_seconds=90.0)
    assert verdict.status == "INCONCLUSIVE"
    assert "Only 1 of 3 cold starts fit into the cap of 90 s" in verdict.sentence


BUSY = CpuUse(seconds=50.0, cpus=2, run_seconds=12.0, other_seconds=85.0)


@pytest.mark.parametrize("each", [0.002, 0.05])
def test_mishap_a_busy_machine(judge, each):
    """Neither PASS nor FAIL while others use the CPUs."""
    verdict = judge(Fake(each=each, use=BUSY))
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
def test_mishap_writing_into_the_data(judge, data, tmp_path, write, named):
    """The judge mounts the data read-only: no receipt, and the paths are named."""
    copy = shutil.copytree(data, tmp_path / "data")
    with pytest.raises(IntegrityBroken, match=re.escape(named)):
        judge(
            Fake(start=lambda run: (write(copy), 10.0)[1] if run == 2 else 10.0),
            data=copy,
            sample=64,
            cap_seconds=60.0,
        )
    assert not (tmp_path / "copy/latency.json").exists()


CAPS = {
    "one cold start of three takes 60 s": 200.0
}  # seconds, so that all three fit; 100 for the others
MISHAPS = {
    "none": (Fake(start=2.0), "PASS", "PASS"),
    "each video slower than the last": (
        Fake(start=2.0, cost=lambda place, video, seen: 0.0075 * (1 + place / 2048)),
        "FAIL",
        "FAIL",
    ),
    "memory that grows with the videos": (
        Fake(start=2.0, grows=lambda videos: videos * 16 * 2**20),
        "FAIL",
        "FAIL",
    ),
    "GPU memory that grows with the videos": (
        Fake(start=2.0, gpu_grows=lambda videos: videos * 7 * 2**20),
        "FAIL",
        "FAIL",
    ),
    "a pause of 20 s every 2,500 videos": (
        Fake(start=2.0, cost=lambda place, video, seen: 20.0 if place % 2500 == 2499 else 0.01),
        "PASS",
        "FAIL",
    ),
    "a jump after video 2,100": (
        Fake(start=2.0, cost=lambda place, video, seen: 0.05 if place > 2100 else 0.01),
        "PASS",
        "FAIL",
    ),
    "slower after video 2,100, close to the limit": (
        Fake(start=2.0, cost=lambda place, video, seen: 0.01 if place < 2100 else 0.0154),
        "PASS",
        "INCONCLUSIVE",
    ),
    "slow only without `--sample`": (Fake(start=2.0, alone=0.02), "PASS", "FAIL"),
    "slow after 30 s of life": (Fake(start=2.0, late=(30.0, 0.03)), "PASS", "FAIL"),
    "models left out by the deadline": (
        Fake(start=2.0, says="out of time: 1 of 2 models have no say: b\n"),
        "PASS",
        "INCONCLUSIVE",
    ),
    "no file handle left after 3,000 videos": (
        Fake(start=2.0, most=3000),
        "PASS",
        "refused, exit 4",
    ),
    "one cold start of three takes 60 s": (
        Fake(start=lambda run: 60.0 if run == 1 else 2.0),
        "FAIL",
        "INCONCLUSIVE",
    ),
    "slow after video 600": (
        Fake(start=2.0, cost=lambda place, video, seen: 0.01 if place < 600 else 0.02),
        "FAIL",
        "FAIL",
    ),
    "1 s for each of the largest 1 %": (
        Fake(
            start=2.0,
            cost=lambda place, video, seen: 1.0 if weight(video) >= VIDEOS * 0.99 else 0.01,
        ),
        "INCONCLUSIVE",
        "FAIL",
    ),
    "a spike of memory above the limit": (Fake(start=2.0, peak=81 * GB), "FAIL", "FAIL"),
    "time spent after the last row": (Fake(start=2.0, after=0.01), "FAIL", "FAIL"),
    "rows that are never flushed": (
        Fake(start=2.0, rows=lambda rows, precision, asked: rows[:-1]),
        "refused, exit 12",
        "refused, exit 12",
    ),
    "writing into the data folder": (
        Fake(start=2.0, writes=True),
        "refused, exit 4",
        "refused, exit 4",
    ),
    "a machine busy with other processes": (
        Fake(start=2.0, use=BUSY),
        "INCONCLUSIVE",
        "INCONCLUSIVE",
    ),
}
HEADER = "| mishap | sampled check | `--full` |\n|---|---|---|"


@pytest.fixture(scope="module")
def table():
    """Collect rows, and print them as one table: `pytest -n 0 -s -k by_sample_and_in_full
    tests/submit/timing/test_mutants.py`.
    """
    rows: list[str] = []
    yield rows
    print("", HEADER, *rows, sep="\n")


@pytest.mark.parametrize("name", MISHAPS)
def test_mishaps_by_sample_and_in_full(judge, data, tmp_path, monkeypatch, table, name):
    """What only shows beyond the sample: the sampled check names its largest run, the full one
    tells.

    6,000 items in 85.7 s, 4,000 test videos; the cap leaves no time to run all of them without
    --sample.
    """
    monkeypatch.setattr(machine_load, "busy_seconds", lambda cpus: 0.0)
    fake, *expected = MISHAPS[name]
    if fake.writes:
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


def test_no_mishap_passes_in_full():
    """18 faulty packages and a correct one; docs/time-check.md shows the same table."""
    assert len(MISHAPS) == 19
    assert [name for name, (*_, whole) in MISHAPS.items() if whole == "PASS"] == ["none"]
    documented = (Path(__file__).parents[3] / "docs" / "time-check.md").read_text()
    assert (
        "\n".join(
            [
                HEADER,
                *(
                    f"| {name} | {sampled} | {whole} |"
                    for name, (_, sampled, whole) in MISHAPS.items()
                ),
            ]
        )
        in documented
    )


def test_a_full_run_goes_as_the_judge_s(judge, data):
    """inference.sh, the limit as its deadline, no --sample and no --timings; the data of the team
    are not touched.
    """
    asked = []

    def spy(folder, data, out, **options):
        asked.append(options)
        return Fake(start=2.0)(folder, data, out, **options)

    judge(spy, full=True, items=4100, seconds=4100 / 70, cap_seconds=100.0)
    last = asked[-1]
    assert last["deadline"] == pytest.approx(4100 / 70)
    assert last["timeout"] == pytest.approx(1.5 * 4100 / 70)
    assert not {"sample", "timings", "precision"} & set(last)
    assert last["split"] is None
    with pytest.raises(UsageFault, match="leave --quick out"):
        judge(spy, full=True, quick=True)


def test_mutant_memory_spike(judge):
    verdict = judge(Fake(peak=81 * GB))
    assert verdict.status == "FAIL"
    assert verdict.code == 5
    assert "The package uses 81.0 GB of memory; the judge has 80.0 GB." in verdict.sentence


def test_mishap_memory_that_grows_with_the_videos(judge):
    """2 GB and 4 MB a video: 18 GB at the largest run, 100 GB at the last item; the judge has 80
    GB.
    """
    verdict = judge(Fake(grows=lambda videos: videos * 4 * 2**20))
    assert verdict.status == "FAIL"
    assert verdict.facts["memory_peaks"]["memory"] < 20 * GB
    assert (
        "Memory grows by 4.0 MB per video, to 99.7 GB at 25,000 videos; the judge has 80.0 GB."
        in verdict.sentence
    )
    assert verdict.facts["memory_growth"]["memory"]["expected"] == pytest.approx(
        99.66 * GB, rel=0.01
    )


def test_mishap_memory_that_grows_in_noise(judge):
    """Give or take 10 %, it never passes. 2 MB a video fit, and caches that fill and stay are no
    growth.
    """
    noise = np.random.default_rng(2).normal(1, 0.1, 30_000)
    assert (
        judge(Fake(grows=lambda videos: int(videos * 4 * 2**20 * noise[videos]))).status != "PASS"
    )
    assert judge(Fake(grows=lambda videos: videos * 2 * 2**20)).status == "PASS"
    assert judge(Fake(grows=lambda videos: min(videos, 400) * 10 * 2**20)).status == "PASS"
    assert judge(Fake(grows=lambda videos: int(GB * noise[videos]))).status == "PASS"


def test_mutant_gpu_memory(judge):
    verdict = judge(Fake(claims=lambda told: told | {"gpu_peak": 33 * GB}))
    assert verdict.status == "FAIL"
    assert "33.0 GB of GPU memory" in verdict.sentence


def test_mishap_gpu_memory_that_grows_with_the_videos(judge):
    """1 GB and 2 MB a video: 5 GB at the largest timed run, 50 GB at the last item; the judge has
    32 GB.
    """
    verdict = judge(Fake(gpu_grows=lambda videos: GB + videos * 2 * 2**20))
    assert verdict.status == "FAIL"
    assert verdict.facts["memory_peaks"]["gpu_memory"] < 6 * GB
    assert (
        "GPU memory grows by 2.0 MB per video, to 49.8 GB at 25,000 videos; the judge has 32.0 GB."
        in verdict.sentence
    )
    assert verdict.facts["memory_growth"]["gpu_memory"]["expected"] == pytest.approx(
        49.8 * GB, rel=0.01
    )


def test_mishap_gpu_memory_that_grows_in_noise(judge):
    """It never passes. 1 MB a video fits, and blocks that are cached once and kept are no growth."""
    noise = np.random.default_rng(5).normal(1, 0.1, 30_000)
    assert (
        judge(Fake(gpu_grows=lambda videos: int(videos * 2 * 2**20 * noise[videos]))).status
        != "PASS"
    )
    for steady in (
        lambda videos: videos * 2**20,
        lambda videos: min(videos, 400) * 10 * 2**20,
        lambda videos: int(4 * GB * noise[videos]),
    ):
        assert judge(Fake(gpu_grows=steady)).status == "PASS"


def test_a_full_run_measures_gpu_memory(judge):
    """What the packed folder reports at the end of the full run decides instead of the
    extrapolation.
    """
    limit = {"items": 6000, "seconds": 6000 / 70, "cap_seconds": 100.0, "full": True}
    late = judge(
        Fake(start=2.0, gpu_grows=lambda videos: (33 if videos > 5000 else 3) * GB), **limit
    )
    assert late.status == "FAIL"
    assert "The package uses 33.0 GB of GPU memory; the judge has 32.0 GB." in late.sentence
    fills = judge(Fake(start=2.0, gpu_grows=lambda videos: min(videos, 4000) * 6 * 2**20), **limit)
    assert fills.status == "PASS"
    assert "gpu_memory" not in fills.facts["memory_growth"]


def test_mutant_output_not_flushed(judge):
    with pytest.raises(ResultInvalid, match="misses ids"):
        judge(Fake(rows=lambda rows, precision, asked: rows[: len(rows) // 32 * 32 - 32]))
    with pytest.raises(ResultInvalid, match="ends inside a line"):
        judge(Fake(rows=lambda rows, precision, asked: [*rows[:-1], rows[-1][:-3]]))


def test_mutant_time_spent_after_the_last_row(judge):
    """The marks say .01 s a video; the process takes .02 s until it ends."""
    verdict = judge(Fake(after=0.01))
    assert verdict.status == "FAIL"
    assert verdict.facts["projection"]["expected"] > 500


def test_mutant_clock_that_runs_slow(judge):
    """A process that says it took half of what it took."""

    def halve(told):
        begin = told["marks"]["listed"]
        marks = {
            name: begin + (at - begin) / 2 if at > begin else at
            for name, at in told["marks"].items()
        }
        return told | {
            "marks": marks,
            "batches": [[n, begin + (at - begin) / 2] for n, at in told["batches"]],
        }

    verdict = judge(Fake(each=0.02, claims=halve))
    assert verdict.status == "FAIL"
    assert verdict.facts["projection"]["expected"] > 450


def test_mutant_wall_clock_jump(judge, monkeypatch):
    """No second is read from the wall clock: it may jump as it likes."""
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert judge(Fake()).status == "PASS"
    assert not [
        p
        for p in Path(measure.__file__).parents[1].rglob("*.py")
        if p.parts[-2] in ("serve", "submit") and "time.time()" in p.read_text()
    ]


def test_mutant_less_work_when_it_is_timed(judge):
    """Other answers when asked for timings, or slower when not asked."""
    with pytest.raises(IntegrityBroken, match="differently"):
        judge(
            Fake(
                rows=lambda rows, precision, asked: (
                    rows if asked else [row.replace("0100", "0101") for row in rows]
                )
            )
        )
    verdict = judge(
        Fake(start=lambda run: 30.0 if run in (3, 4) else 10.0)
    )  # the untimed run, and the second try
    assert verdict.status == "INCONCLUSIVE"
    assert "Without --timings, the package took 30.4 s" in verdict.sentence
    assert judge(Fake(start=lambda run: 30.0 if run == 3 else 10.0)).status == "PASS", (
        "once is noise"
    )


def test_mutant_slow_when_it_is_not_timed(judge):
    """A tenth of the pace when nobody asks for timings: too little of it shows on a handful."""
    verdict = judge(Fake(cost=lambda place, video, seen: 0.01, unasked=0.09))
    assert verdict.status != "PASS"
    assert verdict.facts["projection"]["upper"] > 2000


def test_mutant_more_videos_claimed_than_were_asked(judge):
    with pytest.raises(IntegrityBroken, match="reports 20480 predictions for 2048 videos"):
        judge(
            Fake(
                each=0.05,
                claims=lambda told: (
                    told | {"batches": [[n * 10, at] for n, at in told["batches"]]}
                    if len(told["batches"]) > 1
                    else told
                ),
            )
        )
    with pytest.raises(IntegrityBroken, match="cannot be timed"):
        judge(
            Fake(
                claims=lambda told: (
                    told | {"batches": told["batches"][:-1] + [[told["batches"][-1][0], 1e6]]}
                )
            )
        )


def test_mutant_all_time_claimed_to_be_warm_up(judge):
    def first(told):
        """Say that all was done in the first five batches, and the rest took nothing."""
        batches, begin = told["batches"], told["marks"]["listed"]
        end = batches[-1][1]
        return told | {
            "batches": [
                [n, begin + (end - begin) * min(1, (i + 1) / 5)] for i, (n, _) in enumerate(batches)
            ]
        }

    verdict = judge(Fake(each=0.02, claims=first))
    assert verdict.status != "PASS"
    assert verdict.facts["projection"]["upper"] > 500


def test_mutant_unmarked_time_behind_a_hiccup_of_one_cold_start(judge):
    verdict = judge(Fake(start=lambda run: 40.0 if run == 1 else 10.0, after=0.012))
    assert verdict.status != "PASS"
    assert verdict.facts["projection"]["upper"] > 560


def test_mutant_unmarked_time_too_small_to_be_sure_of(judge):
    verdict = judge(Fake(each=0.0122, after=0.0019), sample=1024)
    assert verdict.status != "PASS"
    assert verdict.facts["projection"]["upper"] > 368


@pytest.mark.parametrize(("changed", "status"), [(0, "PASS"), (3, "INCONCLUSIVE"), (8, None)])
def test_mutant_half_precision_that_changes_answers(judge, changed, status):
    fake = Fake(
        precision="fp16",
        rows=lambda rows, precision, asked: [
            r.replace("0100", "0101") if precision and i < changed else r
            for i, r in enumerate(rows)
        ],
    )
    if status is None:
        with pytest.raises(
            ResultInvalid,
            match="half precision changes 1.6% of the predictions compared with FP32, more than 1%",
        ):
            judge(fake)
    else:
        verdict = judge(fake)
        assert verdict.status == status
        assert verdict.facts["changed_by_half_precision"] == pytest.approx(changed / 512)


def test_a_quick_rehearsal_fails_or_tells_nothing(judge):
    fake = Fake()
    verdict = judge(fake, quick=True)
    assert verdict.status == "INCONCLUSIVE"
    assert "A quick check never passes" in verdict.sentence
    assert fake.runs == [8, 8, 64]
    assert judge(Fake(each=0.1), quick=True).status == "FAIL"


def test_the_receipt_holds_what_was_seen(judge):
    facts = judge(Fake()).facts
    assert json.loads(json.dumps(facts))
    assert {"memory_peaks", "warnings", "exceeded_limits", "cold_starts", "machine"} <= set(facts)


def test_a_verdict_about_another_machine_is_as_sure_as_the_comparison(judge, monkeypatch):
    """Twice as fast at everything: half the seconds. Between as fast and twice as fast: the slow
    end decides.
    """
    here = {
        "rates": {"matrix": [100.0, 100.0], "memory": [10.0], "copy": [10.0], "decode": [1000.0]}
    }
    monkeypatch.setattr(rehearse_module, "profile_machine", lambda device, threads: here)
    twice = {
        "rates": {kernel: [2 * rate for rate in rates] for kernel, rates in here["rates"].items()}
    }
    slow = Fake(each=0.02)
    assert judge(slow).status == "FAIL"
    assert judge(Fake(each=0.02), judge=twice).status == "PASS"
    verdict = judge(
        Fake(each=0.02, claims=lambda told: told | {"stages": {"vision": 1e9}}),
        judge={"rates": twice["rates"] | {"matrix": [100.0, 200.0]}},
    )
    assert verdict.status == "INCONCLUSIVE"
    assert verdict.facts["speed_ratios"]["vision"] == [0.5, 1.0]
