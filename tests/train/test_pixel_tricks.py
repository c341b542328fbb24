"""Tricks on pixels: operations of torchvision, boxes and mixtures follow their formulas, once per
video.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import toys
from torchvision.transforms import InterpolationMode, v2

from wbdc.core import plug
from wbdc.core.errors import UsageFault
from wbdc.train import tricks
from wbdc.train.trick_parts.mixing import draw_partners, partner_frames
from wbdc.train.tricks.cutmix import box_masks
from wbdc.train.tricks.rand_augment import video_operations

PIXEL_TRICKS = ("rand_augment", "cutmix", "pixel_mixup")


def build(use: str, model=None, **settings):
    table = {"use": use, **settings}
    return plug.build_plug(tricks, table, model or toys.model(), toys.TASK)


@pytest.mark.parametrize("use", PIXEL_TRICKS)
def test_pixels_depend_on_their_own_video_and_padding_stays(use):
    trick, batch = build(use), toys.batch()
    changed = trick.change_batch(batch)
    assert changed.frames.dtype == torch.uint8
    differs = (changed.frames != batch.frames).flatten(2).any(2)
    assert differs.sum() > 3
    assert not (differs & ~batch.frame_mask).any()
    again = build(use).change_batch(toys.batch())
    assert torch.equal(again.frames, changed.frames)
    with pytest.raises(UsageFault, match=f"trick '{use}' changes pixels, but this kit reads"):
        build(use, toys.model(vision="features"))


def test_each_operation_is_that_of_torchvision():
    frames = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    frames[:, :, :, :16] //= 2  # autocontrast has something to do
    theirs = v2.RandAugment()
    ours = video_operations()
    assert len(ours) == len(theirs._AUGMENTATION_SPACE)
    magnitude = 9
    for operation, (name, (amounts, is_signed)) in zip(
        ours.values(), theirs._AUGMENTATION_SPACE.items(), strict=True
    ):
        table = amounts(31, 32, 32)
        amount = 0.0 if table is None else float(table[magnitude] if table.ndim else table)
        for sign in (1, -1):
            expected = theirs._apply_image_or_video_transform(
                frames,
                name,
                sign * amount if is_signed else amount,
                interpolation=InterpolationMode.NEAREST,
                fill={torch.Tensor: None},
            )
            changed = operation(frames, sign * magnitude / 30)
            # their amounts are float32: single values are rounded to another level
            assert (changed.int() - expected.int()).abs().max() <= 1, name
            assert (changed != expected).float().mean() < 0.01, name


def test_rand_augment_draws_once_per_video():
    frame = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32)).astype(np.uint8)
    batch = toys.batch((3, 3, 3, 3, 3, 3))
    batch = replace(batch, frames=torch.from_numpy(frame).expand(6, 3, 3, 32, 32))
    changed = build("rand_augment", magnitude=20).change_batch(batch).frames
    assert all(torch.equal(video[0], video[2]) for video in changed)
    assert len({video[0].numpy().tobytes() for video in changed}) > 3
    alone = build("rand_augment", magnitude=20).change_batch(batch.select(slice(2, 3)))
    assert torch.equal(alone.frames[0], changed[2])


def test_cutmix_pastes_a_box_of_the_partner_and_mixes_labels_by_its_area():
    batch = toys.batch()
    trick = build("cutmix")
    changed = trick.change_batch(batch)
    labels = torch.nn.functional.one_hot(batch.label, toys.CLASSES).float()
    assert torch.allclose(changed.soft_label.sum(1), torch.ones(6))
    assert torch.equal(changed.soft_label[1], labels[1]), "a video without frames stays as it is"
    mixed = 0
    for video in range(6):
        differs = (changed.frames[video] != batch.frames[video]).any(1)  # (F, S, S)
        area = differs.any(0)
        rows = area.any(1).nonzero().flatten()
        columns = area.any(0).nonzero().flatten()
        box = len(rows) * len(columns)
        assert len(rows) == 0 or rows[-1] - rows[0] + 1 == len(rows), "one box"
        share = 1 - changed.soft_label[video, batch.label[video]]
        if box and share > 0:  # else the partner has the same label
            assert share.item() == pytest.approx(box / 32**2, abs=1e-5)
            mixed += 1
    assert mixed >= 2


def test_boxes_have_their_area_where_the_border_does_not_cut_them():
    centers = torch.tensor([[0.5, 0.5], [0.0, 0.5], [0.3, 0.3]])
    masks = box_masks(centers, torch.tensor([0.25, 0.25, 0.0]), 32)
    assert masks.flatten(1).sum(1).tolist() == [256, 128, 0]
    assert masks[0, 8:24, 8:24].all()


def test_pixel_mixup_is_the_weighted_mean_of_frames_and_labels():
    batch, trick = toys.batch(), build("pixel_mixup", alpha=1.0)
    can_mix = batch.frame_mask.any(1)
    numbers = trick.draw(batch, "pixel_mixup", 2)
    partners, shares = draw_partners(numbers, can_mix, trick.quantiles)
    changed = trick.change_batch(batch)
    others = partner_frames(batch.frames, batch.frame_mask, partners)
    for video, (partner, share) in enumerate(zip(partners, shares.tolist(), strict=True)):
        count = batch.frame_counts[video]
        own, other = batch.frames[video, :count].float(), others[video, :count].float()
        expected = ((1 - share) * own + share * other).round()
        assert ((changed.frames[video, :count].float() - expected).abs() <= 1).all()
        label = torch.zeros(toys.CLASSES)
        label[batch.label[video]] += 1 - share
        label[batch.label[partner]] += share
        torch.testing.assert_close(changed.soft_label[video], label)
    assert (shares > 0.05).sum() >= 2


def test_the_frames_of_a_partner_cover_its_whole_time():
    frames = torch.arange(8).view(2, 4)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    others = partner_frames(frames, mask, torch.tensor([1, 0]))
    assert others[0, :2].tolist() == [4, 6]
    assert others[1].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("use", "settings", "message"),
    [
        ("rand_augment", {"magnitude": 31.0}, "magnitude = 31"),
        ("rand_augment", {"operations": 0}, "operations = 0"),
        ("cutmix", {"alpha": 0.0}, "trick 'cutmix': alpha = 0; it must be above 0"),
        ("pixel_mixup", {"alpha": -1.0}, "it must be above 0"),
    ],
)
def test_settings_out_of_bounds_are_refused(use, settings, message):
    with pytest.raises(UsageFault, match=message):
        build(use, **settings)
