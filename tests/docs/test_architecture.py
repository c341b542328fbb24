"""Files that the documents name exist, and every folder of wbdc is described."""

import re
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]
DOCUMENTS = sorted([HOME / "README.md", HOME / "README.zh-CN.md", *HOME.glob("docs/*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_files_that_are_named_exist(path):
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:wbdc|tests|benchmarks|kits|docs)/[\w./-]*)`", text))
    assert [name for name in sorted(named) if not (HOME / name).exists()] == []


def test_every_folder_of_wbdc_is_described():
    text = (HOME / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = {p.parent for p in (HOME / "wbdc").rglob("__init__.py")} - {HOME / "wbdc"}
    missing = [f.name for f in sorted(folders) if f"{f.name}/`" not in text]
    assert missing == []


def test_twenty_changes_are_answered():
    text = (HOME / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.split("## I want to change X")[1]
    rows = re.findall(r"^\| (?!change|---)(.+?) \| (.+) \|$", table, re.MULTILINE)
    assert len(rows) >= 20
    assert all("`" in answer or "file of your own" in answer for _, answer in rows)
