"""Finding codes: every code that is counted somewhere is explained."""

import ast

import pytest
from parsed_modules import parse_modules

from wbdc.prepare.describe.finding_codes import FINDING_CODES

COMPOSED_CODES = {"duplicate.frames", "duplicate.text"}  # named by modality in an f-string


def literal_codes() -> set[str]:
    """Return every literal code that is passed to `add` of findings."""
    calls = [
        node
        for _, tree in parse_modules(r"\badd\b")
        for node in ast.walk(tree)
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


def test_every_code_is_explained_and_used():
    assert literal_codes() | COMPOSED_CODES == set(FINDING_CODES)


@pytest.mark.parametrize("code", FINDING_CODES)
def test_a_code_has_severity_consequence_and_fix(code):
    entry = FINDING_CODES[code]
    assert entry.severity in ("error", "warning", "note")
    assert all(entry)
    assert not any(text.endswith(".") for text in entry)
