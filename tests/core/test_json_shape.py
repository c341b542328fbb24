"""The first mismatch between a value and a shape is named; no value causes an error."""

import pytest

from wbdc.core import files
from wbdc.core.errors import IntegrityFault
from wbdc.core.json_shape import find_mismatch

SHAPE = {
    "name": str,
    "rows": int,
    "share?": float,
    "of": (str, None),
    "parts": [{"weight": float}],
    "any": {str: int},
}
GOOD = {"name": "a", "rows": 3, "of": None, "parts": [{"weight": 1}], "any": {"x": 1}}


def test_matching_values_have_no_mismatch():
    assert find_mismatch(GOOD, SHAPE) is None
    assert find_mismatch({**GOOD, "share": 0.5, "of": "b", "more": 1}, SHAPE) is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rows": "3"}, "rows is not an integer"),
        ({"rows": True}, "rows is not an integer"),
        ({"name": None}, "name is not a string"),
        ({"share": float("nan")}, "share is not a finite number"),
        ({"share": True}, "share is not a finite number"),
        ({"share": 10**400}, "share is not a finite number"),
        ({"of": 1}, "of is not a string"),
        ({"parts": {}}, "parts is not a list"),
        ({"parts": [{"weight": 1}, {}]}, "parts[1].weight is missing"),
        ({"any": {"x": "y"}}, "any.x is not an integer"),
    ],
)
def test_a_mismatch_is_named(change, sentence):
    assert find_mismatch({**GOOD, **change}, SHAPE) == sentence
    assert find_mismatch([], SHAPE) == "the content is not a table"


DAMAGES = {
    "empty": b"",
    "empty table": b"{}",
    "list": b"[]",
    "null": b"null",
    "cut": b'{"name": "a", "rows',
    "nested": b"[" * 200_000,
    "nested tables": b'{"name":' * 200_000,
    "no UTF-8": b'{"name": "\xff"}',
    "long number": b'{"rows": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_fault_10_any_damage_is_one_sentence(tmp_path, damage):
    (tmp_path / "x.json").write_bytes(DAMAGES[damage])
    with pytest.raises(IntegrityFault, match="x.json is damaged") as caught:
        files.read_json(tmp_path / "x.json", SHAPE)
    assert len(str(caught.value)) < 500
