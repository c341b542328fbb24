"""The families of image towers that public solutions use encode a batch with padding: the smallest
ones compute, and those of the table in docs/towers.md run on tensors without data.
"""

import pytest
import torch
import toys
from towers import TOWERS, build_empty

NAMED = {
    "CLIP",
    "ConvNeXt",
    "EfficientNet",
    "Inception",
    "MobileNet",
    "RegNet",
    "ResNeXt",
    "ResNet",
    "SE-ResNet",
    "ShuffleNet",
    "Swin",
    "ViT",
}
SMALL = [
    ("timm", {"model": "test_efficientnet"}),
    ("timm", {"model": "test_convnext"}),
    ("timm", {"model": "mobilenetv3_small_050"}),
    ("torchvision", {"model": "squeezenet1_1"}),
]


@pytest.mark.parametrize(("use", "settings"), SMALL)
def test_padding_changes_no_feature_of_a_small_tower(use, settings):
    vision = toys.model(vision=use, **settings).vision
    batch = toys.batch((2, 0, 1))
    with torch.no_grad():
        features = vision(batch.frames, batch.frame_mask, batch.frame_counts)
        padded = toys.pad(batch, 0, 2)
        same = vision(padded.frames, padded.frame_mask, padded.frame_counts)
    torch.testing.assert_close(same.x[:, :2], features.x)
    assert not same.x[~padded.frame_mask].any()
    assert not torch.allclose(features.x[0, 0], features.x[0, 1])


def test_every_named_family_is_in_the_table():
    assert {tower.family for tower in TOWERS} >= NAMED


@pytest.mark.slow
@pytest.mark.parametrize("tower", TOWERS, ids=lambda tower: tower.model)
def test_a_tower_encodes_the_real_frames_of_a_batch_only(tower):
    vision = build_empty(tower)
    encoded = []
    encode = vision.encode

    def count(pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return encode(pixels)

    vision.encode = count
    side = vision.image_settings.size
    batch = toys.batch((2, 0, 3)).to("meta")
    pixels = torch.empty(3, 3, 3, side, side, dtype=torch.uint8, device="meta")
    tokens = vision(pixels, batch.frame_mask, batch.frame_counts)
    assert tokens.x.shape == (3, 3, vision.dim)
    assert tokens.mask.shape == (3, 3)
    assert encoded == [5]
