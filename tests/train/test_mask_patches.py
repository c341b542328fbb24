"""Masked patches: the tower sees visible patches only, and the loss is that of MAE."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import toys

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import objectives
from wbdc.train.objectives.mask_patches import encode_visible, pixel_patches, select_rows
from wbdc.train.plug_needs import has_pixel_plugs

SETTINGS = toys.OBJECTIVES["mask_patches"][0]
FINE = toys.VIT | {"vision_cfg": toys.VIT["vision_cfg"] | {"patch_size": 8}}  # 4 x 4 patches


def build(model=None, **settings):
    table = {"use": "mask_patches", **SETTINGS, **settings}
    return plug.build_plug(objectives, table, model or toys.model(), toys.TASK)


def loss_of(model, objective, batch):
    original = model.encode(batch)
    return objective.loss(model, model.fuse(original), original, original)


def test_all_patches_give_the_vector_of_the_tower():
    tower = toys.model().vision.tower
    pixels = torch.randn(2, 3, 32, 32)
    order = torch.tensor([[2, 0, 3, 1], [0, 1, 2, 3]])
    encoded = encode_visible(tower, pixels, order)
    torch.testing.assert_close(tower.ln_post(encoded[:, 0]) @ tower.proj, tower(pixels))


def test_patches_are_cut_row_by_row():
    pixels = torch.randn(1, 3, 32, 32)
    patches = pixel_patches(pixels, 16)
    assert torch.equal(patches[0, 1], pixels[0, :, :16, 16:].flatten())
    assert torch.equal(patches[0, 2], pixels[0, :, 16:, :16].flatten())


def test_the_loss_is_that_of_normalized_masked_pixels():
    model = toys.model(architecture=FINE)
    objective, batch = build(model, share=0.75), toys.batch((2, 0, 1))
    assert (objective.patches, objective.visible) == (16, 4)
    mask = batch.frame_mask
    order = objective._draw_order(batch, mask.shape[1]).view(3, 2, 16)
    assert not torch.equal(order[0, 0], order[0, 1])
    errors = []
    for video, frame in mask.nonzero().tolist():
        pixels = model.vision.normalize(batch.frames[video, frame][None])
        visible, masked = order[video, frame, :4][None], order[video, frame, 4:][None]
        encoded = encode_visible(model.vision.tower, pixels, visible)
        predicted = select_rows(objective._decode(encoded, visible), masked)[0]
        for row, patch in zip(predicted, masked[0].tolist(), strict=True):
            target = pixel_patches(pixels, 8)[0, patch]
            target = (target - target.mean()) / (target.var(unbiased=False) + 1e-5).sqrt()
            errors.append(F.mse_loss(row, target).item())
    assert loss_of(model, objective, batch).item() == pytest.approx(sum(errors) / len(errors))
    assert objective.count(model.encode(batch)).item() == 3


def test_the_loss_starts_at_chance_and_falls():
    torch.manual_seed(0)
    model = toys.model().train()
    objective, batch = build(model), toys.batch((4, 4, 4))
    parameters = [*model.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, 1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = loss_of(model, objective, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(objective.chance, abs=0.05)
    assert losses[-1] < 0.95 * losses[0]


def test_masked_patches_do_not_reach_the_tower():
    """The loss changes with masked pixels, but not what is predicted from the visible ones."""
    model = toys.model()
    pixels = torch.randn(1, 3, 32, 32)
    visible = torch.tensor([[0, 3]])
    encoded = encode_visible(model.vision.tower, pixels, visible)
    changed = pixels.clone()
    changed[:, :, :16, 16:] += 1  # patch 1
    assert torch.equal(encode_visible(model.vision.tower, changed, visible), encoded)
    changed[:, :, :16, :16] += 1
    assert not torch.equal(encode_visible(model.vision.tower, changed, visible), encoded)


def test_tubes_mask_the_same_patches_in_all_frames():
    model = toys.model(architecture=FINE)
    order = build(model, tubes=True)._draw_order(toys.batch(), 4).view(6, 4, 16)
    assert torch.equal(order[0, 0], order[0, 3])
    assert not torch.equal(order[0, 0], order[1, 0])


def test_padding_and_videos_without_frames_change_nothing():
    model = toys.model()
    objective, batch = build(model, tubes=True), toys.batch((3, 1))
    padded = toys.pad(batch, 0, 2)
    torch.testing.assert_close(loss_of(model, objective, padded), loss_of(model, objective, batch))
    none = replace(toys.batch((0, 0)))
    assert loss_of(model, objective, none).item() == 0


def test_towers_that_it_cannot_train_are_refused():
    with pytest.raises(UsageFault, match="takes vision 'clip' with a vision transformer"):
        build(toys.model(vision="timm"))
    with pytest.raises(UsageFault, match="trains the vision tower, which is frozen"):
        build(toys.model(frozen=True))
    with pytest.raises(UsageFault, match="width = 18 is no multiple of heads = 4"):
        build(width=18, heads=4)


def test_its_stage_reads_pixels():
    class Stage:
        objective = ({"use": "classify"},)
        trick = ()

    assert not has_pixel_plugs(Stage, None)
    Stage.objective = ({"use": "classify"}, {"use": "mask_patches"})
    assert has_pixel_plugs(Stage, None)
