"""The code of docs/ensembles.md makes a file that `wbdc ensemble --with` accepts."""

import re
from pathlib import Path

from wbdc.ensemble.outside_members import read_outside_members

PAGE = Path(__file__).parents[2] / "docs" / "ensembles.md"


def test_the_code_of_the_page_writes_a_member(fresh, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)  # the documented code itself
    ids, classes = names["table"]["id"].to_list(), names["classes"]
    (member,) = read_outside_members(["tfidf.parquet"], ids, classes, "labeled")
    assert member.name == "tfidf"
