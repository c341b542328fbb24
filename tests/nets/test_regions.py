"""Region tokens: what a detector finds in a frame, beside the vectors of an image tower."""

import pytest
import torch
import toys
from safetensors.torch import save_file
from torchvision import models
from torchvision.models import detection

from wbdc.core import plug
from wbdc.core.errors import IntegrityFault, UsageFault
from wbdc.nets import region_detector
from wbdc.nets import vision as visions
from wbdc.nets.region_detector import describe_boxes, fill_up
from wbdc.nets.vision import Vision

DETECTOR = "fasterrcnn_mobilenet_v3_large_320_fpn"
TABLE = {"use": "regions", **toys.VISIONS["regions"]}


def build(**settings) -> Vision:
    torch.manual_seed(0)
    return plug.build_plug(visions, TABLE | settings)


@pytest.fixture(scope="module")
def regions() -> Vision:
    return build(side=64, regions=3).eval()


@pytest.mark.slow
@torch.no_grad()
def test_vectors_of_tower_and_regions_have_numbers_of_their_own(regions):
    batch = toys.batch()
    vectors = regions(batch.frames, batch.frame_mask, batch.frame_counts).x
    tower = regions.image_tower(batch.frames, batch.frame_mask).x
    found = regions.detector(batch.frames, batch.frame_mask).x
    by_frame = vectors.unflatten(1, (-1, 4))
    width = tower.shape[2]
    assert torch.equal(by_frame[:, :, 0, :width], tower)
    assert torch.equal(by_frame[:, :, 1:, width:].flatten(1, 2), found)
    assert not by_frame[:, :, 0, width:].any()
    assert not by_frame[:, :, 1:, :width].any()
    assert found[0, 0].ne(found[0, 3]).any(), "regions of other frames"


@torch.no_grad()
def test_regions_are_those_of_torchvision(regions):
    """Its own detector with the same weights, and its own preparation of a picture."""
    reference = models.get_model(
        DETECTOR,
        weights=None,
        weights_backbone=None,
        min_size=64,
        max_size=64,
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_test=3,
        rpn_score_thresh=0.0,
    ).eval()
    reference.load_state_dict(regions.detector.tower.state_dict(), strict=False)
    received = []
    reference.rpn.register_forward_hook(lambda module, inputs, output: received.append(output[0]))
    reference.roi_heads.box_head.register_forward_hook(
        lambda module, inputs, output: received.append(output)
    )
    frame = toys.batch().frames[0, 0]
    reference([frame / 255])
    (boxes,), vectors = received
    (computed,) = regions.detector.encode_part(frame[None]).unflatten(1, (3, -1))
    torch.testing.assert_close(computed[: len(vectors), :-5], vectors, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(computed[: len(boxes), -5:-1], boxes / 64, rtol=1e-4, atol=1e-5)


def test_the_whole_frame_fills_up_and_boxes_are_shares():
    boxes = torch.tensor([[0.0, 16.0, 32.0, 32.0]])
    filled = fill_up(boxes, 32, 3)
    assert filled.tolist() == [[0, 16, 32, 32], [0, 0, 32, 32], [0, 0, 32, 32]]
    assert fill_up(filled, 32, 1).tolist() == boxes.tolist()
    assert describe_boxes(boxes / 32).tolist() == [[0, 0.5, 1, 1, 0.5]]


def test_the_detector_is_never_trained():
    vision = build().train()
    assert not any(module.training for module in vision.detector.modules())
    assert not any(weight.requires_grad for weight in vision.detector.parameters())
    batch = toys.batch((2, 1))
    vision(batch.frames, batch.frame_mask, batch.frame_counts).x.sum().backward()
    gradients = [weight.grad for weight in vision.image_tower.parameters()]
    assert gradients
    assert all(gradient is not None for gradient in gradients)
    assert not any(weight.requires_grad for weight in build(frozen=True).parameters())


@pytest.mark.slow
def test_published_weights_are_loaded_by_name(regions, tmp_path, monkeypatch):
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path))
    folder = tmp_path / "torchvision" / f"{DETECTOR}.COCO_V1"
    folder.mkdir(parents=True)
    published = {
        name: torch.full_like(tensor, 0.25)
        for name, tensor in detection.fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None, weights_backbone=None
        )
        .state_dict()
        .items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(published, folder / "model.safetensors")
    loaded = build(weights="COCO_V1")
    assert all(tensor.eq(0.25).all() for tensor in loaded.detector.tower.state_dict().values())
    assert "not used (its classifier of objects)" in loaded.detector.loaded
    assert loaded.parts()["vision.detector"].pretrained["link"].endswith(".pth")

    del published["rpn.head.cls_logits.weight"]
    save_file(published, folder / "model.safetensors")
    with pytest.raises(IntegrityFault, match=r"lacks 1 of \d+ tensors: rpn.head.cls_logits.weight"):
        build(weights="COCO_V1")


@torch.no_grad()
def test_batch_norms_of_weights_that_need_it_have_no_epsilon(monkeypatch):
    """Also in a package, which rebuilds the tower without the name of the weights."""
    monkeypatch.setattr(region_detector, "load_published", lambda *words, **options: None)
    settings = {"detector": "fasterrcnn_resnet50_fpn", "side": 64}
    exact = build(**settings, weights="COCO_V1")
    rebuilt = plug.build_plug(visions, exact.blueprint())
    rebuilt.load_state_dict(exact.state_dict())
    x = torch.rand(1, 64, 8, 8)
    norm = [vision.detector.tower.backbone.body.bn1 for vision in (exact, rebuilt)]
    torch.testing.assert_close(norm[0](x), x, rtol=1e-6, atol=1e-7)  # 1e-5 is the usual epsilon
    assert torch.equal(norm[0](x), norm[1](x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"detector": "fasterrcnn_resnet50"}, "no detector .* did you mean"),
        ({"detector": "resnet50"}, "torchvision has no detector 'resnet50'"),
        ({"weights": "COCO_V2"}, "torchvision has no weights 'COCO_V2'"),
        ({"regions": 0}, "regions = 0; it must be between 1 and 100"),
        ({"side": 16}, "side = 16; it must be at least 32"),
        ({"tower": {"use": "features"}}, "'features' encodes no single frames"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(UsageFault, match=message):
        build(**settings)
