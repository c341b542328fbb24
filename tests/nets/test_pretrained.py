"""Pretrained weights: loaded models equal those of the original library; pickles are refused."""

import io
import json
import pickle
import shlex
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
import toys
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessor,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
)

from wbdc.core.errors import EnvironmentFault, IntegrityFault, UsageFault
from wbdc.core.findings import Findings
from wbdc.core.tokens import Tokens
from wbdc.core.weights import describe_weights, file_checksums
from wbdc.data.frames import decode_frame
from wbdc.nets.trunk import Trunk, find_trunk, load_trunk, read_architecture
from wbdc.nets.vision.clip import Clip
from wbdc.nets.vision.timm import Timm

TOWER = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 32}
WORDS = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
OPENAI = {
    "mean": open_clip.OPENAI_DATASET_MEAN,
    "std": open_clip.OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "quick_gelu": True,
    "hf_hub": "toys/clip/",
}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """The folder of pretrained weights."""
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path


# ---- the trunk

TRUNKS = {"bert": {}, "electra": {"embedding_size": 16}, "electra narrow": {"embedding_size": 8}}


def _trained(kind: str, auto: type, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return auto.from_config(
        AutoConfig.for_model(kind.split()[0], **toys.BERT_CONFIG, **TRUNKS[kind])
    ).eval()


def _loaded(model: str) -> tuple[Trunk, list[str]]:
    folder = find_trunk(model)
    trunk = Trunk(read_architecture(folder)).eval()
    return trunk, load_trunk(trunk, folder)


def _ids() -> tuple[torch.Tensor, torch.Tensor]:
    batch = toys.batch()
    return batch.text, batch.text_mask


@pytest.mark.parametrize("kind", TRUNKS)
@pytest.mark.parametrize("auto", [AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining])
def test_a_trunk_equals_the_model_of_transformers(kind, auto, weights):
    whole = _trained(kind, auto)
    whole.save_pretrained(weights / "toys" / "macbert")
    trunk, unused = _loaded("toys/macbert")
    encoder = whole if auto is AutoModel else whole.base_model
    ids, mask = _ids()
    with torch.no_grad():
        encoded, expected = (
            trunk(Tokens(trunk.embed(ids), mask)).x,
            encoder(ids, attention_mask=mask.long()).last_hidden_state,
        )
    torch.testing.assert_close(encoded[mask], expected[mask])
    assert set(unused) == {
        n
        for n in load_file(weights / "toys/macbert/model.safetensors")
        if not any(n.endswith(name) for name in trunk.state_dict())
    }


def test_a_checkpoint_with_the_names_of_the_first_bert_is_loaded(weights):
    whole = _trained("bert", AutoModelForPreTraining)
    whole.save_pretrained(weights / "old")
    file = weights / "old" / "model.safetensors"
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): t
        for n, t in load_file(file).items()
    }
    assert any(n.endswith("gamma") for n in old)
    save_file(old | {"bert.embeddings.position_ids": torch.arange(64)}, file)
    trunk, unused = _loaded("old")
    ids, mask = _ids()
    with torch.no_grad():
        torch.testing.assert_close(
            trunk(Tokens(trunk.embed(ids), mask)).x[mask],
            whole.bert(ids, attention_mask=mask.long()).last_hidden_state[mask],
        )
    assert "bert.embeddings.position_ids" in unused
    assert "bert.pooler.dense.weight" in unused


def test_trap_15_a_checkpoint_that_lacks_a_tensor_is_refused_by_name(weights):
    _trained("bert", AutoModel).save_pretrained(weights / "torn")
    file = weights / "torn" / "model.safetensors"
    save_file(
        {n: t for n, t in load_file(file).items() if n != "encoder.layer.1.output.dense.bias"}, file
    )
    with pytest.raises(IntegrityFault, match="encoder.layer.1.output.dense.bias"):
        _loaded("torn")


