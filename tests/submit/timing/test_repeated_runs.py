"""A long run that is late once is repeated, and does not decide; what is late twice does."""

import json
import shutil

import pytest
import small
from fake_package import GB, FakePackage

from wbdc.core.errors import Inconclusive, IntegrityFault
from wbdc.submit.timing import measure, repeated_runs
from wbdc.submit.timing.machine_load import CpuUse
from wbdc.submit.timing.options import RehearsalOptions
from wbdc.submit.timing.projection import ColdStart, SteadyRun, decisive_excess, project_seconds
from wbdc.submit.timing.rehearse import rehearse
from wbdc.submit.timing.time_cap import TimeCap

VIDEOS = 240  # of the test split
SAMPLE = 160
COLD_STARTS = [ColdStart(10.4, 0.08, 8)] * 3
# number of each run: 0 to 3 are cold starts, 6 and 7 measure caching
STEADY, UNTIMED, REPEATED = 4, 5, 8


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    (root / "zip_frames").mkdir()
    texts = {"title": "", "asr": "", "ocr": []}
    small.annotate(root, "test", [{"id": f"{i:020}", **texts} for i in range(VIDEOS)])
    return root


@pytest.fixture(scope="module")
def copy(package, tmp_path_factory):
    return shutil.copytree(package, tmp_path_factory.mktemp("judged") / "copy")


@pytest.fixture
def judge(copy, data, monkeypatch):
    """Return a function that rehearses a simulated package: (verdict, options of each run)."""

    def run(fake: FakePackage, change_run=lambda number, result: result, **options):
        calls = []

        def spy(*arguments, **run_options):
            calls.append(run_options)
            return change_run(len(calls) - 1, fake(*arguments, **run_options))

        monkeypatch.setattr(measure, "run_packed", spy)
        verdict = rehearse(copy, data, RehearsalOptions(sample=SAMPLE, **options))
        return verdict, calls

    return run


def late(*runs: int, seconds: float = 4.0):
    """Return the start of a package that takes longer in some runs, by their numbers."""
    return lambda number: 10.0 + (seconds if number in runs else 0.0)


def long_steady_run(excess: float, **changes) -> SteadyRun:
    """Return a run of 160 videos, .01 s each, whose wall time exceeds its marks."""
    marks = [(32 * i, 10 + 0.32 * i) for i in range(1, 6)]
    wall = COLD_STARTS[0].seconds + (SAMPLE - 8) * 0.01 + excess
    return SteadyRun(0.0, VIDEOS, 10.0, marks, wall_times=[(SAMPLE, wall)])._replace(**changes)


def test_nothing_is_repeated_without_a_late_run(judge):
    verdict, calls = judge(FakePackage())
    assert verdict.status == "PASS"
    assert len(calls) == REPEATED
    assert verdict.facts["slower_attempts"] == []
    assert verdict.facts["notes"] == []


@pytest.mark.parametrize("number", [STEADY, UNTIMED])
def test_run_that_is_late_once_is_repeated(judge, number):
    """Four seconds count once, not for each of 25,000 videos; the receipt holds both attempts."""
    on_time, _ = judge(FakePackage())
    verdict, calls = judge(FakePackage(start=late(number)))
    assert verdict.status == on_time.status == "PASS"
    expected, slower = (v.facts["projection"]["expected"] for v in (on_time, verdict))
    assert slower == pytest.approx(expected + 4)
    assert len(calls) == REPEATED + 1

    facts = verdict.facts
    videos = {STEADY: SAMPLE, UNTIMED: VIDEOS}
    assert [run["videos"] for run in facts["long_runs"]] == list(videos.values())
    assert facts["long_runs"] == on_time.facts["long_runs"]
    (slow,) = facts["slower_attempts"]
    assert slow == {
        "videos": videos[number],
        "seconds": pytest.approx(14.3 + videos[number] * 0.01),
        "with_timings": number == STEADY,
    }
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize("number", [STEADY, UNTIMED])
def test_repetition_has_the_same_videos_and_options(judge, number):
    _, calls = judge(FakePackage(start=late(number)))
    first, second = calls[number], calls[REPEATED]
    assert second["sample"] == first["sample"]
    assert (second["timings"] is None) == (first["timings"] is None) == (number == UNTIMED)
    options = ("device", "threads", "split", "precision")
    assert [second[name] for name in options] == [first[name] for name in options]


def test_repetition_reads_archives_from_disk(judge, monkeypatch):
    dropped = []
    monkeypatch.setattr(repeated_runs, "drop_page_cache", dropped.extend)
    judge(FakePackage(start=late(STEADY)))
    assert len(set(dropped)) == SAMPLE


def test_both_long_runs_may_be_late(judge):
    verdict, calls = judge(FakePackage(start=late(STEADY, UNTIMED)))
    assert verdict.status == "PASS"
    assert len(calls) == REPEATED + 2
    assert len(verdict.facts["slower_attempts"]) == 2


@pytest.mark.parametrize(("first", "second"), [(4.0, 4.0), (4.0, 6.0), (6.0, 4.0)])
def test_both_attempts_are_late(judge, first, second):
    """The excess of the faster attempt counts for each video."""
    start = {STEADY: 10.0 + first, REPEATED: 10.0 + second}
    verdict, _ = judge(FakePackage(start=lambda number: start.get(number, 10.0)))
    assert verdict.status == "FAIL"
    assert verdict.facts["projection"]["rate"]["mean"] == pytest.approx(0.01 + 4 / (SAMPLE - 8))
    assert verdict.facts["notes"] == [
        "The faster of two runs of 160 videos took 4.0 s longer than its timings report, which "
        "counts as time per video."
    ]
    assert verdict.facts["notes"][0] in verdict.sentence


