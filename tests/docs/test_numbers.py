"""The lists of traps and faults name every number that a test name contains, and no other."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
LISTS = {"trap": "TRAPS.md", "fault": "FAULTS.md"}


def numbers_in_names(word: str) -> set[int]:
    """Collect the numbers of `test_trap_05_...` and `test_trap_02_and_05_...`."""
    pattern = re.compile(rf"^ *def test_{word}_(\d+)(?:_and_(\d+))?_\w", re.MULTILINE)
    return {
        int(number)
        for path in TESTS.rglob("test_*.py")
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
        for number in match.groups()
        if number
    }


def listed(word: str) -> dict[int, str]:
    """Read the last column of a list by number."""
    text = (TESTS / LISTS[word]).read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|.*\| ([^|]*) \|$", text, re.MULTILINE)
    return {int(number): column for number, column in rows}


@pytest.mark.parametrize("word", LISTS)
def test_every_number_is_listed_once_and_in_order(word):
    numbers = list(listed(word))
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers_in_names(word) <= set(numbers)


@pytest.mark.parametrize("word", LISTS)
def test_yes_means_that_a_test_has_the_number(word):
    tested = {number for number, column in listed(word).items() if column == "yes"}
    assert tested == numbers_in_names(word)


@pytest.mark.parametrize("word", LISTS)
def test_files_that_the_last_column_names_exist(word):
    for number, column in listed(word).items():
        for name in re.findall(r"`([\w/]+\.py)`", column):
            assert (TESTS / name).is_file(), f"{LISTS[word]}, number {number}: no file {name}"
