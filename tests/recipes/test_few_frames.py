"""The trick of rank 1: few frames of some videos, sampled as from an archive."""

import sys

import pytest
import torch
import toys

from wbdc.core import plug
from wbdc.data.frame_sampling import sample_frames
from wbdc.train import tricks
from wbdc.train.kit_files import PACKAGED_KIT_FOLDERS

FOLDER = PACKAGED_KIT_FOLDERS[0] / "wbdc2022" / "rank1"
COUNTS = (3, 0, 4, 1, 2, 4)


def build(**settings):
    table = {"use": "./few_frames.py", **settings}
    return plug.build_plug(tricks, table, toys.model(), toys.TASK, kit_folder=FOLDER)


def test_the_frames_that_stay_are_those_that_an_archive_would_give():
    few_frames = vars(sys.modules[type(build()).__module__])["few_frames"]
    for count in (1, 2, 5):
        mask = torch.arange(32) < torch.arange(33)[:, None]
        stays = few_frames(mask, count)
        for real, row in enumerate(stays):
            assert row.nonzero().flatten().tolist() == list(sample_frames(real, count))


def test_a_share_of_the_videos_keeps_few_frames_and_nothing_else_changes():
    batch = toys.batch(COUNTS)
    everywhere = build(frames=2, share=1.0).change_batch(batch)
    assert everywhere.frame_mask.sum(1).tolist() == [min(2, n) for n in COUNTS]
    assert everywhere.frames is batch.frames
    assert torch.equal(build(frames=2, share=0.0).change_batch(batch).frame_mask, batch.frame_mask)
    some = build(frames=2, share=0.5).change_batch(batch).frame_mask.sum(1)
    assert 0 < (some < batch.frame_mask.sum(1)).sum() < 3


def test_the_vectors_of_one_frame_stay_or_go_together():
    model = toys.model(patch_grid=2)
    table = {"use": "./few_frames.py", "frames": 1, "share": 1.0}
    trick = plug.build_plug(tricks, table, model, toys.TASK, kit_folder=FOLDER)
    batch = model.encode(toys.batch(COUNTS))
    mask = trick.change_batch(batch).frame_mask.unflatten(1, (-1, 4))
    assert torch.equal(mask.all(2), mask.any(2))
    assert mask.any(2).sum(1).tolist() == [min(1, n) for n in COUNTS]


@pytest.mark.parametrize("settings", [{"frames": 0}, {"share": 1.5}])
def test_settings_out_of_bounds_are_refused(settings):
    with pytest.raises(plug.UsageFault, match="trick 'few_frames': .* it must be"):
        build(**settings)
