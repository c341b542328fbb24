"""Towers of torchvision: its models without their classifiers, with its weights and pixels."""

import io

import numpy as np
import pytest
import small
import torch
import toys
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import models

from wbdc.core.errors import EnvironmentFault, IntegrityFault, UsageFault
from wbdc.core.findings import Findings
from wbdc.data.frames import decode_frame
from wbdc.nets.published_weights import rename_tensors
from wbdc.nets.vision.torchvision import RENAMED_TENSORS, TorchVision, remove_classifier
from wbdc.submit.pack.provenance import weights_provenance
from wbdc.train.pretrained.download import fetch_weights
from wbdc.train.pretrained.layouts import layout_of_tensors

MODEL, WEIGHTS = "shufflenet_v2_x0_5", "IMAGENET1K_V1"
NAME = f"torchvision/{MODEL}.{WEIGHTS}"
URL = models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.url

MAX_PARAMETERS = 30e6
# the larger ones of a family differ in depth and width only
SMALL_MODELS = [
    name
    for name in models.list_models(models)
    if not name.startswith("mnasnet")
    and models.get_model_weights(name).DEFAULT.meta["num_params"] < MAX_PARAMETERS
]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of weights without any."""
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "weights"


@pytest.fixture
def whole():
    """A model of torchvision with random weights and its classifier."""
    torch.manual_seed(0)
    return models.get_model(MODEL, weights=None).eval()


def test_a_tower_equals_the_model_without_its_last_layer(root, whole):
    (root / NAME).mkdir(parents=True)
    save_file(whole.state_dict(), root / NAME / "model.safetensors")
    tower = TorchVision(model=MODEL, weights=WEIGHTS).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = tower.encode(pixels)
        torch.testing.assert_close(whole.fc(features), whole(pixels))
    assert tower.dim == features.shape[1] == 1024
    assert "2 not used (its classifier)" in tower.loaded
    assert tower.blueprint()["weights"] is None, "a trained model is rebuilt without the file"
    assert weights_provenance({"vision": tower.pretrained})[0]["link"] == URL
    assert layout_of_tensors(whole.state_dict(), {}, NAME).setting == (
        f'vision = {{ use = "torchvision", model = "{MODEL}", weights = "{WEIGHTS}" }}'
    )
    video = layout_of_tensors(set(), {}, "torchvision/r3d_18.KINETICS400_V1").setting
    assert 'use = "torchvision_video", model = "r3d_18"' in video

    damaged = {name: t for name, t in whole.state_dict().items() if not name.startswith("conv5")}
    save_file(damaged, root / NAME / "model.safetensors")
    with pytest.raises(IntegrityFault, match="lacks 6 of 336 tensors: conv5"):
        TorchVision(model=MODEL, weights=WEIGHTS)


def test_missing_weights_are_named_with_their_address(root):
    with pytest.raises(EnvironmentFault) as caught:
        TorchVision(model=MODEL, weights=WEIGHTS)
    assert f"put model.safetensors, converted from {URL}, into {root / NAME}" in str(caught.value)
    assert f"`wbdc weights fetch {NAME}`" in str(caught.value)


@pytest.mark.slow
def test_fetched_weights_are_converted(root, whole, tmp_path, monkeypatch):
    published = tmp_path / "published-7be5be79.pth"
    torch.save(whole.state_dict(), published)
    listed = models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
    monkeypatch.setattr(type(listed), "url", published.as_uri())
    with pytest.raises(IntegrityFault, match="was not downloaded whole: invalid hash value"):
        fetch_weights(NAME, root)

    monkeypatch.setattr(type(listed), "url", published.rename(tmp_path / "plain.pth").as_uri())
    record = fetch_weights(NAME, root)
    assert record["source"] == (tmp_path / "plain.pth").as_uri()
    assert load_file(root / NAME / "model.safetensors").keys() == whole.state_dict().keys()
    TorchVision(model=MODEL, weights=WEIGHTS)

    monkeypatch.setattr(type(listed), "url", "http://127.0.0.1:1/plain.pth")
    with pytest.raises(EnvironmentFault, match="cannot be downloaded .* `wbdc weights convert"):
        fetch_weights(NAME, root)
    with pytest.raises(UsageFault, match="names have the form torchvision/MODEL.WEIGHTS"):
        fetch_weights("torchvision/resnet50", root)


def test_the_transform_of_a_tower_equals_torchvisions():
    settings = TorchVision(model=MODEL).image_settings
    transform = models.ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()
    data = small.encode(small.image(300, 260))
    with Image.open(io.BytesIO(data)) as picture:
        expected = transform(picture.convert("RGB"))
    pixels = decode_frame(data, settings, Findings()).astype(np.float32) / 255
    mean, std = (np.float32(v).reshape(3, 1, 1) for v in (settings.mean, settings.std))
    np.testing.assert_allclose((pixels - mean) / std, expected.numpy(), rtol=1e-5, atol=1e-5)
    assert (settings.size, settings.short) == (224, 256)
    assert TorchVision(model=MODEL, size=96).image_settings[:1] == (96,)


def test_tensors_of_older_files_have_the_names_of_today():
    tensors = {
        "features.denseblock1.denselayer2.norm.1.weight": 0,
        "features.denseblock1.denselayer2.conv.2.weight": 1,
        "encoder.layers.encoder_layer_0.mlp.linear_1.bias": 2,
        "encoder.layers.encoder_layer_0.mlp.linear_2.bias": 3,
        "layer1.0.conv1.weight": 4,
    }
    assert list(rename_tensors(tensors, RENAMED_TENSORS)) == [
        "features.denseblock1.denselayer2.norm1.weight",
        "features.denseblock1.denselayer2.conv2.weight",
        "encoder.layers.encoder_layer_0.mlp.0.bias",
        "encoder.layers.encoder_layer_0.mlp.3.bias",
        "layer1.0.conv1.weight",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "shufflenet_v2_x1"}, "no image model 'shufflenet_v2_x1'; did you mean"),
        ({"model": "r2plus1d_18"}, "no image model 'r2plus1d_18'"),
        ({"model": "mnasnet1_0"}, "cannot be read from safetensors; use timm's"),
        ({"model": MODEL, "weights": "IMAGENET"}, "no weights 'IMAGENET' for shufflenet_v2_x0_5"),
        ({"model": "squeezenet1_1", "size": 16}, r"vision.size = 16: .* cannot encode frames"),
        ({"model": "maxvit_t", "size": 100}, r"vision.size = 100: .* leave size out"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(UsageFault, match=message):
        TorchVision(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("model", SMALL_MODELS)
def test_the_classifier_of_every_model_is_removed(model):
    settings = {"aux_logits": False, "init_weights": False}
    is_inception = model in ("googlenet", "inception_v3")
    device = "cpu" if model.startswith("regnet") else "meta"  # the widths of RegNets are tensors
    with torch.device(device):
        whole = models.get_model(model, weights=None, **(settings if is_inception else {}))
    listed = models.get_model_weights(model).DEFAULT
    empty = whole.eval().to("meta")
    side = getattr(whole, "image_size", listed.transforms().crop_size[0])
    width = remove_classifier(empty)
    assert empty(torch.empty(2, 3, side, side, device="meta")).shape == (2, width)


def test_a_kit_chooses_a_tower_of_torchvision():
    toy = toys.model(vision="torchvision")
    batch = toys.batch()
    torch.testing.assert_close(toy.logits(toys.pad(batch, 3, 2)), toy.logits(batch))
