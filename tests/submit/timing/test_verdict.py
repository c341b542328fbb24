"""The verdict: status, explanation and exit code."""

from dataclasses import replace

import pytest

from wbdc.submit.timing.bottleneck import ServingSizes
from wbdc.submit.timing.projection import ColdStart, Projection, Rate, SteadyRun, project_seconds
from wbdc.submit.timing.verdict import format_duration, reach_verdict

SHARES = {"decode": 0.64, "read": 0.08, "collate": 0.03, "tokenize": 0.05} | {
    "vision": 0.15,
    "fuse": 0.05,
}
LIMIT = 25_000 / 70


def projection(**changes) -> Projection:
    rate = Rate(0.0176, 0.0168, 0.019, 0.0, 1.0, "ample")
    return replace(Projection("FAIL", 460.2, 440.0, 520.0, 20.0, rate, 0.1), **changes)


def verdict(projection: Projection, members: int = 1, items: int = 25_000, seconds: float = LIMIT):
    sizes = ServingSizes(14, 256, members)
    return reach_verdict(projection, SHARES, sizes, items=items, seconds=seconds)


def test_fail_explains_time_bottleneck_and_change():
    failed = verdict(projection())
    assert (failed.status, failed.code) == ("FAIL", 5)
    assert failed.sentence == (
        "The packed folder would need 7 min 40 s for 25,000 videos; the limit is 5 min 57 s. "
        "Decoding takes 64% of the time; try vision.frames = 10 "
        "(`wbdc ensemble --run 'RUN frames=10'`)."
    )


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (
            "PASS",
            0,
            "The packed folder would need 7 min 40 s for 9 videos, and at most 8 min 40 s; the "
            "limit is 8 min 45 s. Decoding takes 64% of the time.",
        ),
        (
            "INCONCLUSIVE",
            6,
            "The packed folder would need 7 min 40 s for 9 videos, between 7 min 20 s and "
            "8 min 40 s; the limit is 8 min 45 s. Decoding takes 64% of the time; try "
            "vision.frames = 13 (`wbdc ensemble --run 'RUN frames=13'`).",
        ),
    ],
)
def test_status_sets_code_and_bounds(status, code, sentence):
    reached = verdict(projection(status=status), items=9, seconds=525.0)
    assert reached.code == code
    assert reached.sentence == sentence


def test_slow_start_is_named_as_the_bottleneck():
    slow = verdict(projection(fixed=400.0), members=2, items=9, seconds=300.0)
    assert slow.sentence.endswith(
        "Starting takes 87% of the time; try fewer or smaller models "
        "(`wbdc ensemble --limit SECONDS`)."
    )


def test_tiny_sample_is_reported_as_too_small():
    steady = SteadyRun(0.0, 25_000, 10.0, [(8, 10.7)])
    starts = [ColdStart(seconds, 1.0, 8) for seconds in (12.0, 20.0, 11.0)]
    tiny = project_seconds(starts, steady, items=25_000, seconds=LIMIT)
    assert verdict(tiny).sentence.startswith("Too few videos were timed: 25,000 would need between")


def test_warnings_turn_pass_into_inconclusive_and_exceeded_limits_into_fail():
    options = {"items": 9, "seconds": 525.0}
    sizes = ServingSizes(14, 256, 1)
    passed = projection(status="PASS")
    warned = reach_verdict(passed, SHARES, sizes, **options, warnings=["It was cached."])
    assert warned.status == "INCONCLUSIVE"
    assert warned.sentence.endswith(" It was cached.")
    exceeded = reach_verdict(passed, SHARES, sizes, **options, exceeded_limits=["Too large."])
    assert exceeded.status == "FAIL"
    busy = reach_verdict(projection(), SHARES, sizes, **options, busy="It was busy.")
    assert busy.status == "INCONCLUSIVE"


def test_format_duration():
    seconds = (0.04, 9.12, 59.6, 3725)
    assert [format_duration(s) for s in seconds] == ["0.0 s", "9.1 s", "1 min 0 s", "1 h 2 min"]
