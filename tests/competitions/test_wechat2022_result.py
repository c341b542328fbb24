"""The result file of WeChat 2022: it is read back as written, and ambiguous files are refused."""

from pathlib import Path

import pytest

from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import ResultFault

IDS = ["0001", "1", "12345678901234567890", "00000000000000000000", "7e5"]
LABELS = ["0000", "0001", "0100", "0001", "0203"]
CLASSES = ["0000", "0001", "0100", "0203"]
GOOD = b"0001,0000\n1,0001\n12345678901234567890,0100\n00000000000000000000,0001\n7e5,0203\n"


def read(data: bytes, folder: Path) -> list[str]:
    path = folder / "result.csv"
    path.write_bytes(data)
    return WeChat2022().read_result(path, IDS, CLASSES)


def test_trap_25_the_file_is_plain(tmp_path):
    """No header, no BOM, LF, one line for each id in the order given."""
    WeChat2022().write_result(IDS, LABELS, tmp_path / "out" / "result.csv")
    assert (tmp_path / "out" / "result.csv").read_bytes() == GOOD


def test_trap_26_ids_and_categories_stay_text(tmp_path):
    """ "0001" is not "1", and 20 digits overflow int64: write, then read, is the identity."""
    WeChat2022().write_result(IDS, LABELS, tmp_path / "result.csv")
    assert WeChat2022().read_result(tmp_path / "result.csv", IDS, CLASSES) == LABELS
    with pytest.raises(ResultFault, match="unknown classes: 1, first 0001 → 0"):
        read(GOOD.replace(b"0001,0000", b"0001,0"), tmp_path)
    with pytest.raises(ResultFault, match="not in the test split"):
        read(
            GOOD.replace(b"12345678901234567890", b"12345678901234567168"), tmp_path
        )  # what a float makes of it


def test_trap_25_another_order_is_fine(tmp_path):
    lines = GOOD.splitlines(keepends=True)
    assert read(b"".join(reversed(lines)), tmp_path) == LABELS


FAULTS = {
    "a duplicate beside a missing id, as many rows as asked": (
        GOOD.replace(b"\n1,0001", b"\n0001,0001"),
        "names ids twice: 1, first 0001",
    ),
    "the same line twice": (GOOD + b"1,0001\n", "names ids twice: 1, first 1"),
    "a missing id": (GOOD.replace(b"7e5,0203\n", b""), "misses ids: 1, first 7e5"),
    "nothing": (b"", "misses ids: 5"),
    "a foreign id": (
        GOOD.replace(b"7e5", b"7e6"),
        r"not in the test split \(a header\?\): 1, first 7e6",
    ),
    "a header": (b"id,category_id\n" + GOOD, r"not in the test split \(a header\?\): 1, first id"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, "byte order mark"),
    "CR LF": (GOOD.replace(b"\n", b"\r\n"), "CR line ends"),
    "an unknown class": (GOOD.replace(b"0203", b"0299"), "unknown classes: 1, first 7e5 → 0299"),
    "a space": (GOOD.replace(b",0203", b", 0203"), "unknown classes"),
    "quotes": (GOOD.replace(b"7e5", b'"7e5"'), "not in the test split"),
    "half a line": (GOOD[:-3], "ends inside a line"),
    "a cut after the id": (GOOD[:-6] + b"\n", "line 5 is not `id,category_id`: '7e5'"),
    "no end of the last line": (GOOD[:-1], "ends inside a line"),
    "an empty line": (GOOD + b"\n", "line 6 is not"),
    "three columns": (GOOD.replace(b"7e5,", b"7e5,0.9,"), "line 5 is not"),
    "UTF-16": (GOOD.decode().encode("utf-16-le"), "ends inside a line"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_trap_25_a_fault_is_refused_and_named(fault, tmp_path):
    data, message = FAULTS[fault]
    with pytest.raises(ResultFault, match=message) as caught:
        read(data, tmp_path)
    assert str(tmp_path / "result.csv") in str(caught.value)
    assert caught.value.code == 12


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ResultFault, match="was not written"):
        WeChat2022().read_result(tmp_path / "result.csv", IDS, CLASSES)


def test_unequal_lengths_write_nothing(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        WeChat2022().write_result(IDS, LABELS[:-1], tmp_path / "result.csv")
    assert not list(tmp_path.iterdir())
