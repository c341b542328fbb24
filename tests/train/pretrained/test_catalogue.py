"""The list of weights names what saved each file, and a setting that a kit can use."""

import json

import open_clip
import pytest
import timm
import torch
import toys
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
)

from wbdc.train.pretrained.catalogue import list_weights
from wbdc.train.pretrained.layouts import layout_of_tensors

CLIP_TEXT = toys.BERT_CONFIG | {"bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with weights of every layout."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "models"
    with torch.device("cpu"):
        save = AutoModel.from_config(
            AutoConfig.for_model("bert", **toys.BERT_CONFIG)
        ).save_pretrained
        save(root / "hfl/bert")
        save(tmp_path / "cache/models--hfl--cached/snapshots/0a1b")
        clip = CLIPConfig(text_config=CLIP_TEXT, vision_config=toys.VIT_CONFIG, projection_dim=8)
        CLIPModel(clip).save_pretrained(root / "openai/clip")
        chinese = ChineseCLIPConfig(**toys.CHINESE_CLIP_CONFIG)
        ChineseCLIPModel(chinese).save_pretrained(root / "OFA-Sys/chinese-clip")
        AutoModel.from_config(
            AutoConfig.for_model("gpt2", vocab_size=50, n_embd=16, n_layer=1, n_head=2)
        ).save_pretrained(root / "gpt2")

    def write(folder: str, tensors: dict, file: str = "model.safetensors") -> None:
        (root / folder).mkdir(parents=True)
        save_file(tensors, root / folder / file)

    tower = open_clip.model._build_vision_tower(8, dict(toys.VIT["vision_cfg"]), True)
    tensors = {f"visual.{n}": t for n, t in tower.state_dict().items()}
    write("timm/vit_base_patch32_clip_224.openai", tensors, "open_clip_model.safetensors")
    write("mine/clip", tensors)
    write("timm/test_resnet.r160_in1k", timm.create_model("test_resnet").state_dict())
    write("mine/other", {"x": torch.zeros(1)})
    (root / "mine/pickled").mkdir()
    (root / "mine/pickled/pytorch_model.bin").write_bytes(b"pickle")
    (root / "mine/cut").mkdir()
    (root / "mine/cut/model.safetensors").write_bytes(b"cut")
    return root


EXPECTED = {
    "hfl/bert": ("transformers bert", 'trunk.model = "hfl/bert"'),
    "hfl/cached": ("transformers bert", 'trunk.model = "hfl/cached"'),
    "openai/clip": (
        "transformers CLIP",
        'vision = { use = "clip", model = "openai/clip", weights = "transformers" }',
    ),
    "OFA-Sys/chinese-clip": (
        "transformers Chinese-CLIP",
        'vision = { use = "clip", model = "OFA-Sys/chinese-clip", weights = "transformers" }',
    ),
    "gpt2": ("transformers gpt2", "trunk: text models of the type 'gpt2' are not supported"),
    "timm/vit_base_patch32_clip_224.openai": (
        "open_clip",
        'vision = { use = "clip", model = "ViT-B-32", weights = "openai" }',
    ),
    "mine/clip": ("open_clip", "not in open_clip's list of weights"),
    "timm/test_resnet.r160_in1k": (
        "timm",
        'vision = { use = "timm", model = "test_resnet.r160_in1k" }',
    ),
    "mine/other": ("unknown", "its tensors are x, ...; is config.json missing?"),
    "mine/pickled": ("pickle", "wbdc weights convert"),
    "mine/cut": ("damaged", "download the file again"),
}


def test_every_layout_is_named_with_its_setting(root):
    installed = {entry.name: entry for entry in list_weights(root)}
    assert installed.keys() == EXPECTED.keys()
    for name, (layout, setting) in EXPECTED.items():
        assert installed[name].layout.name == layout
        assert setting in installed[name].layout.setting


def test_the_command_lists_files_and_licenses(root):
    file = root / "hfl/bert/model.safetensors"
    record = {"bytes": file.stat().st_size, "sha256": "0", "license": "mit", "source": None}
    file.with_name("model.record.json").write_text(json.dumps(record))
    listed = toys.run_json("weights", "list", "--weights", root)["weights"]
    assert {row["name"] for row in listed} == EXPECTED.keys()
    assert next(row for row in listed if row["name"] == "hfl/bert")["license"] == "mit"
    result = toys.wbdc("weights", "list", "--weights", root)
    assert 'hfl/bert model.safetensors: trunk.model = "hfl/bert"' in result.stdout
    assert "not recorded" in result.stdout


def test_no_weights_are_a_hint(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    monkeypatch.delenv("WBDC_WEIGHTS", raising=False)
    assert "`wbdc weights fetch NAME" in toys.wbdc("weights", "list").stdout


@pytest.mark.parametrize("tag", ["ViT-B-32 openai", "ViT-B-16 laion2b_s34b_b88k"])
def test_a_listed_setting_is_found_by_the_clip_tower(tag):
    from wbdc.nets.vision.clip import find_listed

    model, weights = tag.split()
    hub_name = find_listed(model, weights)[2]
    layout = layout_of_tensors({"visual.proj"}, {}, hub_name)
    assert find_listed(*[part.split('"')[1] for part in layout.setting.split("= ")[3:]])[2] == (
        hub_name
    )


def test_towers_of_sound_are_named():
    names = {"features.0.weight", "embeddings.0.weight", "embeddings.4.weight", "pproc.pca_means"}
    assert layout_of_tensors(names, {}, "vggish").setting == 'modality.NAME = { use = "vggish" }'
    facts = {"model_type": "audio-spectrogram-transformer"}
    setting = layout_of_tensors({"embeddings.cls_token"}, facts, "mit/ast").setting
    assert setting == 'modality.NAME = { use = "ast", model = "mit/ast" }'
