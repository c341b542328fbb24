"""A full run needs as many videos as the final run: available ones are repeated with new ids."""

import hashlib

import numpy as np
import pytest
import small

from wbdc.competitions import Competition
from wbdc.competitions.wechat2022 import WeChat2022
from wbdc.core.errors import UsageFault
from wbdc.core.findings import Findings
from wbdc.data.archive import read_features, read_images


@pytest.mark.parametrize("write", [small.root, small.features])
def test_videos_are_repeated_under_new_ids(write, tmp_path):
    contest, root = WeChat2022(), write(tmp_path / "data")
    before = {p: hashlib.sha256(p.read_bytes()).digest() for p in root.rglob("*") if p.is_file()}
    contest.repeat_videos(root, tmp_path / "long", "test", 10)
    old, new = (list(contest.videos(r, "test", Findings())) for r in (root, tmp_path / "long"))
    assert len(new) == 10 == len({v.id for v in new})
    assert not {v.id for v in old} & {v.id for v in new}
    read = read_images if write is small.root else read_features
    for number, video in enumerate(new):
        first = old[number % len(old)]
        assert video.fields == first.fields
        assert np.array_equal(read(video.source, 4, Findings()), read(first.source, 4, Findings()))
    assert contest.splits(tmp_path / "long") == ["test"]
    assert before == {
        p: hashlib.sha256(p.read_bytes()).digest() for p in root.rglob("*") if p.is_file()
    }


def test_a_contest_without_repeat_videos_raises_an_error(tmp_path):
    with pytest.raises(UsageFault, match="use test data of 25,000 videos or more"):
        Competition().repeat_videos(tmp_path, tmp_path / "long", "test", 25_000)
