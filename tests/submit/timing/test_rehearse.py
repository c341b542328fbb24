"""The time check: arithmetic on made-up timings whose truth is known, and one real rehearsal."""

import shutil
import time
from dataclasses import replace

import numpy as np
import pytest

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import (
    EnvironmentLacks,
    Inconclusive,
    IntegrityBroken,
    OutOfResources,
    ResultInvalid,
    UsageFault,
)
from wbdc.core.files import read_json
from wbdc.core.findings import Findings
from wbdc.serve import entry
from wbdc.serve.blend_file import read_blend
from wbdc.submit.check.verify import verify_package
from wbdc.submit.timing import machine_load
from wbdc.submit.timing import rehearse as module
from wbdc.submit.timing.bottleneck import (
    ServingSizes,
    describe_stages,
    slowest_stage,
    stage_shares,
    suggest_change,
)
from wbdc.submit.timing.projection import (
    ColdStart,
    Projection,
    Rate,
    SteadyRun,
    block_bootstrap_interval,
    measure_rate,
    project_seconds,
    student_quantile,
    trend,
)
from wbdc.submit.timing.rehearse import RehearsalOptions, rehearse
from wbdc.submit.timing.sample import stratified_sample
from wbdc.submit.timing.sandbox import SandboxRun, failure_message
from wbdc.submit.timing.verdict import format_duration, reach_verdict

COLDS = [
    ColdStart(12.0, 1.0, 8),
    ColdStart(20.0, 1.0, 8),
    ColdStart(11.0, 1.0, 8),
]  # 11, 19 and 10 seconds beside answering


def steady(
    spans, size: int = 64, *, start: float = 10.0, listing: float = 0.0, listed: int = 25_000
) -> SteadyRun:
    """Make the marks of batches of `size` videos that took `spans` seconds."""
    ends = start + np.cumsum(spans)
    return SteadyRun(
        listing, listed, start, [(size * (i + 1), float(t)) for i, t in enumerate(ends)]
    )


def test_a_steady_package_is_projected_to_what_it_takes():
    """40 batches of .64 s: .01 s a video; 25,000 of them and the slowest cold start, once: 250 + 19
    (+ .92 of first-batch excess).
    """
    found = project_seconds(COLDS, steady([0.64] * 40), items=25_000, seconds=357.14)
    assert found.word == "PASS"
    assert found.rate.rule == "ample"
    assert found.rate.each == pytest.approx(0.01)
    assert found.fixed == pytest.approx(19 + 0.92)
    assert found.expected == pytest.approx(269.92)
    assert found.lower == pytest.approx(found.expected)
    assert found.upper == pytest.approx(1.1 * found.expected)


def test_the_three_words():
    assert [
        project_seconds(COLDS, steady([0.64] * 40), items=25_000, seconds=s).word
        for s in (300, 290, 260)
    ] == ["PASS", "INCONCLUSIVE", "FAIL"]


def test_the_cold_start_counts_once_and_is_the_slowest():
    """Mutant: cold start dropped. Ten seconds more of import are ten seconds more, whatever the
    number of items.
    """
    for items in (100, 25_000):
        short, long = (
            project_seconds(
                [*COLDS, ColdStart(c, 1.0, 8)], steady([0.64] * 40), items=items, seconds=1e9
            )
            for c in (30.0, 40.0)
        )
        assert long.expected - short.expected == pytest.approx(10.0)


def test_warm_up_counts_once():
    """Mutant: warm-up dropped, or multiplied. The first batch takes 9 s longer: 9 s more in all
    (.92 are in the cold runs too).
    """
    found = project_seconds(COLDS, steady([9.64] + [0.64] * 39), items=25_000, seconds=1e9)
    assert found.rate.each == pytest.approx(0.01)
    assert found.expected == pytest.approx(250 + 19 + 9)


def test_bursts_of_batches_read_at_once_are_no_speed():
    """Mutant: the pipeline's first burst taken for its pace. Five batches end together every 5 s:
    one a second, not nine in five.
    """
    spans = [5.0, 0, 0, 0, 0] * 8
    assert measure_rate(steady(spans)).each == pytest.approx(1 / 64)
    assert (
        measure_rate(steady(spans[:10])).high >= 1 / 64
    )  # also where there are too few batches to see it