def test_a_family_that_is_not_supported_is_refused():
    with pytest.raises(UsageFault, match="of the type 'gpt2' are not supported; .* types bert, "):
        Trunk({"model_type": "gpt2", "vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2})


# ---- pictures


def _picture(width: int = 71, height: int = 48) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ).resize((3 * width, 3 * height))


def _normalized_pixels(picture: Image.Image, tower: Clip | Timm) -> torch.Tensor:
    """Return an image as the pipeline passes it to the tower."""
    stored = io.BytesIO()
    picture.save(stored, "PNG")
    pixels = decode_frame(stored.getvalue(), tower.image_settings, Findings())
    return tower.normalize(torch.from_numpy(pixels)[None])


@pytest.fixture
def toy_clip(weights, monkeypatch):
    """A small CLIP that open_clip lists; yields a function that makes it, saves its weights, and
    returns it.
    """
    configs = open_clip.factory._MODEL_CONFIGS

    def make(**settings: object) -> torch.nn.Module:
        monkeypatch.setitem(
            configs, "ViT-toy", {"embed_dim": 8, "vision_cfg": TOWER, "text_cfg": WORDS}
        )
        monkeypatch.setitem(
            open_clip.pretrained._PRETRAINED, "ViT-toy", {"openai": {**OPENAI, **settings}}
        )
        torch.manual_seed(0)
        whole = open_clip.create_model(
            "ViT-toy", force_quick_gelu=settings.get("quick_gelu", True)
        ).eval()
        (weights / "toys/clip").mkdir(parents=True, exist_ok=True)
        save_file(whole.state_dict(), weights / "toys/clip/open_clip_model.safetensors")
        return whole

    return make


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_a_clip_tower_equals_the_model_of_open_clip(toy_clip, quick_gelu):
    whole = toy_clip(quick_gelu=quick_gelu)
    tower = Clip(model="ViT-toy", weights="openai").eval()
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(tower.encode(pixels), whole.encode_image(pixels))
    assert "tensors loaded" in tower.loaded
    assert "the text tower" in tower.loaded


@pytest.mark.parametrize("size", [(71, 48), (48, 71), (40, 40), (32, 32), (20, 25)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_trap_10_the_transform_of_a_clip_tower_equals_open_clips(toy_clip, size, interpolation):
    toy_clip(interpolation=interpolation)
    tower, picture = Clip(model="ViT-toy", weights="openai"), _picture(*size)
    expected = open_clip.image_transform(
        32, is_train=False, mean=OPENAI["mean"], std=OPENAI["std"], interpolation=interpolation
    )(picture)
    torch.testing.assert_close(_normalized_pixels(picture, tower)[0], expected, rtol=0, atol=1e-6)


def test_trap_10_the_image_settings_is_saved_with_the_weights(toy_clip):
    toy_clip()
    tower = Clip(model="ViT-toy", weights="openai")
    assert (tower.image_settings.size, tower.image_settings.mean, tower.image_settings.std) == (
        32,
        OPENAI["mean"],
        OPENAI["std"],
    )
    assert tower.image_settings.mean != timm.data.IMAGENET_DEFAULT_MEAN
    saved = tower.blueprint()
    assert saved["image"] == {
        "size": 32,
        "mean": OPENAI["mean"],
        "std": OPENAI["std"],
        "interpolation": "bicubic",
    }
    reloaded = Clip(**{k: v for k, v in saved.items() if k != "use"}).eval()
    reloaded.load_state_dict(tower.state_dict())
    pixels = torch.randint(0, 256, (1, 2, 3, 32, 32), dtype=torch.uint8)
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert torch.equal(reloaded(pixels, mask).x, tower.eval()(pixels, mask).x)


def test_trap_10_a_clip_trained_on_squashed_images_gets_squashed_images(toy_clip):
    toy_clip(resize_mode="squash")
    tower = Clip(model="ViT-toy", weights="openai")
    picture = _picture()
    transform = open_clip.image_transform(
        32, is_train=False, mean=OPENAI["mean"], std=OPENAI["std"], resize_mode="squash"
    )
    pixels = _normalized_pixels(picture, tower)[0]
    torch.testing.assert_close(pixels, transform(picture), rtol=0, atol=1e-6)
    assert tower.blueprint()["image"]["squash"] is True


def test_a_clip_trained_on_padded_images_is_refused(toy_clip):
    toy_clip(resize_mode="longest")
    with pytest.raises(UsageFault, match="'openai' of ViT-toy .* resized by 'longest'"):
        Clip(model="ViT-toy", weights="openai")


def test_every_model_of_open_clip_has_a_transform_or_an_error():
    """All of (model, weights): size, mean and std are those of open_clip's own record."""
    from wbdc.nets.vision.clip import find_listed

    for model, tag in [
        ("ViT-B-32", "openai"),
        ("RN50", "openai"),
        ("ViT-B-16", "laion2b_s34b_b88k"),
        ("convnext_base", "laion400m_s13b_b51k"),
    ]:
        _, image, hub_name = find_listed(model, tag)
        assert image["mean"] == open_clip.OPENAI_DATASET_MEAN
        assert image["size"] == 224
        assert hub_name
    for wrong, message in (
        (("ViT-B-31", "openai"), "did you mean 'ViT-B-32'"),
        (("ViT-B-32", "openay"), "did you mean 'openai'"),
    ):
        with pytest.raises(UsageFault, match=message):
            find_listed(*wrong)


@pytest.mark.parametrize(
    "settings",
    [{}, {"model": "a", "architecture": {}}, {"model": "ViT-B-32"}, {"architecture": toys.VIT}],
)
def test_incomplete_clip_settings_are_refused(settings):
    with pytest.raises(UsageFault, match="either model and weights, or architecture and image"):
        Clip(**settings)


@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "test_vit.r160_in1k"])
def test_a_timm_tower_equals_the_model_of_timm(name, weights):
    torch.manual_seed(0)
    whole = timm.create_model(name, pretrained=False).eval()
    (weights / "timm" / name).mkdir(parents=True)
    save_file(whole.state_dict(), weights / "timm" / name / "model.safetensors")
    tower = Timm(model=name).eval()
    pixels = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(
            tower.encode(pixels),
            whole.forward_head(whole.forward_features(pixels), pre_logits=True),
        )
    assert "2 not used" in tower.loaded


def test_trap_10_the_saved_transform_of_a_timm_tower_outlives_timms_list(monkeypatch):
    tower = Timm(model="test_vit", pretrained=False)
    wants = timm.data.resolve_model_data_config(tower.tower)
    assert (tower.image_settings.size, tower.image_settings.mean, tower.image_settings.std) == (
        wants["input_size"][-1],
        wants["mean"],
        wants["std"],
    )
    saved = {k: v for k, v in tower.blueprint().items() if k != "use"}
    monkeypatch.setattr(
        "timm.data.resolve_model_data_config",
        lambda model: {**wants, "mean": (0.1, 0.1, 0.1), "interpolation": "bilinear"},
    )
    assert (
        Timm(**saved).image_settings
        == tower.image_settings
        != Timm(model="test_vit", pretrained=False).image_settings
    )


def test_the_way_to_resize_is_saved_with_the_weights(toy_clip):
    toy_clip()
    for tower in (
        Clip(model="ViT-toy", weights="openai", resize="fast"),
        Timm(model="test_vit", pretrained=False, resize="fast"),
    ):
        saved = {k: v for k, v in tower.blueprint().items() if k != "use"}
        assert saved["image"]["resize"] == "fast"
        assert type(tower)(**saved).image_settings == tower.image_settings
        assert type(tower)(**saved, resize="exact").image_settings.resize == "exact"
    with pytest.raises(UsageFault, match="resize = 'quick' is unknown"):
        Timm(model="test_vit", pretrained=False, resize="quick")


def test_an_unknown_timm_model_is_refused_with_a_hint():
    with pytest.raises(UsageFault, match="did you mean 'test_resnet'"):
        Timm(model="test_resnit", pretrained=False)


# ---- what people download


SMALL_VISION = {
    "hidden_size": 16,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
SMALL_TEXT = {**toys.BERT_CONFIG, "bos_token_id": 1, "eos_token_id": 2}
CROPPED = {"size": 40, "crop_size": {"height": 32, "width": 32}, "resample": 3}
SQUASHED = {"size": {"height": 32, "width": 32}, "do_center_crop": False, "resample": 2}
TRANSFORMERS_CLIPS = {
    "clip": (CLIPModel, CLIPConfig, CLIPImageProcessor, {"hidden_act": "quick_gelu"}, CROPPED),
    "gelu": (CLIPModel, CLIPConfig, CLIPImageProcessor, {"hidden_act": "gelu"}, CROPPED),
    "chinese": (ChineseCLIPModel, ChineseCLIPConfig, ChineseCLIPImageProcessor, {}, SQUASHED),
}


def _saved_clip(kind: str, folder: Path) -> torch.nn.Module:
    """Save a small CLIP with transformers."""
    model_class, config_class, processor_class, activation, image = TRANSFORMERS_CLIPS[kind]
    torch.manual_seed(0)
    config = config_class(
        text_config=SMALL_TEXT, vision_config=SMALL_VISION | activation, projection_dim=12
    )
    whole = model_class(config).eval()
    whole.save_pretrained(folder)
    processor_class(**image).save_pretrained(folder)
    return whole


@pytest.mark.parametrize("kind", TRANSFORMERS_CLIPS)
def test_a_clip_of_transformers_encodes_pictures_as_transformers_does(kind, weights):
    whole = _saved_clip(kind, weights / "toys/clip")
    tower = Clip(model="toys/clip", weights="transformers").eval()
    # margins of whole pixels: transformers rounds down where torchvision rounds half to even
    picture = _picture(72, 48)
    processor_class, image = TRANSFORMERS_CLIPS[kind][2], TRANSFORMERS_CLIPS[kind][4]
    inputs = processor_class(**image)(picture, return_tensors="pt")["pixel_values"]
    pixels = _normalized_pixels(picture, tower)
    torch.testing.assert_close(pixels, inputs, rtol=0, atol=0.03)  # one of 255 gray levels
    with torch.no_grad():
        expected = whole.visual_projection(whole.vision_model(inputs).pooler_output)
        torch.testing.assert_close(tower.encode(inputs), expected)
    assert tower.pretrained["name"] == "toys/clip"
    rebuilt = Clip(**{k: v for k, v in tower.blueprint().items() if k != "use"}).eval()
    rebuilt.load_state_dict(tower.state_dict(), strict=True)
    assert torch.equal(rebuilt.encode(inputs), tower.encode(inputs))
    assert rebuilt.image_settings == tower.image_settings


def test_the_layout_of_transformers_is_read_under_a_name_of_open_clip(toy_clip, weights):
    whole = toy_clip()
    tower = {**SMALL_VISION, "hidden_act": "quick_gelu", "intermediate_size": 64}
    config = CLIPConfig(text_config=SMALL_TEXT, vision_config=tower, projection_dim=8)
    other = CLIPModel(config).eval()
    (weights / "toys/clip/open_clip_model.safetensors").unlink()
    other.save_pretrained(weights / "toys/clip")
    loaded = Clip(model="ViT-toy", weights="openai").eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = other.visual_projection(other.vision_model(pixels).pooler_output)
        torch.testing.assert_close(loaded.encode(pixels), expected)
        assert not torch.allclose(whole.encode_image(pixels), expected)


def test_a_chinese_clip_under_the_name_of_another_model_is_refused(toy_clip, weights):
    toy_clip()
    (weights / "toys/clip/open_clip_model.safetensors").unlink()
    _saved_clip("chinese", weights / "toys/clip")
    with pytest.raises(IntegrityFault, match="is a Chinese-CLIP and not ViT-toy openai; move it"):
        Clip(model="ViT-toy", weights="openai")


def test_trap_15_a_clip_of_transformers_that_lacks_a_tensor_is_refused_by_name(weights):
    _saved_clip("clip", weights / "toys/clip")
    file = weights / "toys/clip/model.safetensors"
    lost = "vision_model.encoder.layers.1.mlp.fc1.bias"
    save_file({n: t for n, t in load_file(file).items() if n != lost}, file)
    with pytest.raises(IntegrityFault, match=f"lacks the tensor {lost}"):
        Clip(model="toys/clip", weights="transformers")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("preprocessor_config.json", {"resample": 1}, "resample = 1 of the image processor"),
        ("preprocessor_config.json", None, "holds no preprocessor_config.json; download it"),
        ("config.json", {"vision_config": {"hidden_act": "relu"}}, "gelu, with .*, not relu"),
    ],
)
def test_what_a_clip_of_transformers_cannot_be_read_with_is_named(weights, file, change, message):
    _saved_clip("clip", weights / "toys/clip")
    path = weights / "toys/clip" / file
    if change is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises((EnvironmentFault, UsageFault), match=message):
        Clip(model="toys/clip", weights="transformers")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("openai/clip-vit-base-patch32", "model = 'ViT-B-32', weights = 'openai'$"),
        ("OFA-Sys/chinese-clip-vit-base-patch16", "open_clip's names: for example"),
    ],
)
def test_a_name_of_hugging_face_gets_the_name_of_open_clip(model, message):
    with pytest.raises(UsageFault, match=message) as caught:
        Clip(model=model, weights="openai")
    assert len(str(caught.value)) < 250


