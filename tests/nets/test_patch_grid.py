"""Patch tokens: several vectors of each frame, with the embedding of the frame's time."""

import pytest
import torch
import torch.nn.functional as F
import toys
from fake_cuda import batch_on_fake_cuda, fake_cuda, model_on_fake_cuda

from wbdc.core.errors import UsageFault
from wbdc.data.loader import collate
from wbdc.nets.patch_grid import average_patches
from wbdc.prepare.view import encode_frames
from wbdc.train.kit import open_kit

TOWERS = [
    ("clip", {}),
    ("timm", {"model": "test_resnet", "size": 64}),
    ("timm", {"model": "test_vit", "size": 32}),
]
every_tower = pytest.mark.parametrize(("vision", "settings"), TOWERS)
# a fusion and a tower meet in a projection only
every_fusion_and_tower = pytest.mark.parametrize(
    ("fusion", "vision", "settings"),
    [*((fusion, *TOWERS[0]) for fusion in toys.FUSIONS), *(("albef", *t) for t in TOWERS[1:])],
)


@pytest.mark.parametrize("grid", range(1, 8))
@pytest.mark.parametrize("shape", [(7, 7), (8, 12), (7, 9)])
def test_cells_are_those_of_adaptive_average_pooling(grid, shape):
    patches = torch.randn(2, *shape, 5)
    pooled = F.adaptive_avg_pool2d(patches.permute(0, 3, 1, 2), grid)
    torch.testing.assert_close(average_patches(patches, grid), pooled.flatten(2).transpose(1, 2))


def model(fusion: str, vision: str, settings: dict):
    return toys.model(fusion, vision, patch_grid=2, **settings)


def batch(settings: dict, frame_counts: tuple[int, ...] = (3, 0, 4, 1)):
    ids, text, frames = toys.videos(frame_counts)
    scale = settings.get("size", 32) // 32
    return collate(ids, text, [f.repeat(scale, 2).repeat(scale, 3) for f in frames], [1, 0, 2, 1])


@every_tower
def test_each_frame_has_p_vectors_at_its_position(vision, settings):
    toy, videos = model("dual_stream", vision, settings), batch(settings)
    encoded = toy.encode(videos)
    assert toy.vision.tokens_per_frame == 4
    assert encoded.frames.shape == (4, 16, toy.vision.dim)
    assert torch.equal(encoded.frame_mask, videos.frame_mask.repeat_interleave(4, 1))
    assert encoded.frame_counts == (12, 0, 16, 4)
    for video, frame in videos.frame_mask.nonzero().tolist():
        pixels = toy.vision.normalize(videos.frames[video, frame][None])
        alone = toy.vision.encode(pixels)[0]
        vectors = encoded.frames[video, 4 * frame : 4 * frame + 4]
        torch.testing.assert_close(vectors, alone, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(alone[0], alone[3])
    assert not encoded.frames[~encoded.frame_mask].any()


@every_fusion_and_tower
def test_padding_moves_no_logit_and_every_weight_gets_a_gradient(fusion, vision, settings):
    toy, videos = model(fusion, vision, settings), batch(settings)
    logits = toy.logits(videos)
    torch.testing.assert_close(toy.logits(toys.pad(videos, 3, 2)), logits)
    with torch.no_grad():
        for weight in toy.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    F.cross_entropy(toy.logits(videos), videos.label).backward()
    unused = [name for name, p in toy.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


@every_tower
def test_patch_tokens_do_not_wait_for_a_gpu(vision, settings):
    toy, videos = model("dual_stream", vision, settings), batch(settings)
    with fake_cuda():
        logits = model_on_fake_cuda(toy).logits(batch_on_fake_cuda(videos))
        assert logits.device.type == "cuda"


def test_patches_of_clip_are_normalized_and_projected_as_its_own_vector():
    toy, videos = model("dual_stream", "clip", {}), toys.batch((2,))
    tower = toy.vision.tower
    layers = []
    last = tower.transformer.resblocks[-1]
    last.register_forward_hook(lambda module, inputs, output: layers.append(output))
    vectors = toy.encode(videos).frames[0].view(2, 4, -1)
    patches = tower.ln_post(layers[0][:, 1:]) @ tower.proj
    torch.testing.assert_close(vectors, patches, msg="the toy has 2 x 2 patches: no averages")


def test_tokens_of_one_frame_share_its_time():
    toy, videos = model("dual_stream", "clip", {}), toys.batch((2, 2))
    with torch.no_grad():
        toy.project[0].weight.zero_()  # what is left of a token is its time
    frames = toy.frame_tokens(toy.encode(videos)).x[0, 1:]
    assert torch.equal(frames[:4], frames[:1].expand(4, -1))
    assert torch.equal(frames[4:], frames[4:5].expand(4, -1))
    assert not torch.equal(frames[0], frames[4])


def test_cached_patch_features_give_the_logits_of_the_pixels():
    toy = toys.model(frozen=True, patch_grid=2)
    ids, text, frames = toys.videos()
    cached = collate(ids, text, encode_frames(toy.vision, frames))
    assert cached.frame_counts == tuple(4 * len(f) for f in frames)
    torch.testing.assert_close(
        toy.logits(cached), toy.logits(collate(ids, text, frames)), rtol=1e-2, atol=1e-2
    )


RESNET = {"embed_dim": 8, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}}


@pytest.mark.parametrize(
    ("vision", "settings", "message"),
    [
        ("clip", {"architecture": RESNET, "patch_grid": 1}, "gives no grid of patches"),
        ("clip", {"patch_grid": 3}, r"has 2 x 2 patches, so it must be between 1 and 2"),
        ("clip", {"patch_grid": 0}, r"must be between 1 and 2"),
        ("timm", {"patch_grid": 9}, r"vision.patch_grid = 9; test_resnet has"),
        ("timm", {"patch_grid": -1}, r"it must be between 1 and"),
    ],
)
def test_a_grid_that_a_tower_does_not_have_is_refused(vision, settings, message):
    with pytest.raises(UsageFault, match=message):
        toys.model(vision=vision, **settings)


def test_a_kit_sets_the_grid():
    kit = open_kit("dual_stream", changes=("vision.patch_grid=7",))
    assert kit.tables["vision"]["patch_grid"] == 7
