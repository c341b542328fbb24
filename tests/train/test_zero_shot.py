"""Zero-shot members: the vectors of prompts and frames are those of the original library."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toys
from safetensors.torch import save_file
from transformers import (
    BertTokenizerFast,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessor,
    ChineseCLIPModel,
)

from wbdc.core.batch import Batch
from wbdc.core.errors import EnvironmentFault, UsageFault
from wbdc.serve.engine import InferenceEngine
from wbdc.serve.member_parts.class_vectors import class_cosines
from wbdc.serve.members import Member, load_member
from wbdc.serve.openvino_function import OpenVinoFunction, is_openvino_installed
from wbdc.train.estimator_parts.prompt_vectors import prompt_vectors
from wbdc.train.estimators import FittedMember, LabeledVideos
from wbdc.train.estimators.zero_shot import PROMPT_TEMPLATES, ZeroShot

NAME = "toys/chinese-clip"
VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"一张的照片视频截图段关于短与有图。美食运动",
]


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """A small Chinese-CLIP that transformers saved, with its tokenizer."""
    monkeypatch.setenv("WBDC_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "weights" / NAME
    torch.manual_seed(0)
    whole = ChineseCLIPModel(ChineseCLIPConfig(**toys.CHINESE_CLIP_CONFIG)).eval()
    whole.save_pretrained(folder)
    squashed = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
    ChineseCLIPImageProcessor(**squashed).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return whole, folder


def build(**settings) -> ZeroShot:
    return ZeroShot(["title"], model=NAME, weights="transformers", frames=2, **settings)


def videos(count: int = 4) -> LabeledVideos:
    return LabeledVideos(
        [{"title": ""}] * count,
        np.arange(count) % 2,
        np.zeros(count, int),
        2,
        lambda key: iter(()),
        ("0001", "0002"),
    )


def text_vectors(whole, folder, prompts) -> torch.Tensor:
    tokens = BertTokenizerFast.from_pretrained(folder)(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = whole.text_model(**tokens).last_hidden_state[:, 0]
        return F.normalize(whole.text_projection(hidden), dim=-1)


def test_a_class_is_the_mean_of_its_prompts_in_the_text_tower(clip):
    whole, folder = clip
    names = {"0001": "美食", "0002": "运动"}
    vectors, scale = build(names=names).class_vectors(list(names.values()))
    for row, name in zip(vectors, names.values(), strict=True):
        prompts = [template.replace("{}", name) for template in PROMPT_TEMPLATES["zh"]]
        expected = F.normalize(text_vectors(whole, folder, prompts).mean(0), dim=-1)
        torch.testing.assert_close(row, expected)
    assert scale == pytest.approx(whole.logit_scale.exp().item())
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-6)


def save_member(folder: Path, fitted: FittedMember) -> Path:
    """Save a member of two classes; return its folder."""
    folder.mkdir()
    save_file(
        {n: torch.from_numpy(a) for n, a in fitted.tensors.items()}, folder / "model.safetensors"
    )
    facts = {"member": "zero_shot", "classes": ["0001", "0002"], **fitted.facts}
    toys.publish_json(folder / "model.json", facts | {"serve": {"batch": 2, "precision": "fp32"}})
    return folder


def frames_and_batch(member: Member) -> tuple[list[np.ndarray], Batch]:
    """Return the pixels of three videos, and their batch."""
    frames = [np.random.default_rng(i).integers(0, 256, (i, 3, 32, 32), np.uint8) for i in range(3)]
    return frames, member.collate(["a", "b", "c"], member.encode_text([{}] * 3), frames)


def test_a_fitted_member_serves_the_scaled_cosines_of_frames_and_classes(clip, tmp_path):
    whole, _ = clip
    fitted = build(names={"0001": "美食", "0002": "运动"}).fit(videos(), 0)
    assert fitted.pretrained["vision"]["name"] == NAME
    folder = save_member(tmp_path / "fold-0", fitted)
    member = load_member(folder)
    frames, batch = frames_and_batch(member)
    with torch.no_grad():
        logits = member.logits(batch, None)
        assert torch.equal(member.logits(batch, member.encode(batch)), logits)
        for row, pixels in zip(logits, frames, strict=True):
            if not len(pixels):
                assert not row.any(), "no frames, no opinion"
                continue
            inputs = member.vision.normalize(torch.from_numpy(pixels))
            vectors = whole.visual_projection(whole.vision_model(inputs).pooler_output)
            mean = F.normalize(F.normalize(vectors, dim=-1).mean(0), dim=-1)
            expected = fitted.facts["scale"] * member.class_vectors @ mean
            torch.testing.assert_close(row, expected, rtol=1e-3, atol=1e-3)
    assert load_member(folder, frames=1).frame_key.frames == 1


@pytest.mark.skipif(
    not is_openvino_installed(), reason="OpenVINO is not installed: pip install 'wbdc[openvino]'"
)
def test_openvino_computes_the_tower_which_members_share(clip, tmp_path):
    fitted = build(names={"0001": "美食", "0002": "运动"}).fit(videos(), 0)
    folders = [save_member(tmp_path / name, fitted) for name in ("fold-0", "fold-1")]
    cpu = torch.device("cpu")
    one, other = InferenceEngine(folders, [1.0, 1.0], cpu, torch.float32, 1, True).members
    assert isinstance(one.vision.encode_part, OpenVinoFunction)
    assert one.vision.encode_part is other.vision.encode_part
    plain = load_member(folders[0])
    _, batch = frames_and_batch(plain)
    with torch.no_grad():
        torch.testing.assert_close(
            one.logits(batch, None), plain.logits(batch, None), rtol=1e-3, atol=1e-3
        )


def test_padding_does_not_change_the_cosines():
    features, classes = torch.randn(2, 3, 4), F.normalize(torch.randn(5, 4), dim=-1)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    noise = features.clone()
    noise[0, 2] = 99
    assert torch.equal(
        class_cosines(features, mask, classes, 10.0), class_cosines(noise, mask, classes, 10.0)
    )


def test_what_cannot_be_described_is_refused(clip):
    _, folder = clip
    with pytest.raises(UsageFault, match="names describes '0003', and the data have no such class"):
        build(names={"0003": "美食"}).fit(videos(), 0)
    with pytest.raises(UsageFault, match="the template 'a photo' needs one {}"):
        build(templates=["a photo"])
    with pytest.raises(UsageFault, match="no language called 'fr'"):
        build(language="fr")
    for file in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink(missing_ok=True)
    with pytest.raises(EnvironmentFault, match="tokenizer of .* cannot be loaded"):
        prompt_vectors(NAME, "transformers", ["美食"])
