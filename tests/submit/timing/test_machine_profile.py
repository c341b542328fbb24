"""Machine profiles: what is compared, and what a verdict about another machine may claim."""

import json

import pytest
import toys

from wbdc.core.errors import IntegrityFault
from wbdc.submit.timing import machine_profile
from wbdc.submit.timing.machine_profile import profile_machine, scaled_seconds, speed_ratios
from wbdc.submit.timing.projection import Projection, Rate, project_elsewhere

HERE = {
    "rates": {
        "matrix": [100.0, 200.0],
        "memory": [10.0],
        "copy_to_device": [10.0],
        "decode": [1000.0],
    }
}
SHARES = {
    "read": 0.1,
    "decode": 0.4,
    "tokenize": 0.0,
    "collate": 0.0,
    "vision": 0.4,
    "fuse": 0.1,
    "linear": 0.0,
}


def projection(mean: float = 0.01) -> Projection:
    seconds = 20 + 25_000 * mean
    rate = Rate(mean, mean, mean, 0.0, 1.0, "ample")
    return Projection("PASS", seconds, seconds, seconds * 1.1, 20.0, rate, 0.1)


@pytest.fixture
def small_kernels(monkeypatch) -> None:
    """Measure small kernels for a short time."""
    monkeypatch.setattr(machine_profile, "MIN_KERNEL_SECONDS", 0.001)
    monkeypatch.setattr(machine_profile, "MATRIX_SHAPES", ((64, 32, 32), (32, 64, 32)))
    monkeypatch.setattr(machine_profile, "COPY_BYTES", 2**16)


@pytest.mark.usefixtures("small_kernels")
def test_machine_compared_with_itself_has_ratio_one():
    profile = profile_machine("cpu", 1)
    ratios = speed_ratios(profile, json.loads(json.dumps(profile)))
    assert set(ratios) == {*SHARES, "start"}
    assert all(ratio == (1, 1) for ratio in ratios.values())
    assert scaled_seconds(SHARES, ratios) == pytest.approx((1, 1))
    assert all(rate > 0 for rates in profile["rates"].values() for rate in rates)
    assert profile["threads"] == 1
    assert profile["device"] == "cpu"


def test_shapes_with_different_gains_give_an_interval():
    there = {
        "rates": {
            "matrix": [1000.0, 1000.0],
            "memory": [20.0],
            "copy_to_device": [1.0],
            "decode": [500.0],
        }
    }
    ratios = speed_ratios(HERE, there)
    assert ratios["vision"] == (0.1, 0.2)
    assert ratios["decode"] == (2, 2)
    assert ratios["read"] == (0.5, 0.5)
    assert ratios["start"] == (0.5, 2)
    assert scaled_seconds(SHARES, ratios) == pytest.approx(
        (0.1 * 0.5 + 0.4 * 2 + 0.5 * 0.1, 0.1 * 0.5 + 0.4 * 2 + 0.5 * 0.2)
    )


@pytest.mark.parametrize(
    ("start", "prediction", "status"),
    [
        ((1, 1), (1, 1), "PASS"),
        ((1, 1), (1.0, 1.3), "INCONCLUSIVE"),
        ((1, 1), (1.5, 2), "FAIL"),
        ((0.1, 9), (1, 1), "INCONCLUSIVE"),
    ],
)
def test_pass_needs_the_pessimistic_end_and_fail_the_optimistic_end(start, prediction, status):
    scaled = project_elsewhere(projection(), start, prediction, items=25_000, seconds=357.14)
    assert scaled.status == status
    assert scaled.lower <= scaled.expected <= scaled.upper


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
def test_invalid_profile_is_refused(there):
    with pytest.raises(IntegrityFault, match="not a profile of `wbdc doctor --probe`"):
        speed_ratios(HERE, there)


@pytest.mark.usefixtures("small_kernels")
def test_doctor_describes_the_machine_and_writes_a_profile(tmp_path):
    facts = toys.run_json("doctor", "--device", "cpu")
    assert {"python", "torch", "device", "precision", "CPUs"} <= set(facts)
    assert "profile" not in facts
    file = tmp_path / "p.json"
    facts = toys.run_json("doctor", "--probe", "--out", file, "--device", "cpu", "--threads", 1)
    assert json.loads(file.read_text()) == facts["profile"]
    result = toys.wbdc("doctor", "--out", tmp_path / "q.json")
    assert result.exit_code == 2
    assert "--probe" in result.stderr