def test_unmarked_time_per_video_still_fails(judge):
    verdict, _ = judge(FakePackage(after_last_row=0.02))
    assert verdict.status == "FAIL"
    assert verdict.facts["projection"]["expected"] > 10 + 25_000 * 0.029


def test_slow_start_of_a_long_run_counts_as_a_cold_start(judge):
    """A process that takes two minutes to start once in eight is judged by the slow start."""
    verdict, _ = judge(FakePackage(start=late(STEADY, seconds=120.0)))
    assert verdict.status == "FAIL"
    assert 380 < verdict.facts["projection"]["expected"] < 400


@pytest.mark.parametrize(
    ("start", "cap_seconds", "runs"),
    [
        (late(STEADY), 80.0, 6),
        (lambda number: {STEADY: 14.0, 6: 60.0}.get(number, 10.0), 95.0, 7),
    ],
    ids=["no room", "second attempt does not end"],
)
def test_cap_leaves_no_time_to_repeat(judge, start, cap_seconds, runs):
    """The verdict is that of the first attempt, and one sentence says why. The cap holds."""
    fake = FakePackage(start=start)
    verdict, calls = judge(fake, cap_seconds=cap_seconds)
    assert verdict.status == "FAIL"
    assert verdict.facts["projection"]["rate"]["mean"] > 0.03
    assert verdict.facts["notes"] == [
        "The cap left no time to repeat a run of 160 videos that took 4.0 s longer than its "
        "timings report; raise it with --cap."
    ]
    assert len(calls) == runs
    assert fake.seconds <= cap_seconds + 1


def test_full_run_repeats_nothing(judge, monkeypatch):
    """The full run decides. Here it fails to start, after all other runs."""
    monkeypatch.setattr("wbdc.submit.timing.rehearse.measure_full_run", lambda *_: 1 / 0)
    fake = FakePackage(start=late(STEADY))
    with pytest.raises(ZeroDivisionError):
        judge(fake, full=True)
    assert len(fake.runs) == REPEATED


def test_slower_attempt_is_part_of_memory_and_load(judge):
    def more_memory(number, result):
        return result._replace(peak_memory=81 * GB) if number == STEADY else result

    def more_load(number, result):
        use = CpuUse(seconds=50.0, cpus=2, run_seconds=12.0, other_seconds=85.0)
        return result._replace(cpu_use=use) if number == STEADY else result

    package = {"start": late(STEADY)}
    assert judge(FakePackage(**package), more_memory)[0].status == "FAIL"
    verdict, _ = judge(FakePackage(**package), more_load)
    assert verdict.status == "INCONCLUSIVE"
    assert "other processes used 85% of its CPUs" in verdict.sentence


def test_attempts_that_predict_differently_are_refused(judge):
    fake = FakePackage(start=late(STEADY))
    fake.change_rows = lambda rows, precision, with_timings: (
        [row.replace(",0100", ",0101") for row in rows] if len(fake.runs) > REPEATED else rows
    )
    with pytest.raises(IntegrityFault, match="changes 100.0% of its predictions from run to run"):
        judge(fake)


@pytest.mark.parametrize(
    ("excess", "limit", "decides"),
    [(4.0, 357.0, True), (4.0, 1e9, True), (1.0, 357.0, True), (1.0, 1e9, False), (0, 1e9, False)],
)
def test_excess_decides_when_it_changes_the_mean_or_the_status(excess, limit, decides):
    steady = long_steady_run(excess)
    found = decisive_excess(COLD_STARTS, steady, 0, items=25_000, seconds=limit)
    assert found == pytest.approx(excess if decides else 0.0, abs=1e-6)


def test_excess_is_compared_with_the_runs_before():
    """A second run that is as late as the first adds nothing."""
    (wall_time,) = long_steady_run(4.0).wall_times
    steady = long_steady_run(4.0, wall_times=[wall_time, wall_time])
    assert decisive_excess(COLD_STARTS, steady, 0, items=25_000, seconds=357.0) > 0
    assert decisive_excess(COLD_STARTS, steady, 1, items=25_000, seconds=357.0) == 0


def test_delay_counts_once_beside_the_slowest_cold_start():
    slow = [*COLD_STARTS, ColdStart(13.4, 0.08, 8)]
    seconds = [
        project_seconds(
            starts, long_steady_run(0.0, delay_seconds=delay), items=25_000, seconds=357.0
        ).fixed
        for starts, delay in [(COLD_STARTS, 0), (COLD_STARTS, 2), (slow, 0), (slow, 2), (slow, 5)]
    ]
    assert [value - seconds[0] for value in seconds] == pytest.approx([0, 2, 3, 3, 5])


def test_run_that_does_not_end_uses_up_the_cap():
    def run(timeout):
        raise Inconclusive("too slow")

    cap = TimeCap(60.0, run)
    assert cap.allows(60.0)
    with pytest.raises(Inconclusive):
        cap.run()
    assert not cap.allows(1.0)
