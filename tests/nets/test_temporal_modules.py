"""Temporal modules on image towers: the arithmetic of their papers, and what a frame can change."""

import math

import pytest
import torch
import torch.nn.functional as F
import toys
from torch import Tensor

from wbdc.core.errors import UsageFault
from wbdc.core.plug import build_plug
from wbdc.nets import vision as visions
from wbdc.nets.temporal_adaptive import convolve_in_time
from wbdc.nets.temporal_interlace import interlace
from wbdc.nets.temporal_pyramid import TemporalPyramid
from wbdc.nets.temporal_shift import shift_in_time

IN_BLOCKS = ["tsm", "tin", "tam"]  # of a ResNet
TEMPORAL = [*IN_BLOCKS, "tpn"]


def tower(name: str, **settings: object) -> torch.nn.Module:
    """A tower whose residual branches are not zero, as timm leaves them at first."""
    torch.manual_seed(0)
    built = build_plug(visions, {"use": name, **toys.VISIONS[name], **settings}).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    return built


def clips(count: int, length: int, channels: int) -> Tensor:
    return torch.randn(count, length, channels, 2, 2, generator=torch.Generator().manual_seed(1))


# ---- the arithmetic


def test_a_shift_takes_channels_of_the_next_and_of_the_previous_frame():
    x = clips(2, 4, 8)
    shifted = shift_in_time(x, 2)
    zeros = torch.zeros_like(x[:, 0])
    for t in range(4):
        later = x[:, t + 1] if t < 3 else zeros
        earlier = x[:, t - 1] if t > 0 else zeros
        longhand = torch.cat([later[:, :2], earlier[:, 2:4], x[:, t, 4:]], 1)
        assert torch.equal(shifted[:, t], longhand)


def test_interlacing_interpolates_between_the_two_nearest_frames():
    x = clips(2, 5, 8)
    offsets = torch.tensor([[0.5, 1.25, -0.5, -1.25], [2.0, 0.0, -2.0, 0.0]])
    weights = torch.rand(2, 4, 5)
    moved = interlace(x, offsets, weights)
    for video in range(2):
        for t in range(5):
            for channel in range(8):
                group = channel // 2
                time = t - offsets[video, group].item()
                first = math.floor(time)
                longhand = torch.zeros(2, 2)
                for i, share in ((first, 1 - time + first), (first + 1, time - first)):
                    if 0 <= i < 5:
                        longhand += share * weights[video, group, t] * x[video, i, channel]
                torch.testing.assert_close(moved[video, t, channel], longhand)


def test_adaptive_kernels_equal_a_grouped_convolution():
    """The authors fold clips and channels into groups of one convolution."""
    x = clips(2, 5, 4)
    kernels = torch.rand(2, 4, 3).softmax(2)
    grouped = F.conv2d(
        x.transpose(1, 2).reshape(1, 8, 5, 4), kernels.view(8, 1, 3, 1), padding=(1, 0), groups=8
    )
    expected = grouped.view(2, 4, 5, 2, 2).transpose(1, 2)
    torch.testing.assert_close(convolve_in_time(x, kernels), expected)


