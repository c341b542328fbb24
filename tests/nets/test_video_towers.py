"""Video towers: clips in training and serving, and the models of torchvision."""

from dataclasses import replace

import pytest
import torch
import toys
from safetensors.torch import save_file
from torchvision import models

from wbdc.core.errors import EnvironmentFault, IntegrityFault, UsageFault
from wbdc.core.item_random import item_seeds
from wbdc.nets.vision.torchvision_video import FEATURE_FUNCTIONS, TorchvisionVideo

LARGE = ("mvit_v1_b", "swin3d_b", "swin3d_s")
SHAPES = {  # steps of a clip of 16 frames, and width
    "mc3_18": (16, 512),
    "mvit_v1_b": (8, 768),
    "mvit_v2_s": (8, 768),
    "r2plus1d_18": (2, 512),
    "r3d_18": (2, 512),
    "s3d": (2, 1024),
    "swin3d_b": (8, 1024),
    "swin3d_s": (8, 768),
    "swin3d_t": (8, 768),
}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """The folder of pretrained weights."""
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path


def video_model() -> torch.nn.Module:
    """A model whose tower reads four frames of a video and takes clips of three."""
    return toys.model(vision="torchvision_video")


def test_training_samples_at_random_by_epoch_and_serving_in_the_middle():
    model = video_model()
    batch = toys.batch((4, 4, 4))
    next_epoch = replace(batch, seeds=item_seeds(batch.ids, 1, 1))
    clips = []
    model.vision.tower.stem.register_forward_pre_hook(lambda m, args: clips.append(args[0]))

    model.train().encode(batch)
    model.encode(batch)
    model.encode(next_epoch)
    assert torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])

    model.eval().encode(replace(batch, seeds=None))
    middle = model.vision.normalize(batch.frames[:, [0, 2, 3]]).transpose(1, 2)
    assert torch.equal(clips[3], middle)
    model.vision.frozen = True
    model.train().encode(batch)
    assert torch.equal(clips[4], middle), "a frozen tower is cached, so it never samples at random"


def test_a_video_without_frames_has_no_vectors_and_others_have_those_of_a_clip():
    model = video_model()
    encoded = model.encode(toys.batch((3, 0, 4, 1)))
    assert encoded.frame_counts == (3, 0, 3, 3)
    assert encoded.frame_mask.tolist() == [[True] * 3, [False] * 3, [True] * 3, [True] * 3]
    assert not encoded.frames[1].any()
    assert encoded.frames.shape == (4, 3, 512)


def test_fewer_frames_in_serving_shorten_the_clip():
    model = video_model()
    model.vision.serve_frames(2)
    assert (model.vision.frames, model.vision.clip_frames, model.vision.steps) == (2, 2, 2)
    assert model.encode(toys.batch((2, 1))).frames.shape[1] == 2
    model = video_model()
    model.vision.serve_frames(3)
    assert model.vision.clip_frames == 3


def test_a_patch_grid_gives_its_cells_for_each_step():
    tower = TorchvisionVideo(model="mc3_18", frames=2, size=32, patch_grid=2).eval()
    whole = TorchvisionVideo(model="mc3_18", frames=2, size=32).eval()
    whole.tower.load_state_dict(tower.tower.state_dict())
    batch = toys.batch((2, 1))
    cells = tower(batch.frames, batch.frame_mask).x
    means = whole(batch.frames, batch.frame_mask).x
    assert cells.shape == (2, 8, 512)
    torch.testing.assert_close(cells.unflatten(1, (2, 4)).mean(2), means)
    with pytest.raises(UsageFault, match=r"patch_grid = 3; mc3_18 has 2 x 2 patches"):
        TorchvisionVideo(model="mc3_18", frames=2, size=32, patch_grid=3)


# ---- torchvision


@pytest.mark.parametrize(
    "model", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in SHAPES]
)
def test_every_video_model_of_torchvision_has_its_published_size(model):
    with torch.device("meta"):
        tower = TorchvisionVideo(model=model)
        whole = models.get_model(model)
    listed = models.get_model_weights(model).DEFAULT.meta["num_params"]
    classifier = next(getattr(whole, n) for n in ("fc", "classifier", "head") if hasattr(whole, n))
    count = sum(p.numel() for m in (tower, classifier) for p in m.parameters())
    assert count == listed
    assert (tower.clip_steps, tower.dim) == SHAPES[model]


