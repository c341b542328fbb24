"""The table of image towers has the numbers that need no timing, and a rate for each tower."""

import pytest
from towers import PAGE, TOWERS, read_rows, tower_facts

ROWS = read_rows(PAGE.read_text(encoding="utf-8"))


def row_of(tower) -> list[str]:
    weights = f", `{tower.weights}`" if tower.weights else ""
    return ROWS[f"`{tower.use}`", f"`{tower.model}`{weights}"]


def test_every_tower_has_a_row_with_a_rate():
    assert len(ROWS) == len(TOWERS)
    for tower in TOWERS:
        assert row_of(tower)[0] == tower.family
        assert float(row_of(tower)[-1]) > 0


@pytest.mark.parametrize(
    "tower",
    [
        pytest.param(
            tower,
            marks=[] if tower.model == "shufflenet_v2_x0_5" else pytest.mark.slow,
            id=tower.model,
        )
        for tower in TOWERS
    ],
)
def test_the_numbers_of_a_row_are_current(tower):
    assert row_of(tower)[:-1] == tower_facts(tower), "run `python benchmarks/towers.py`"