@pytest.mark.parametrize("flow", ["cascade", "parallel"])
def test_a_pyramid_joins_both_levels_in_both_directions(flow):
    torch.manual_seed(0)
    pyramid = TemporalPyramid((4, 6), (2, 1), (1, 2), 8, flow).eval()
    fine, coarse = torch.randn(8, 4, 4, 4), torch.randn(8, 6, 2, 2)
    pool = torch.nn.MaxPool3d((2, 1, 1))

    def modulate(level: int, x: Tensor) -> Tensor:
        maps = pyramid.spatial[level](x)
        return pyramid.temporal[level](maps.view(2, 4, *maps.shape[1:]).transpose(1, 2))

    def fuse(fusion: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return fusion.fusion(torch.cat([fusion.levels[0](pool(x)), fusion.levels[1](y)], 1))

    with torch.no_grad():
        a, b = modulate(0, fine), pool(modulate(1, coarse))
        sums = a + b.repeat_interleave(2, 2)
        lower = sums if flow == "cascade" else a
        down = fuse(pyramid.top_down, sums, b)
        up = fuse(pyramid.bottom_up, lower, b + pool(pyramid.downsample[0](lower)))
        expected = pyramid.fusion(torch.cat([down, up], 1)).permute(0, 2, 3, 4, 1)
        torch.testing.assert_close(pyramid([fine, coarse], 4), expected)
    assert expected.shape == (2, 2, 2, 2, 8)


def test_a_pyramid_has_the_parameters_of_the_published_one():
    """MMAction2 lists 82,445,724 for TPN on TSM with ResNet-50 and 174 classes."""
    with torch.device("meta"):
        pyramid = TemporalPyramid((1024, 2048), (2, 1), (8, 8), 2048)
    resnet = 23_508_032
    classifier = 2048 * 174 + 174
    auxiliary_head = 9 * 1024 * 2048 + 2 * 2048 + classifier
    count = sum(parameter.numel() for parameter in pyramid.parameters())
    assert count + resnet + classifier + auxiliary_head == 82_445_724


# ---- towers


def test_a_tsn_encodes_the_frame_in_the_middle_of_each_segment():
    tsn = tower("tsn")
    batch = toys.batch((4, 2))
    with torch.no_grad():
        vectors = tsn(batch.frames, batch.frame_mask).x
        for video, positions in enumerate(([0, 2, 3], [0, 1, 1])):
            pixels = tsn.normalize(batch.frames[video, positions])
            torch.testing.assert_close(vectors[video], tsn.image_tower.encode(pixels))


@pytest.mark.parametrize("name", ["tsn", *TEMPORAL])
def test_what_padding_frames_hold_changes_no_vector(name):
    built = tower(name)
    batch = toys.batch((2, 3, 0, 1))
    padded = toys.pad(batch, 0, 2)
    with torch.no_grad():
        vectors = built(batch.frames, batch.frame_mask)
        torch.testing.assert_close(built(padded.frames, padded.frame_mask).x, vectors.x)
    steps = built.clip_steps
    assert vectors.x.shape == (4, steps, built.dim)
    assert vectors.mask.tolist() == [[n > 0] * steps for n in (2, 3, 0, 1)]


@pytest.mark.parametrize("name", TEMPORAL)
def test_a_frame_changes_the_vectors_of_its_neighbors_and_of_no_other_video(name):
    built = tower(name)
    batch = toys.batch((3, 3))
    changed = batch.frames.clone()
    changed[0, 2] = 255 - changed[0, 2]
    with torch.no_grad():
        before = built(batch.frames, batch.frame_mask).x
        moved = (built(changed, batch.frame_mask).x - before).abs().amax(2) > 1e-5
    assert moved[0].all()
    assert not moved[1].any()


@pytest.mark.parametrize("name", TEMPORAL)
def test_every_weight_gets_a_gradient(name):
    built = tower(name).train()
    batch = toys.batch((3, 3, 2))
    built(batch.frames, batch.frame_mask).x.square().sum().backward()
    missing = [n for n, p in built.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


@pytest.mark.parametrize("name", ["tsn", *TEMPORAL])
def test_a_batch_without_frames_goes_through_the_tower(name):
    """The tower of every rank takes part when batch norms share their statistics."""
    built = tower(name)
    built.always_encode = True
    batch = toys.batch((0, 0))
    vectors = built(batch.frames, batch.frame_mask)
    assert vectors.x.shape == (2, built.clip_steps, built.dim)
    assert not vectors.x.any()


@pytest.mark.parametrize(
    ("name", "length"), [("tsn", 2), ("tsm", 2), ("tin", 3), ("tam", 3), ("tpn", 1)]
)
def test_fewer_frames_in_serving(name, length):
    built = tower(name)
    built.serve_frames(2)
    batch = toys.batch((2, 1))
    assert built(batch.frames, batch.frame_mask).x.shape == (2, length, built.dim)


@pytest.mark.parametrize("blocks", ["tsm", "tsm_inplace", "slow_only"])
def test_the_blocks_below_a_pyramid_read_the_real_frames_of_their_video(blocks):
    check_real_frames(tower("tpn", blocks=blocks, rate=1))


def test_non_local_blocks_read_the_real_frames_of_their_video():
    torch.manual_seed(0)
    settings = {**toys.VISIONS["tsm"], "non_local": "dot_product"}
    built = build_plug(visions, {"use": "tsm", **settings}).eval()
    for module in built.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)  # zeros at the end of branches
    check_real_frames(built)


def check_real_frames(built: torch.nn.Module) -> None:
    batch = toys.batch((2, 3))
    padded = toys.pad(batch, 0, 2)
    alone = built(batch.frames[:1], batch.frame_mask[:1]).x
    vectors = built(batch.frames, batch.frame_mask).x
    torch.testing.assert_close(vectors[:1], alone)
    torch.testing.assert_close(built(padded.frames, padded.frame_mask).x, vectors)
    built.train()(batch.frames, batch.frame_mask).x.square().sum().backward()
    missing = [n for n, p in built.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []
    built.eval().serve_frames(2)
    assert built(batch.frames[:, :2], batch.frame_mask[:, :2]).x.shape == (2, 2, built.dim)


def test_only_the_table_of_the_tower_freezes_it():
    built = tower("tsm", tower={**toys.IMAGE_TOWER, "frozen": True})
    assert not any(p.requires_grad for p in built.parameters()), "a shift has no weights"
    built = tower("tam", tower={**toys.IMAGE_TOWER, "frozen": True})
    trained = [name for name, p in built.named_parameters() if p.requires_grad]
    assert trained
    assert all(".temporal." in name for name in trained)
    assert not any(p.requires_grad for p in tower("tam", frozen=True).parameters())


def test_towers_that_a_module_cannot_use_are_refused():
    vit = {"use": "clip", "architecture": toys.VIT, "image": toys.IMAGE_SETTINGS}
    with pytest.raises(UsageFault, match="vision 'tpn': this tower gives no feature maps"):
        tower("tpn", tower=vit)
    with pytest.raises(UsageFault, match="vision 'tpn': rate = 4; it must be between 1 and 3"):
        tower("tpn", rate=4)
    with pytest.raises(UsageFault, match="'tpn': fine_rate = 2 does not divide rate = 3"):
        tower("tpn", rate=3, fine_rate=2)
    with pytest.raises(UsageFault, match="'tpn': width = 7; it must be even"):
        tower("tpn", width=7)
    with pytest.raises(UsageFault, match="'tpn': no blocks called 'tms'; did you mean 'tsm'"):
        tower("tpn", blocks="tms")
    with pytest.raises(UsageFault, match="vision 'tpn': this tower has no residual blocks"):
        tower("tpn", blocks="tsm", tower=toys.IMAGE_TOWER | {"model": "test_efficientnet"})
    for name in IN_BLOCKS:
        with pytest.raises(UsageFault, match=f"vision '{name}': this tower has no residual blocks"):
            tower(name, tower=vit)
    for use in ("features", "tsn"):
        table = {"use": use, **toys.VISIONS[use]}
        with pytest.raises(UsageFault, match=f"tower = '{use}' encodes no single frames"):
            tower("tsn", tower=table)
    with pytest.raises(UsageFault, match="a clip = 0; it must be between 1 and"):
        tower("tsn", frames=0, segments=None)
    with pytest.raises(UsageFault, match="vision.segments = 0; it must be between 1 and"):
        tower("tsn", segments=0)
    with pytest.raises(UsageFault, match="shift_div = 1; it must be at least 2"):
        tower("tsm", shift_div=1)
    with pytest.raises(UsageFault, match="moves fewer than 4 of the"):
        tower("tin", shift_div=64)
    assert tower("tsn", tower=vit)(*_frames()).x.shape == (1, 3, 8), "any image tower"


def _frames() -> tuple[Tensor, Tensor]:
    batch = toys.batch((3,))
    return batch.frames, batch.frame_mask
