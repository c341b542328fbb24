"""Optical flow as the input of the motion stream: its scale, padding, and the package it needs."""

import sys
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys

from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.core.plug import build_plug
from wbdc.nets import vision as visions
from wbdc.nets.optical_flow import flow_pictures, scale_flow
from wbdc.submit.pack.requirements import flow_packages

FLOW_TABLE = {"use": "two_stream", "motion_input": "flow", **toys.VISIONS["two_stream"]}


class DifferenceFlow:
    """Stands in for the flow: the difference of brightness, and its negative."""

    def calc(self, before: np.ndarray, after: np.ndarray, flow: None) -> np.ndarray:
        step = after.astype(np.float32) - before
        return np.stack([step, -step], -1)


@pytest.fixture
def fake_opencv(monkeypatch):
    """OpenCV is an extra, and these tests need none of it."""
    fake = SimpleNamespace(
        setNumThreads=lambda count: None,
        DISOPTICAL_FLOW_PRESET_FAST=2,
        DISOpticalFlow_create=lambda preset: DifferenceFlow(),
        COLOR_RGB2GRAY=7,
        cvtColor=lambda frame, code: frame[..., 0],
    )
    monkeypatch.setitem(sys.modules, "cv2", fake)


def test_flow_is_clipped_and_scaled():
    flow = np.array([0, 10, 20, 99, -10, -20, -99], np.float32)
    assert scale_flow(flow).tolist() == [128, 191, 255, 255, 64, 0, 0]


def test_each_frame_gets_the_flow_to_the_next_one_and_padding_changes_nothing(fake_opencv):
    frames = torch.zeros(3, 3, 3, 1, 1, dtype=torch.uint8)
    frames[0, :, :, 0, 0] = torch.tensor([10, 13, 250])[:, None]
    frames[1, :, :, 0, 0] = torch.tensor([10, 13, 99])[:, None]  # noise after the second
    frames[2, :, :, 0, 0] = torch.tensor([10, 99, 99])[:, None]
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    flow = flow_pictures(frames, mask)[..., 0, 0]
    step, leap, none = [147, 108, 128], [255, 0, 128], [128, 128, 128]
    assert flow.tolist() == [[step, leap, leap], [step, step, none], [none, none, none]]
    assert flow_pictures(frames[:, :1], mask[:, :1]).unique().tolist() == [128]


def test_the_motion_stream_encodes_the_flow(fake_opencv):
    tower = build_plug(visions, FLOW_TABLE).eval()
    batch = toys.batch((3, 0, 2))
    padded = toys.pad(batch, 0, 2)
    with torch.no_grad():
        vectors = tower(batch.frames, batch.frame_mask).x
        flow = flow_pictures(batch.frames, batch.frame_mask)
        motion = tower.motion(flow, batch.frame_mask).x
        again = tower(padded.frames, padded.frame_mask).x
    torch.testing.assert_close(vectors[..., tower.rgb.dim :], motion)
    torch.testing.assert_close(again[:, : vectors.shape[1]], vectors)
    assert not torch.allclose(motion[0, 0], motion[0, 1])
    assert tower.blueprint()["motion_input"] == "flow"
    assert build_plug(visions, tower.blueprint()).motion_input == "flow"


def test_opencv_finds_the_motion_of_a_texture():
    pytest.importorskip("cv2")
    noise = torch.rand(1, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    texture = torch.nn.functional.avg_pool2d(noise, 5, 1)[0]
    frames = torch.stack([texture[:, 4:68, 4:68], texture[:, 4:68, 1:65]])  # 3 pixels to the right
    spread = (frames - frames.mean()) * 3 + 0.5
    pixels = (spread.clamp(0, 1) * 255).to(torch.uint8)[None]
    flow = flow_pictures(pixels, torch.ones(1, 2, dtype=torch.bool))
    across, down, third = flow[0, 0, :, 8:-8, 8:-8].float().mean((1, 2)).tolist()
    assert across == pytest.approx(127.5 + 3 * 6.375, abs=3)
    assert down == pytest.approx(127.5, abs=3)
    assert third == 128


def test_a_missing_opencv_and_a_wrong_input_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(EnvironmentFault, match=r"needs OpenCV .* pip install 'wbdc\[flow\]'"):
        build_plug(visions, FLOW_TABLE)
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace())
    small = toys.IMAGE_TOWER | {"size": 15}
    with pytest.raises(UsageFault, match="flow needs frames of at least 16 pixels, not 15"):
        build_plug(visions, FLOW_TABLE | {"rgb": small, "motion": small})
    with pytest.raises(UsageFault, match="no motion_input called 'flw'; did you mean 'flow'"):
        build_plug(visions, FLOW_TABLE | {"motion_input": "flw"})


def test_a_package_requires_opencv_only_for_flow(monkeypatch):
    installed = {"cv2": ["opencv-python"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: installed)
    flow = {"blueprint": {"vision": {"use": "two_stream", "motion_input": "flow"}}}
    other = {"blueprint": {"vision": {"use": "two_stream", "motion_input": "differences"}}}
    assert flow_packages([other, {"kind": "ngram"}]) == []
    assert flow_packages([other, flow]) == ["opencv-python"]
    installed.clear()
    with pytest.raises(EnvironmentFault, match=r"install it: pip install 'wbdc\[flow\]'"):
        flow_packages([flow])
