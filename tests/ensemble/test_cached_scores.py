"""Scores of runs in the user's cache: once for a key, and never from a damaged line."""

import json

import pytest

from wbdc.core.user_cache import cache_file
from wbdc.ensemble import cached_scores
from wbdc.ensemble.cached_scores import SCORES_FILE, cached_score

VALUES = {"score": 0.1 + 0.2, "low": None, "high": float("inf"), "rows": 3}


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_file(SCORES_FILE)


def next_process() -> None:
    cached_scores._read_entries.cache_clear()


def refuse() -> dict:
    raise AssertionError("computed again")


def test_a_score_is_computed_once_for_a_key(file):
    assert cached_score("a", lambda: VALUES) == VALUES
    assert cached_score("a", refuse) == VALUES
    next_process()
    assert cached_score("a", refuse) == VALUES
    assert cached_score("b", lambda: {"score": 1.0}) == {"score": 1.0}
    assert len(file.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace("0.30000000000000004", "0.90000000000000004"),
        lambda line: line[:-5],
        lambda line: "7",
        lambda line: "[" * 100_000,
        lambda line: json.dumps(["a", VALUES, [], "b"]),
        lambda line: line.rstrip("\n") + " {}",
    ],
    ids=["other digits", "cut", "a number", "deep", "a list", "longer"],
)
def test_a_damaged_line_only_costs_another_computation(file, damage):
    cached_score("a", lambda: VALUES)
    line = file.read_text()
    assert damage(line) != line
    file.write_text(damage(line))
    next_process()
    assert cached_score("a", lambda: {"score": 0.5}) == {"score": 0.5}


def test_a_folder_that_cannot_be_written_only_costs_computations(tmp_path):
    (tmp_path / "cache").write_text("no folder")
    assert cached_score("a", lambda: VALUES) == VALUES
    next_process()
    assert cached_score("a", lambda: {"score": 0.5}) == {"score": 0.5}