def test_reading_the_annotations_grows_with_the_items():
    few = project_seconds(
        COLDS, steady([0.64] * 40, listing=1.0, listed=5_000), items=25_000, seconds=1e9
    )
    assert few.fixed == pytest.approx(19.92 + 4.0)
    assert project_seconds(
        COLDS, steady([0.64] * 40, listing=1.0, listed=8), items=25_000, seconds=1e9
    ).fixed == pytest.approx(19.92)


def test_a_package_that_slows_down_is_judged_by_its_last_third():
    """Mutant: slow after item 600."""
    found = measure_rate(steady([0.64] * 15 + [1.28] * 30))
    assert found.drift > 1.1
    assert found.high >= 0.02 > found.each


def test_a_trend_is_extrapolated_to_all_items_and_a_jump_is_not():
    """40 batches of 64, each .01 s longer than the last: the mean of 25,000 videos is far beyond
    that of the sample.
    """
    growing = measure_rate(steady([0.64 + 0.01 * i for i in range(40)]), items=25_000)
    truth = (0.64 + 0.01 * 25_000 / 64 / 2) / 64
    assert growing.each == pytest.approx(truth, rel=0.01)
    assert growing.slope == pytest.approx(0.01 / 64**2)
    assert growing.low <= growing.each * 1.001
    assert growing.high >= growing.each * 0.999
    jump = measure_rate(steady([0.64] * 20 + [1.28] * 20), items=25_000)
    assert jump.each < 0.02 and jump.low < 0.016 and jump.high > 0.02, (
        "it counts by its last third, and never lets pass"
    )
    assert measure_rate(steady([0.64] * 40), items=25_000).slope == 0.0
    assert measure_rate(steady([0.64 - 0.001 * i for i in range(40)]), items=25_000).slope == 0.0, (
        "nothing is promised for getting faster"
    )


def test_the_bounds_cover_the_truth_of_packages_that_slow_down():
    """200 packages whose cost grows with the videos, 10 % of noise per batch. Less growth than .4
    drowns in it.
    """
    rng, held, bare = np.random.default_rng(7), 0, 0
    for _ in range(200):
        growth = rng.uniform(0.4, 3) / 2048
        places = np.arange(32, 2048, 64)
        spans = 0.64 * (1 + growth * places) * np.exp(rng.normal(0, 0.1, len(places)))
        truth = 0.01 * (25_000 + growth * 25_000**2 / 2)
        found = project_seconds([ColdStart(0.0, 0.0, 8)], steady(spans), items=25_000, seconds=1e9)
        held, bare = held + (found.upper >= truth), bare + (found.lower <= truth)
    assert held >= 190
    assert bare >= 190