def test_no_video_model_of_torchvision_is_missing():
    assert sorted(SHAPES) == models.list_models(models.video)


SMALL = {
    "swin3d": lambda: models.video.SwinTransformer3d([2, 4, 4], 8, [1, 1], [2, 2], [2, 3, 3]),
    "s3d": lambda: models.video.S3D(),
}


@pytest.mark.parametrize("family", ["swin3d", pytest.param("s3d", marks=pytest.mark.slow)])
def test_features_are_those_before_the_classifier(family):
    torch.manual_seed(0)
    whole = SMALL[family]().eval()
    side = 224 if family == "s3d" else 16
    clips = torch.randn(1, 3, 16 if family == "s3d" else 4, side, side)
    with torch.no_grad():
        features = FEATURE_FUNCTIONS[family](whole, clips)
        classifier = whole.classifier if family == "s3d" else whole.head
        mean = features.mean((1, 2, 3))
        logits = classifier(mean[..., None, None, None] if family == "s3d" else mean)
        torch.testing.assert_close(logits.flatten(1), whole(clips))


def test_patches_of_an_mvit_are_those_beside_its_class_token():
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    block = MSBlockConfig(2, 8, 8, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1])
    torch.manual_seed(0)
    whole = MViT((16, 16), 4, [block, block], False, False, True, True).eval()
    whole.head = torch.nn.Identity()
    clips = torch.randn(2, 3, 4, 16, 16)
    tokens = []
    whole.norm.register_forward_hook(lambda module, args, output: tokens.append(output))
    with torch.no_grad():
        whole(clips)
        features = FEATURE_FUNCTIONS["mvit"](whole, clips)
    assert features.shape == (2, 2, 1, 1, 8)
    torch.testing.assert_close(features.flatten(1, 3), tokens[0][:, 1:])


def test_published_weights_give_the_logits_of_torchvision(weights):
    torch.manual_seed(0)
    whole = models.get_model("mc3_18").eval()
    folder = weights / "torchvision" / "mc3_18.KINETICS400_V1"
    folder.mkdir(parents=True)
    save_file(whole.state_dict(), folder / "model.safetensors")
    tower = TorchvisionVideo(model="mc3_18", weights="KINETICS400_V1", frames=4, size=32).eval()
    batch = toys.batch((4, 4))
    with torch.no_grad():
        vectors = tower(batch.frames, batch.frame_mask).x.mean(1)
        expected = whole(tower.normalize(batch.frames).transpose(1, 2))
        torch.testing.assert_close(whole.fc(vectors), expected)
    assert tower.loaded == (
        "mc3_18.KINETICS400_V1 from model.safetensors: 120 tensors loaded, 2 not used "
        "(its classifier)"
    )
    assert tower.pretrained["link"].endswith("mc3_18-a90a0ba3.pth")

    torn = {n: t for n, t in whole.state_dict().items() if n != "layer4.1.conv2.0.weight"}
    save_file(torn, folder / "model.safetensors")
    with pytest.raises(IntegrityFault, match="lacks 1 of 120 tensors: layer4.1.conv2.0.weight"):
        TorchvisionVideo(model="mc3_18", weights="KINETICS400_V1", frames=4)


def test_what_torchvision_lacks_is_refused(weights):
    for settings, message in {
        ("r3d_81", None): "torchvision has no video model 'r3d_81'; did you mean 'r3d_18'",
        ("r3d_18", "KINETICS_V1"): "no weights 'KINETICS_V1' for r3d_18; did you mean",
    }.items():
        with pytest.raises(UsageFault, match=message):
            TorchvisionVideo(model=settings[0], weights=settings[1])
    with pytest.raises(EnvironmentFault, match="'torchvision/mc3_18.KINETICS400_V1' are not on"):
        TorchvisionVideo(model="mc3_18", weights="KINETICS400_V1")


def test_clips_that_a_model_cannot_take_are_refused():
    with torch.device("meta"):
        with pytest.raises(UsageFault, match="mvit_v2_s takes clips of 16 frames of 224 x 224"):
            TorchvisionVideo(model="mvit_v2_s", segments=8)
        with pytest.raises(UsageFault, match="s3d cannot encode a clip of 2 frames of 224 x 224"):
            TorchvisionVideo(model="s3d", frames=2)
        with pytest.raises(UsageFault, match="vision.segments = 33; it must be between 1 and 32"):
            TorchvisionVideo(model="mc3_18", segments=33)