def test_an_unknown_model_gets_a_short_list_of_names():
    with pytest.raises(UsageFault, match="and [0-9,]+ more$") as caught:
        Timm(model="qqq", pretrained=False)
    assert len(str(caught.value)) < 1000


def test_the_error_for_a_missing_trunk_names_all_files(weights, monkeypatch):
    with pytest.raises(
        EnvironmentFault,
        match="put model.safetensors, config.json, vocab.txt or tokenizer.json of .* "
        f"into {weights}/toys/macbert",
    ):
        find_trunk("toys/macbert")
    (weights / "toys/macbert").mkdir(parents=True)
    (weights / "toys/macbert/model.safetensors").touch()
    with pytest.raises(EnvironmentFault, match="holds model.safetensors and no config.json"):
        find_trunk("toys/macbert")
    monkeypatch.delenv("WBDC_WEIGHTS")
    with pytest.raises(
        EnvironmentFault, match="into FOLDER/toys/macbert and give --weights FOLDER"
    ):
        find_trunk("toys/macbert")


@pytest.mark.slow
def test_the_command_that_converts_a_pickle_works_as_printed(weights):
    folder = weights / "toys" / "macbert"
    _trained("bert", AutoModel).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(
        tensors | {"tied": tensors["embeddings.word_embeddings.weight"]},
        folder / "pytorch_model.bin",
    )
    with pytest.raises(EnvironmentFault, match="is a pickle") as caught:
        find_trunk("toys/macbert")
    command = shlex.split(str(caught.value).split("convert it once: ")[1])
    assert command[0] == "wbdc"
    result = toys.wbdc(*command[1:], "--license", "mit", "--source", "https://example.org")
    assert result.exit_code == 0, result.stderr
    _loaded("toys/macbert")
    record = toys.run_json(*command[1:])
    assert record["license"] == "mit", "a repeated command keeps what was recorded"
    assert record["converted_from"] == file_checksums(folder / "pytorch_model.bin")
    assert describe_weights("toys/macbert", folder / "model.safetensors")["license"] == "mit"


# ---- what is never loaded

ASKS = {
    "trunk": ("toys/macbert", lambda: find_trunk("toys/macbert")),
    "clip": (
        "timm/vit_base_patch32_clip_224.openai",
        lambda: Clip(model="ViT-B-32", weights="openai"),
    ),
    "timm": ("timm/test_vit.r160_in1k", lambda: Timm(model="test_vit.r160_in1k")),
}


class Payload:
    """What a hostile pickle does when it is opened."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("kind", ASKS)
def test_a_pickle_is_refused_and_its_payload_never_runs(kind, weights, tmp_path):
    name, ask = ASKS[kind]
    (weights / name).mkdir(parents=True)
    for file in ("pytorch_model.bin", "open_clip_pytorch_model.bin"):
        (weights / name / file).write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(
        EnvironmentFault,
        match="is a pickle, which training never opens; convert it once: wbdc weights",
    ):
        ask()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ASKS)
def test_missing_weights_are_never_replaced_by_random_ones(kind, weights):
    name, ask = ASKS[kind]
    with pytest.raises(
        EnvironmentFault,
        match=rf"the weights '{name}' are not on this machine: "
        rf"put .*safetensors.* into {weights}.*--tiny",
    ):
        ask()
