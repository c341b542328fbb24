"""Probes of two machines: what is compared, and what a verdict about another machine may say."""

import json

import pytest
import toys

from wbdc.core.errors import IntegrityBroken
from wbdc.submit.timing import machine_profile as module
from wbdc.submit.timing.machine_profile import profile_machine, scaled_seconds, speed_ratios
from wbdc.submit.timing.projection import Projection, Rate, project_elsewhere

HERE = {"rates": {"matrix": [100.0, 200.0], "memory": [10.0], "copy": [10.0], "decode": [1000.0]}}
SHARES = {"read": 0.1, "decode": 0.4, "tokenize": 0.0, "collate": 0.0, "vision": 0.4, "fuse": 0.1}


def found(each: float = 0.01) -> Projection:
    return Projection(
        "PASS",
        20 + 25_000 * each,
        20 + 25_000 * each,
        (20 + 25_000 * each) * 1.1,
        20.0,
        Rate(each, each, each, 0.0, 1.0, "ample"),
        0.1,
    )


def test_a_machine_is_as_fast_as_itself(monkeypatch):
    monkeypatch.setattr(module, "LEAST", 0.001)
    once = profile_machine("cpu", 1)
    spans = speed_ratios(once, json.loads(json.dumps(once)))
    assert set(spans) == {*SHARES, "start"}
    assert all(span == (1, 1) for span in spans.values())
    assert scaled_seconds(SHARES, spans) == pytest.approx((1, 1))
    assert all(rate > 0 for rates in once["rates"].values() for rate in rates)
    assert once["threads"] == 1
    assert once["device"] == "cpu"


def test_shapes_that_gain_differently_give_an_interval():
    there = {
        "rates": {"matrix": [1000.0, 1000.0], "memory": [20.0], "copy": [1.0], "decode": [500.0]}
    }
    spans = speed_ratios(HERE, there)
    assert spans["vision"] == (0.1, 0.2)
    assert spans["decode"] == (2, 2)
    assert spans["read"] == (0.5, 0.5)
    assert spans["start"] == (0.5, 2)
    assert scaled_seconds(SHARES, spans) == pytest.approx(
        (0.1 * 0.5 + 0.4 * 2 + 0.5 * 0.1, 0.1 * 0.5 + 0.4 * 2 + 0.5 * 0.2)
    )


@pytest.mark.parametrize(
    ("start", "answering", "word"),
    [
        ((1, 1), (1, 1), "PASS"),
        ((1, 1), (1.0, 1.3), "INCONCLUSIVE"),
        ((1, 1), (1.5, 2), "FAIL"),
        ((0.1, 9), (1, 1), "INCONCLUSIVE"),
    ],
)
def test_only_the_pessimistic_end_passes_and_only_the_optimistic_end_fails(start, answering, word):
    told = project_elsewhere(found(), start, answering, items=25_000, seconds=357.14)
    assert told.word == word
    assert told.lower <= told.expected <= told.upper


@pytest.mark.parametrize(
    "there",
    [
        {},
        {"rates": {}},
        [],
        {"rates": HERE["rates"] | {"matrix": [1.0]}},
        {"rates": HERE["rates"] | {"decode": [0.0]}},
    ],
)
def test_what_is_no_profile_is_refused(there):
    with pytest.raises(IntegrityBroken, match="no profile of `wbdc doctor --probe`"):
        speed_ratios(HERE, there)


def test_the_doctor_tells_what_is_here_and_keeps_a_profile(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LEAST", 0.001)
    told = toys.told("doctor", "--device", "cpu")
    assert {"python", "torch", "device", "precision", "CPUs"} <= set(told)
    assert "profile" not in told
    told = toys.told(
        "doctor", "--probe", "--out", tmp_path / "p.json", "--device", "cpu", "--threads", 1
    )
    assert json.loads((tmp_path / "p.json").read_text()) == told["profile"]
    result = toys.wbdc("doctor", "--out", tmp_path / "q.json")
    assert result.exit_code == 2
    assert "--probe" in result.stderr
