"""Models of PyTorchVideo: published sizes, their weights, and the two pathways of SlowFast."""

import sys

import pytest
import torch
import toys
from pytorchvideo.models import hub
from safetensors.torch import save_file

from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.nets.vision.pytorchvideo import SIDES, PyTorchVideo, join_pathways, published_link

# millions of parameters in PyTorchVideo's list of models, steps of a clip of 16 frames, and width
PUBLISHED = {
    "c2d_r50": (24.33, 8, 2048),
    "csn_r101": (22.21, 2, 2048),
    "i3d_r50": (28.04, 8, 2048),
    "r2plus1d_r50": (28.11, 4, 2048),
    "slow_r50": (32.45, 16, 2048),
    "slowfast_r101": (62.83, 4, 2304),
    "slowfast_r50": (34.57, 4, 2304),
    "x3d_l": (6.15, 16, 192),
    "x3d_m": (3.79, 16, 192),
    "x3d_s": (3.79, 16, 192),
    "x3d_xs": (3.79, 16, 192),
}
QUICK = ("i3d_r50", "slowfast_r50", "x3d_s")


@pytest.mark.parametrize(
    "model", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED]
)
def test_a_model_has_its_published_size(model):
    with torch.device("meta"):
        tower = PyTorchVideo(model=model, pretrained=False)
        head = getattr(hub, model)(pretrained=False).blocks[-1]
    count = sum(p.numel() for m in (tower, head) for p in m.parameters())
    assert (round(count / 1e6, 2), tower.clip_steps, tower.dim) == PUBLISHED[model]


def test_every_model_has_a_size():
    assert sorted(SIDES) == sorted(PUBLISHED)
    assert all(published_link(model).endswith(".pyth") for model in SIDES)


def test_frames_of_the_fast_pathway_are_averaged_for_each_step_of_the_slow_one():
    slow = torch.randn(2, 3, 2, 1, 1)
    fast = torch.randn(2, 4, 8, 1, 1)
    joined = join_pathways(slow, fast)
    assert torch.equal(joined[:, :3], slow)
    for step in range(2):
        mean = fast[:, :, 4 * step : 4 * step + 4].mean(2)
        torch.testing.assert_close(joined[:, 3:, step], mean)


@pytest.mark.slow
def test_published_weights_give_the_features_before_the_head(tmp_path, monkeypatch):
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        EnvironmentFault,
        match="converted from https://dl.fbaipublicfiles.*/X3D_XS.pyth,.*weights convert` conv",
    ):
        PyTorchVideo(model="x3d_xs", frames=4, size=32)
    torch.manual_seed(0)
    whole = hub.x3d_xs(pretrained=False).eval()
    (tmp_path / "x3d_xs").mkdir()
    save_file(whole.state_dict(), tmp_path / "x3d_xs" / "model.safetensors")
    tower = PyTorchVideo(model="x3d_xs", frames=4, size=32).eval()
    batch = toys.batch((4, 4))
    with torch.no_grad():
        vectors = tower(batch.frames, batch.frame_mask).x
        x = tower.normalize(batch.frames).transpose(1, 2)
        for block in whole.blocks[:-1]:
            x = block(x)
        torch.testing.assert_close(vectors, x.mean((3, 4)).transpose(1, 2))
    assert tower.loaded.endswith("not used (its classifier)")
    assert tower.pretrained["link"].endswith("/kinetics/X3D_XS.pyth")


def test_what_pytorchvideo_cannot_do_is_refused(monkeypatch):
    with pytest.raises(UsageFault, match="no model 'x3d_xl'; did you mean 'x3d_l'"):
        PyTorchVideo(model="x3d_xl", pretrained=False)
    with (
        torch.device("meta"),
        pytest.raises(UsageFault, match="takes clips of a multiple of 4 frames, not 6"),
    ):
        PyTorchVideo(model="slowfast_r50", pretrained=False, segments=6)
    monkeypatch.setitem(sys.modules, "pytorchvideo.models", None)
    with pytest.raises(EnvironmentFault, match=r"pip install 'wbdc\[pytorchvideo\]'"):
        PyTorchVideo(model="x3d_s", pretrained=False)