def noise(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Make seconds of n batches that do not get slower."""
    if kind == "neighbors alike":
        return np.exp(rng.normal(0, 0.17, n).repeat(3)[:n])
    if kind == "rare slow videos":
        return np.exp(rng.normal(0, 0.1, n)) * (1 + 3 * (rng.random(n) < 0.03))
    if kind == "drifting":
        steps = rng.normal(0, 0.08, n + 20)
        return np.exp(np.convolve(steps, 0.6 ** np.arange(20))[20 : n + 20])
    return np.exp(rng.normal(0, 0.1, n))


@pytest.mark.parametrize(
    ("kind", "most"),
    [("independent", 2), ("rare slow videos", 2), ("neighbors alike", 16), ("drifting", 16)],
)
@pytest.mark.parametrize("batches", [4, 5, 6, 12, 27, 59])
def test_noise_is_rarely_a_trend(kind, most, batches):
    """400 steady packages: at most .5 % show a trend, however few batches there are; 4 % where
    neighbors err alike.
    """
    rng, places, videos = (
        np.random.default_rng(3),
        32.0 * np.arange(batches),
        np.full(batches, 32.0),
    )
    found = [trend(noise(kind, batches, rng), videos, places, 5).significant for _ in range(400)]
    assert sum(found) <= most


def test_a_trend_of_batches_that_end_together_is_seen():
    """Five batches are read at once and end together; the last burst takes twice as long as the
    first one.
    """
    rng, caught = np.random.default_rng(4), 0
    for _ in range(50):
        bursts = 5 * np.linspace(1, 2, 11) * np.exp(rng.normal(0, 0.05, 11))
        spans = np.stack([bursts, *np.full((4, 11), 0.02)], 1).ravel()
        caught += trend(spans, np.full(55, 32.0), 32.0 * np.arange(55), 5).significant
    assert caught >= 45


def test_quantiles_of_student_s_t():
    known = {(0.95, 1.0): 6.314, (0.99, 3.0): 4.541, (0.9975, 10.0): 3.581, (0.995, 60.0): 2.660}
    assert [student_quantile(*of) for of in known] == pytest.approx([*known.values()], rel=2e-3)


def test_a_small_sample_takes_a_wider_margin_and_keeps_its_warm_up():
    found = project_seconds(COLDS, steady([2.0] + [0.64] * 5, size=20), items=25_000, seconds=1e9)
    assert found.rate.rule == "small"
    assert found.margin == 0.25
    assert found.rate.high == pytest.approx((2.0 + 5 * 0.64) / 120)


def test_a_tiny_sample_speaks_only_when_there_is_no_doubt():
    """24 videos in three batches, .01 s each, give or take half; a single batch may be all warm-up
    and never fails a package.
    """
    three = steady([0.08] * 3, size=8)
    words = {
        s: project_seconds(COLDS, three, items=25_000, seconds=s).word for s in (500, 300, 120)
    }
    assert words == {500: "PASS", 300: "INCONCLUSIVE", 120: "FAIL"}
    single = steady([0.7], size=8)
    words = {
        s: project_seconds(COLDS, single, items=25_000, seconds=s).word for s in (4000, 357, 20, 10)
    }
    assert words == {4000: "PASS", 357: "INCONCLUSIVE", 20: "INCONCLUSIVE", 10: "FAIL"}, (
        "it fails when its cold start alone is over the limit"
    )


def test_one_batch_of_a_slow_package_fails_by_what_it_took_longer_than_a_handful():
    """8 videos in 4.5 s and 16 in 8 s: whatever warm-up is, eight more took 3.5 s, and 25,000 will
    not end in six minutes.
    """
    slow = [ColdStart(seconds=14.5, answering=4.5, videos=8)] * 3
    found = project_seconds(slow, steady([8.0], size=16), items=25_000, seconds=357)
    assert found.word == "FAIL"
    assert found.lower == pytest.approx(10 + 25_000 * 3.5 / 8 / 2, rel=0.01)
    hasty = [ColdStart(seconds=20, answering=9, videos=8)] * 3
    assert (
        project_seconds(hasty, steady([8.0], size=16), items=25_000, seconds=357).word
        == "INCONCLUSIVE"
    ), "a handful that took longer tells nothing"


def test_the_upper_bound_covers_the_truth_of_simulated_packages():
    """200 packages whose batches come in uneven bursts, some with rare slow videos: the bound holds
    in 95 % or more of the rehearsals.
    """
    rng, held, bare = np.random.default_rng(5), 0, 0
    for _ in range(200):
        pace = np.exp(rng.normal(0, 0.25, 400).repeat(3)[:400] * 0.7) * (
            1 + 3 * (rng.random(400) < rng.choice([0, 0.03]))
        )
        truth = pace.sum() / (400 * 64)
        at = int(rng.integers(0, 400))
        found = project_seconds(
            [ColdStart(0.0, 0.0, 8)], steady(np.roll(pace, at)[:37]), items=25_600, seconds=1e9
        )
        held += found.upper >= truth * 25_600
        bare += found.lower <= truth * 25_600
    assert held >= 190
    assert bare >= 170


def test_the_interval_of_equal_batches_is_a_point_and_grows_with_spread():
    assert block_bootstrap_interval(np.ones(20), np.full(20, 4.0), 5) == pytest.approx((0.25, 0.25))
    low, high = block_bootstrap_interval(np.random.default_rng(0).gamma(2, 0.5, 40), np.ones(40), 5)
    assert 0.5 < low < 1 < high < 1.6


def test_the_sample_takes_all_sizes_and_the_largest_without_repeating():
    """Mutants: the first k videos; slow only among the largest 1 %."""
    sizes = np.random.default_rng(0).lognormal(11, 1, 25_000).astype(int)
    chosen = stratified_sample(sizes, 2048)
    assert len(set(chosen)) == 2048
    assert int(sizes.argmax()) in chosen
    assert chosen == stratified_sample(sizes, 2048) != stratified_sample(sizes, 2048, seed=1)
    assert np.mean(sizes[chosen]) == pytest.approx(sizes.mean(), rel=0.02)
    assert np.mean(sizes[chosen]) > 0.999 * sizes.mean()
    top = set(np.argsort(sizes)[-250:].tolist())
    assert len(top & set(chosen)) >= 20
    assert abs(np.corrcoef(np.arange(2048), sizes[chosen])[0, 1]) < 0.1, (
        "large ones are spread over the batches"
    )
    assert sorted(stratified_sample(sizes[:7], 2048)) == list(range(7))
    assert stratified_sample([], 5) == []
    assert (
        np.ptp(np.bincount(np.array(stratified_sample([0] * 1000, 100)) // 100, minlength=10)) < 25
    ), "equal sizes: random"


STAGES = {
    "read": 10.0,
    "decode": 80.0,
    "tokenize": 6.0,
    "collate": 4.0,
    "vision": 15.0,
    "fuse": 5.0,
}  # worker seconds, then seconds of the main thread


def test_the_slowest_stage_is_the_one_that_the_run_waits_for():
    waiting = stage_shares(STAGES, answering=100.0)  # the main thread waits for 80 of 100 s
    assert slowest_stage(waiting) == "decode"
    assert waiting["decode"] == pytest.approx(0.64)
    assert sum(waiting.values()) == pytest.approx(1)
    assert describe_stages(waiting) == "Decoding takes 64%"
    busy = stage_shares(
        STAGES, answering=21.0
    )  # 100 worker seconds hidden behind 20 s of computing
    assert slowest_stage(busy) == "vision"
    assert busy["vision"] == pytest.approx(15 / 21)


def test_advice_is_the_cheapest_change_that_would_do():
    assert (
        suggest_change(stage_shares(STAGES, 100.0), ServingSizes(16, 256, 1), needed=0.25)
        == "try vision.frames = 11"
    )
    fusing = stage_shares({"fuse": 9.0, "vision": 1.0}, 10.0)
    assert suggest_change(fusing, ServingSizes(8, 256, 3), 0.2) == "try fewer members than 3"
    assert suggest_change(fusing, ServingSizes(8, 256, 1), 0.2) == "try text.length = 199"
    assert (
        suggest_change(stage_shares(STAGES, 100.0), ServingSizes(8, 256, 2), 0.99)
        == "no vision.frames would do alone; try fewer members than 2"
    )


def test_the_verdict_is_one_sentence():
    found = Projection(
        "FAIL", 460.2, 440.0, 520.0, 20.0, Rate(0.0176, 0.0168, 0.019, 0.0, 1.0, "ample"), 0.1
    )
    said = reach_verdict(
        found,
        stage_shares(STAGES, 100.0),
        ServingSizes(14, 256, 1),
        items=25_000,
        seconds=25_000 / 70,
    )
    assert (
        said.sentence
        == "The packed folder would need 7 min 40 s for 25,000 videos; the limit is 5 min 57 s. Decoding takes 64%: try vision.frames = 10."
    )
    assert (said.word, said.code) == ("FAIL", 5)
    codes = [
        reach_verdict(
            replace(found, word=w),
            stage_shares(STAGES, 100.0),
            ServingSizes(14, 256, 1),
            items=9,
            seconds=450.0,
        ).code
        for w in ("PASS", "INCONCLUSIVE")
    ]
    assert codes == [0, 6]
    slow = reach_verdict(
        replace(found, fixed=400.0),
        stage_shares(STAGES, 100.0),
        ServingSizes(14, 256, 2),
        items=9,
        seconds=300.0,
    )
    assert slow.sentence.endswith("Starting takes 87%: try fewer or smaller models.")
    few = project_seconds(COLDS, steady([0.7], size=8), items=25_000, seconds=357.14)
    assert reach_verdict(
        few, stage_shares(STAGES, 100.0), ServingSizes(14, 256, 1), items=25_000, seconds=357.14
    ).sentence.startswith("Too few videos were timed to tell")
    assert [format_duration(s) for s in (0.04, 9.12, 59.6, 3725)] == [
        "0.0 s",
        "9.1 s",
        "1 min 0 s",
        "1 h 2 min",
    ]


def test_without_a_known_limit_none_is_invented(package, data, monkeypatch):
    monkeypatch.setattr(WeChat2022, "limits", None)
    with pytest.raises(UsageFault, match="--limit"):
        rehearse(package, data, RehearsalOptions())
    with pytest.raises(UsageFault):
        rehearse(package, data, RehearsalOptions(items=100))


def test_a_failing_child_is_named_by_what_it_said():
    for ran, kind, says in (
        (
            SandboxRun(3, 1.0, "2 models\nerror: annotations/test.json is missing\n"),
            "DataInvalid",
            "test.json is missing",
        ),
        (
            SandboxRun(1, 1.0, "Traceback\nModuleNotFoundError: No module named 'timm'\n"),
            EnvironmentLacks.__name__,
            "timm",
        ),
        (
            SandboxRun(1, 1.0, "Traceback\nZeroDivisionError: oh\n"),
            IntegrityBroken.__name__,
            "code 1",
        ),
        (SandboxRun(-9, 1.0, ""), OutOfResources.__name__, "signal 9"),
        (
            SandboxRun(2, 1.0, "main.py: error: unrecognized arguments: --x"),
            "UsageFault",
            "unrecognized",
        ),
    ):
        error = failure_message(ran)
        assert type(error).__name__ == kind
        assert says in str(error)


def test_gpu_memory_is_read_after_each_batch(package, data, tmp_path, monkeypatch):
    """One reading per batch, at its time; a run on the CPU has none."""
    readings = iter(range(1000, 2000))
    home, blend, quiet = package, read_blend(package), lambda *told: None
    asked = {
        "split": None,
        "device": "cpu",
        "precision": None,
        "threads": 1,
        "sample": None,
        "say": quiet,
        "progress": quiet,
    }
    _, timings = entry.serve(
        home, blend, WeChat2022(), data, tmp_path / "a.csv", **asked, began=time.perf_counter()
    )
    assert timings["gpu_memory"] == []
    assert len(timings["batches"]) > 1
    monkeypatch.setattr(entry, "reserved_memory", lambda device: next(readings))
    _, timings = entry.serve(
        home, blend, WeChat2022(), data, tmp_path / "b.csv", **asked, began=time.perf_counter()
    )
    assert timings["gpu_memory"] == [
        (when, 1000 + i) for i, (_, when) in enumerate(timings["batches"])
    ]


def fake_run(seconds: float, answer: str):
    """Make a child that needs no time: it writes what a packed folder writes, after `seconds` a
    video on a virtual clock.
    """

    def run(folder, data, out, *, sample, timings, **rest):
        sample = sample or [v.id for v in WeChat2022().videos(data, "test", Findings())]
        end = 10 + seconds * len(sample)
        out.write_text("".join(f"{i},{answer}\n" for i in sample))
        batches = [[n, 10 + seconds * n] for n in range(1, len(sample) + 1)]
        marks = {"imported": 5.0, "loaded": 9.0, "listed": 10.0, "answered": end, "written": end}
        found = {
            "marks": marks,
            "batches": batches,
            "stages": {"decode": 1.0},
            "ahead": 4,
            "device": "cpu",
            "threads": 1,
            "precision": "fp32",
        }
        if timings:
            module.publish_json(timings, found)
        return SandboxRun(0, end + 1, "")

    return run


def test_the_exit_code_and_the_receipt_follow_the_verdict(package, data, tmp_path, monkeypatch):
    copy = shutil.copytree(package, tmp_path / "copy")
    for pace, word, code in ((0.0001, "PASS", 0), (0.0143, "INCONCLUSIVE", 6), (1.0, "FAIL", 5)):
        monkeypatch.setattr(module, "run_packed", fake_run(pace, "0100"))
        said = rehearse(copy, data, RehearsalOptions())
        assert (said.word, said.code) == (word, code)
        assert verify_package(copy)["latency"]["verdict"] == word
    assert read_json(copy / "latency.json")["limit"] == pytest.approx(25_000 / 70)


def test_a_timed_run_with_a_wrong_result_file_is_no_rehearsal(package, data, tmp_path, monkeypatch):
    copy = shutil.copytree(package, tmp_path / "copy")
    monkeypatch.setattr(module, "run_packed", fake_run(0.0001, "9999"))
    with pytest.raises(ResultInvalid, match="9999"):
        rehearse(copy, data, RehearsalOptions())
    assert not (copy / "latency.json").exists()


def test_a_damaged_folder_is_not_timed(package, data, tmp_path):
    copy = shutil.copytree(package, tmp_path / "copy")
    (copy / "wbdc/serve/predict.py").unlink()
    with pytest.raises(IntegrityBroken, match="predict.py"):
        rehearse(copy, data, RehearsalOptions())


@pytest.mark.slow
def test_a_real_rehearsal(package, data, tmp_path, monkeypatch):
    """Two fresh processes of a tiny package: a verdict, a receipt bound to its bytes, and nothing
    else left in the folder.
    """
    monkeypatch.setattr(
        machine_load, "busy_seconds", lambda cpus: 0.0
    )  # other tests may run beside it
    copy, told = shutil.copytree(package, tmp_path / "copy"), []
    said = rehearse(
        copy,
        data,
        RehearsalOptions(items=8, seconds=3600.0, device="cpu", threads=1, cold_starts=1),
        progress=lambda *at: told.append(at),
    )
    assert said.word == "PASS"
    assert said.code == 0
    assert "8 videos; the limit" not in said.sentence
    assert said.sentence.startswith("The packed folder would need ")
    receipt = verify_package(copy)["latency"]
    assert receipt == said.facts
    assert receipt["sampled"] == 8
    assert receipt["machine"]["device"] == "cpu"
    assert receipt["machine"]["threads"] == 1
    assert receipt["colds"][0]["seconds"] > receipt["colds"][0]["answering"] > 0
    assert receipt["stages"]["decode"] > 0
    assert told == [("cold start", 0, 2), ("steady sample", 1, 2), ("steady sample", 2, 2)]
    with pytest.raises(Inconclusive):
        module.run_packed(copy, data, tmp_path / "r.csv", timeout=0.01)


@pytest.mark.slow
def test_a_real_full_run(package, data, tmp_path, monkeypatch):
    """8 test videos stand for 12 items: one process, inference.sh, nothing but its seconds decides."""
    monkeypatch.setattr(machine_load, "busy_seconds", lambda cpus: 0.0)
    copy = shutil.copytree(package, tmp_path / "copy")
    said = rehearse(
        copy,
        data,
        RehearsalOptions(
            items=12, seconds=3600.0, device="cpu", threads=1, cold_starts=1, full=True
        ),
    )
    assert said.word == "PASS"
    assert "for 12 videos in one process" in said.sentence
    receipt = verify_package(copy)["latency"]
    assert receipt["full"]
    assert receipt["largest_run"] == receipt["full_run"]["videos"] == 12
    assert receipt["full_run"]["distinct"] == 8
    assert receipt["full_run"]["ended"]
    assert receipt["projection"]["expected"] == receipt["full_run"]["seconds"] > 0
