"""Video encoders of transformers: weights by their usual names, the order of patches, pixels."""

import json
from pathlib import Path

import pytest
import torch
import toys
import transformers
from safetensors.torch import load_file, save_file

from wbdc.core.errors import EnvironmentFault, IntegrityFault, UsageFault
from wbdc.nets.video_transformers import read_video_image
from wbdc.nets.vision.transformers_video import TransformersVideo

VJEPA = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "crop_size": 32,
    "patch_size": 16,
    "frames_per_clip": 4,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
    "num_pooler_layers": 1,
}
ARCHITECTURES = {
    "timesformer": {"model_type": "timesformer", **toys.VIDEO_VIT_CONFIG},
    "videomae": {
        "model_type": "videomae",
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
        **toys.VIDEO_VIT_CONFIG,
    },
    "vivit": {"model_type": "vivit", "tubelet_size": [2, 16, 16], **toys.VIDEO_VIT_CONFIG},
    "vjepa2": {"model_type": "vjepa2", **VJEPA},
}
PUBLISHED = [  # classes that save weights, with a classifier, a decoder or a predictor
    ("timesformer", "TimesformerForVideoClassification"),
    ("videomae", "VideoMAEForVideoClassification"),
    ("videomae", "VideoMAEForPreTraining"),
    ("vivit", "VivitForVideoClassification"),
    ("vjepa2", "VJEPA2Model"),
    ("vjepa2", "VJEPA2ForVideoClassification"),
]
PROCESSOR = {
    "size": {"shortest_edge": 36},
    "crop_size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """The folder of pretrained weights."""
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path


def save_published(folder: Path, model_type: str, class_name: str) -> torch.nn.Module:
    """Save a model with random weights as transformers does; return it."""
    torch.manual_seed(3)
    settings = {k: v for k, v in ARCHITECTURES[model_type].items() if k != "model_type"}
    config = transformers.AutoConfig.for_model(model_type, **settings)
    whole = getattr(transformers, class_name)(config).eval()
    with torch.no_grad():  # biases and positions are zeros at first
        for parameter in whole.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    whole.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return whole


@pytest.mark.parametrize(("model_type", "class_name"), PUBLISHED)
def test_published_weights_give_the_vectors_of_transformers(model_type, class_name, weights):
    whole = save_published(weights / "toys" / "video", model_type, class_name)
    tower = TransformersVideo(model="toys/video", frames=4).eval()
    batch = toys.batch((4, 4))
    encoder = whole if class_name == "VJEPA2Model" else whole.base_model
    encoder = encoder.encoder if model_type == "vjepa2" else encoder
    with torch.no_grad():
        vectors = tower(batch.frames, batch.frame_mask).x
        tokens = encoder(tower.normalize(batch.frames)).last_hidden_state
    first = 1 if model_type in ("timesformer", "vivit") else 0
    torch.testing.assert_close(vectors.mean(1), tokens[:, first:].mean(1))
    assert tower.image_settings.short == 36
    assert tower.image_settings.interpolation == "bilinear"
    assert tower.pretrained["name"] == "toys/video"
    again = TransformersVideo(**{k: v for k, v in tower.blueprint().items() if k != "use"})
    again.load_state_dict(tower.state_dict(), strict=True)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_trap_15_a_missing_tensor_is_refused_by_name(model_type, weights):
    class_name = next(name for kind, name in PUBLISHED if kind == model_type)
    save_published(weights / "torn", model_type, class_name)
    file = weights / "torn" / "model.safetensors"
    tensors = load_file(file)
    name = next(n for n in sorted(tensors) if "mlp" in n or "intermediate" in n)
    save_file({n: t for n, t in tensors.items() if n != name}, file, {"format": "pt"})
    with pytest.raises(IntegrityFault, match=r"torn lacks 1 of \d+ tensors: \S*layer"):
        TransformersVideo(model="torn")
    save_file({**tensors, name: tensors[name][..., :1].contiguous()}, file, {"format": "pt"})
    with pytest.raises(IntegrityFault, match=r"torn holds in another shape 1 of \d+ tensors"):
        TransformersVideo(model="torn")


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_vectors_of_a_step_and_a_cell_are_those_of_its_patch(model_type):
    """Without layers, a changed patch of a frame changes the vector at its place alone."""
    architecture = {**ARCHITECTURES[model_type], "num_hidden_layers": 0}
    tower = TransformersVideo(
        architecture=architecture, image=toys.IMAGE_SETTINGS, frames=4, patch_grid=2
    ).eval()
    frames = torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8)
    changed = frames.clone()
    changed[:, 2, :, 16:, :16] = 255  # the third cell of the third frame
    mask = torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        moved = (tower(changed, mask).x - tower(frames, mask).x).abs().amax(2)[0] > 1e-4
    step = 2 if tower.clip_steps == 4 else 1
    assert moved.nonzero().flatten().tolist() == [4 * step + 2]


def test_pixels_of_a_vivit_are_scaled_to_both_sides_of_zero(tmp_path):
    settings = {**PROCESSOR, "offset": True, "rescale_factor": 1 / 127.5}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    table = read_video_image(tmp_path)
    for mean, std, wanted_mean, wanted_std in zip(
        table["mean"], table["std"], PROCESSOR["image_mean"], PROCESSOR["image_std"], strict=True
    ):
        for value in (0, 100, 255):
            longhand = ((value / 127.5 - 1) - wanted_mean) / wanted_std
            assert (value / 255 - mean) / std == pytest.approx(longhand)


def test_what_does_not_fit_is_refused(weights):
    image = toys.IMAGE_SETTINGS
    cases = {
        "takes either model, or architecture": {},
        "type 'vivits' are not supported; did you mean 'vivit'": {
            "architecture": {"model_type": "vivits"}
        },
        "must be a multiple of 2": {"architecture": ARCHITECTURES["videomae"], "segments": 3},
        "videomae cannot encode a clip of 8 frames": {
            "architecture": ARCHITECTURES["videomae"],
            "segments": 8,
        },
        "takes frames of 64 x 64 pixels": {
            "architecture": {**ARCHITECTURES["vivit"], "image_size": 64}
        },
        "no vectors of each time": {
            "architecture": {**ARCHITECTURES["timesformer"], "attention_type": "space_only"}
        },
    }
    for message, settings in cases.items():
        with pytest.raises(UsageFault, match=message):
            TransformersVideo(image=image, **settings)
    with pytest.raises(EnvironmentFault, match="'MCG-NJU/videomae-base' are not on this machine"):
        TransformersVideo(model="MCG-NJU/videomae-base")
    (weights / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UsageFault, match="no image_mean and image_std; set vision.image"):
        read_video_image(weights)


def test_a_vjepa_takes_clips_of_any_even_length():
    tower = TransformersVideo(
        architecture=ARCHITECTURES["vjepa2"], image=toys.IMAGE_SETTINGS, frames=7
    )
    assert (tower.clip_frames, tower.clip_steps) == (6, 3)
    tower.serve_frames(5)
    assert (tower.frames, tower.clip_frames, tower.clip_steps) == (5, 4, 2)
    fixed = TransformersVideo(
        architecture=ARCHITECTURES["videomae"], image=toys.IMAGE_SETTINGS, frames=7
    )
    fixed.serve_frames(2)
    assert fixed.clip_frames == 4, "a model with fixed positions repeats frames"
