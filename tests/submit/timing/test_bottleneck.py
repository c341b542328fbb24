"""The slowest stage, and the advice that follows from it."""

import pytest

from wbdc.submit.timing.bottleneck import (
    ServingSizes,
    describe_bottleneck,
    slowest_stage,
    stage_shares,
    suggest_change,
)

# seconds of all worker threads, then seconds of the main thread
STAGES = {"read": 10.0, "decode": 80.0, "tokenize": 6.0, "collate": 4.0} | {
    "vision": 15.0,
    "fuse": 5.0,
}


def test_main_thread_that_waits_is_limited_by_decoding():
    shares = stage_shares(STAGES, prediction_seconds=100.0)  # waits for 80 of 100 s
    assert slowest_stage(shares) == "decode"
    assert shares["decode"] == pytest.approx(0.64)
    assert sum(shares.values()) == pytest.approx(1)
    assert describe_bottleneck(shares) == "Decoding takes 64% of the time"


def test_reading_behind_computation_costs_nothing():
    shares = stage_shares(STAGES, prediction_seconds=21.0)  # computes for 20 of 21 s
    assert slowest_stage(shares) == "vision"
    assert shares["vision"] == pytest.approx(15 / 21)


def test_advice_is_the_cheapest_sufficient_change():
    shares = stage_shares(STAGES, 100.0)
    fusing = stage_shares({"fuse": 9.0, "vision": 1.0}, 10.0)
    assert suggest_change(shares, ServingSizes(16, 256, 1), 0.25) == (
        "try vision.frames = 11 (`wbdc ensemble --run 'RUN frames=11'`)"
    )
    assert suggest_change(fusing, ServingSizes(8, 256, 1), 0.2) == (
        "try text.length = 199 (`wbdc ensemble --run 'RUN length=199'`)"
    )
    fewer_models = "try fewer than 3 models (`wbdc ensemble --limit SECONDS`)"
    assert suggest_change(fusing, ServingSizes(8, 256, 3), 0.2) == fewer_models
    assert suggest_change(shares, ServingSizes(8, 256, 3), 0.99) == (
        f"fewer frames alone are not enough, {fewer_models}"
    )
    assert suggest_change(shares, ServingSizes(8, 256, 1), 0.99) == (
        "fewer frames alone are not enough, try a smaller vision tower or text trunk"
    )
