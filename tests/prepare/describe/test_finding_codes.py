"""The catalogue: every finding that the house can count is explained."""

import ast
from pathlib import Path

import pytest

import wbdc
from wbdc.prepare.describe.finding_codes import FINDING_CODES

HOME = Path(wbdc.__file__).parent
MADE = {"duplicate.frames", "duplicate.text"}  # named by what was compared


def codes() -> set[str]:
    """Every literal code that is given to an `add` of findings."""
    calls = [
        node
        for path in HOME.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]
    added = [
        c
        for c in calls
        if isinstance(c.func, ast.Attribute) and c.func.attr == "add" and len(c.args) == 2
    ]
    texts = [
        t.value
        for c in added
        for t in ast.walk(c.args[0])
        if isinstance(t, ast.Constant) and isinstance(t.value, str)
    ]
    return {t for t in texts if "." in t and not t.endswith(".") or t == "shift"}


def test_every_code_has_an_entry_and_every_entry_is_used():
    assert codes() | MADE == set(FINDING_CODES)


@pytest.mark.parametrize("code", FINDING_CODES)
def test_an_entry_says_what_follows_and_what_to_do(code):
    entry = FINDING_CODES[code]
    assert entry.severity in ("error", "warning", "note")
    assert all(entry)
    assert not any(text.endswith(".") for text in entry)
