"""Two streams join the vectors of each frame and of its difference to the next one."""

import pytest
import torch
import toys

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.nets import vision as visions
from wbdc.nets.vision.two_stream import frame_differences
from wbdc.submit.pack.package import _used_plugs

RGB, MOTION = toys.VISIONS["two_stream"].values()


def build(rgb: dict, motion: dict):
    return plug.build_plug(visions, {"use": "two_stream", "rgb": rgb, "motion": motion})


def test_the_vectors_are_those_of_both_towers_apart():
    vision = toys.model(vision="two_stream").vision
    batch = toys.batch()
    with torch.no_grad():
        joined = vision(batch.frames, batch.frame_mask, batch.frame_counts).x
        frames = vision.rgb(batch.frames, batch.frame_mask).x
        differences = frame_differences(batch.frames, batch.frame_mask)
        motion = vision.motion(differences, batch.frame_mask).x
    torch.testing.assert_close(joined, torch.cat([frames, motion], -1))
    assert vision.dim == vision.rgb.dim + vision.motion.dim
    assert not torch.allclose(motion[0, 0], motion[0, 1])
    assert vision.parts().keys() == {"vision.rgb", "vision.motion"}
    assert _used_plugs(vision.blueprint()) == {"two_stream", "clip", "timm"}


def test_differences_follow_the_formula_and_ignore_padding():
    frames = torch.zeros(2, 3, 3, 1, 1, dtype=torch.uint8)
    frames[0, :, :, 0, 0] = torch.tensor([10, 30, 0])[:, None]
    frames[1, :, :, 0, 0] = torch.tensor([10, 250, 99])[:, None]  # noise after the first
    mask = torch.tensor([[True, True, True], [True, False, False]])
    steps = frame_differences(frames, mask)[:, :, 0, 0, 0]
    assert steps[0].tolist() == [138, 113, 113]
    assert steps[1, 0].item() == 128
    assert frame_differences(frames[:, :1], mask[:, :1]).unique().tolist() == [128]


@pytest.mark.parametrize(
    ("rgb", "motion", "message"),
    [
        (RGB, MOTION | {"size": 64}, "takes frames of 32 pixels, motion of 64"),
        (RGB | {"patch_grid": 2}, MOTION, "rgb has 4 vectors of a frame, motion 1"),
        (RGB, {"use": "features"}, "motion needs a tower that encodes single frames"),
        (RGB, {"use": "tim"}, "no vision called 'tim'; did you mean 'timm'"),
    ],
)
def test_towers_that_do_not_fit_are_refused(rgb, motion, message):
    with pytest.raises(UsageFault, match=message):
        build(rgb, motion)
